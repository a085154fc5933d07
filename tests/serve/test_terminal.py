"""The terminal chat: thinking apart from the answer, history kept, mistakes survived."""

import io
import sys
from pathlib import Path

import pytest
import torch

from openqwq.engine.engine import Engine, EngineLimits
from openqwq.model import checkpoint
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.serve.terminal import DIM, PLAIN, Chat, Writer, chat
from openqwq.text.stream import Delta
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import SamplingParams

TOKENIZER = Tokenizer.train(["hello"] * 9, 270)


def model() -> Qwen2:
    made = Qwen2(ModelConfig(TOKENIZER.vocab_size, 16, 32, 1, 2, 1, 8, tie_word_embeddings=True))
    made.initialise(torch.Generator().manual_seed(0), std=0.3)
    return made


def test_thinking_is_dimmed_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    writer = Writer(colour=True)
    writer.write([Delta("reasoning", "so"), Delta("reasoning", "..."), Delta("content", "42")])
    writer.end()
    assert capsys.readouterr().out == f"{DIM}so...{PLAIN}\n42\n"
    assert writer.content == "42"


def test_piped_answers_go_to_stdout_and_thinking_to_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    writer = Writer(colour=False)
    writer.write([Delta("reasoning", "so"), Delta("content", "42")])
    writer.end()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("42\n", "so\n")


def test_a_conversation_keeps_its_turns_until_new(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Engine(model(), TOKENIZER, EngineLimits(1, 256))
    params = SamplingParams(max_tokens=4, stop_token_ids=TOKENIZER.eos_ids)
    talk = Chat(engine, TOKENIZER, params)
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\ntwo\n"))
    talk.run()
    assert [m["role"] for m in talk.messages] == ["user", "assistant"] * 2
    monkeypatch.setattr(sys, "stdin", io.StringIO("/new\nthree\n"))
    talk.run()
    assert [m["content"] for m in talk.messages if m["role"] == "user"] == ["three"]
    assert "cut off at its token limit" in capsys.readouterr().err
    engine.close()


def test_a_prompt_that_is_too_long_is_refused_and_the_chat_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Engine(model(), TOKENIZER, EngineLimits(1, 64))
    talk = Chat(engine, TOKENIZER, SamplingParams(max_tokens=4))
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{'x' * 200}\nshort\n"))
    talk.run()
    assert "too many for a context of 64" in capsys.readouterr().err
    assert [m["content"] for m in talk.messages if m["role"] == "user"] == ["short"]
    engine.close()


def test_a_saved_checkpoint_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(model(), tmp_path / "model", TOKENIZER)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    chat(tmp_path / "model", temperature=1.0, max_tokens=20, seed=1)
    captured = capsys.readouterr()
    assert captured.out or captured.err
