"""`qwq agent`: cards, questions of approval, Ctrl-C, and transcripts that show the same again."""

import asyncio
import io
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from scripted import ENDLESS, Scripted

from openqwq import cli
from openqwq.agent.approval import Approval
from openqwq.agent.call import CallResult
from openqwq.agent.loop import Agent, Budgets, Called, Content, Ended, Returned, Thinking
from openqwq.agent.tools import by_name, tool
from openqwq.agent.transcript import Asked, Transcript, read_transcript
from openqwq.model import checkpoint
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.serve.terminal_agent import Conversation, Screen, replay
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import (
    OpenQwQError,
    PromptTooLongError,
    SamplingParams,
    Steering,
    TokenEvent,
    Tool,
)

TOKENIZER = Tokenizer.train(["hello"] * 9, 270)
ENDED = Ended("answer", 1, 5, 0.1, {})


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def call(**arguments: int) -> str:
    body = json.dumps({"name": "add", "arguments": arguments})
    return f"</think>\n\n<tool_call>\n{body}\n</tool_call>"


def conversation(
    *replies: str,
    path: Path | None = None,
    approval: Approval | None = None,
    acts: bool = False,
) -> Conversation:
    tools = by_name([tool(add, acts=acts)])
    agent = Agent(
        Scripted(TOKENIZER, replies), TOKENIZER, tools, Budgets(), approve=approval
    )
    console = Console(file=io.StringIO(), force_terminal=True, width=60, soft_wrap=True)
    params = SamplingParams(max_tokens=500)
    return Conversation(agent, params, Screen(console), Transcript("toy", path))


def screen_of(talk: Conversation) -> str:
    file = talk.screen.out.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def plain(text: str) -> str:
    """Without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def talk_to(monkeypatch: pytest.MonkeyPatch, talk: Conversation, said: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(said))
    with asyncio.Runner() as runner:
        talk.talk(runner)


def test_thinking_is_dim_and_calls_and_results_are_cards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    talk = conversation("hm" + call(a=2, b=40), "</think>\n\nIt is 42.")
    talk_to(monkeypatch, talk, "what?\n")
    shown = screen_of(talk)
    assert "\x1b[2mh\x1b[0m" in shown  # dim
    assert "calls add" in shown and '"a": 2' in shown
    assert "add: ok" in shown and "│ 42" in plain(shown)
    assert [m["role"] for m in talk.messages] == ["user", "assistant", "tool", "assistant"]


def test_what_a_tool_or_model_says_cannot_command_the_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60)
    screen = Screen(console)
    evil = "\x1b]0;owned\x07[bold]"
    result = CallResult("add", {}, evil, "ok")
    for entry in (
        Thinking(evil),
        Content(evil),
        Called(None, evil),
        Returned(result),
        ENDED,
    ):
        screen.show(entry)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b]0" not in shown and "\x07" not in shown
    assert shown.count("[bold]") == 4  # and markup is text


def test_piped_output_holds_the_answer_alone(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    for entry in (
        Thinking("hm"),
        Called({"name": "add", "arguments": {"a": 1}}),
        Returned(CallResult("add", {}, "3", "ok")),
        Content("It is 3."),
        ENDED,
    ):
        screen.show(entry)
    captured = capsys.readouterr()
    assert captured.out == "It is 3.\n"
    assert "hm" in captured.err and "calls add" in captured.err


def test_a_card_of_many_lines_says_how_many_it_leaves_out() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60)
    Screen(console).show(Returned(CallResult("add", {}, "x\n" * 100, "ok")))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "... 80 more lines" in shown and plain(shown).count("│ x") == 20


def test_ctrl_c_ends_the_run_and_the_conversation_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "t.jsonl"
    talk = conversation(call(a=1, b=1), ENDLESS, "</think>\n\nhello", path=path)
    shown = threading.Event()
    original = talk.screen.show

    def show(entry: Any) -> None:
        original(entry)
        if isinstance(entry, Thinking) and entry.text.startswith("."):
            shown.set()

    monkeypatch.setattr(talk.screen, "show", show)

    def interrupt() -> None:
        if shown.wait(30):
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    started = time.monotonic()
    talk_to(monkeypatch, talk, "one\ntwo\n")
    thread.join()
    assert time.monotonic() - started < 25
    assert "stopped by Ctrl-C" in screen_of(talk)
    roles = [message["role"] for message in talk.messages]
    assert roles == ["user", "assistant", "tool", "user", "assistant"]  # whole steps stay
    assert talk.messages[-1]["content"] == "hello"
    assert sum(isinstance(e, Asked) for e in read_transcript(path)[1]) == 2


@pytest.mark.parametrize(
    ("typed", "status"), [("maybe\nyes\n", "ok"), ("n\n", "denied"), ("", "denied")]
)
def test_an_acting_tool_waits_for_a_person(
    monkeypatch: pytest.MonkeyPatch, typed: str, status: str
) -> None:
    talk = conversation(call(a=1, b=1), "</think>\n\nok", acts=True)
    talk.agent = replace(talk.agent, approve=Approval(ask=talk.screen.ask))
    talk_to(monkeypatch, talk, f"go\n{typed}")
    assert f"add: {status}" in screen_of(talk)


async def test_ctrl_c_at_the_question_of_approval_stops_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    with pytest.raises(asyncio.CancelledError):
        await Screen().ask(Tool("a", "", {}, call=add), {})  # type: ignore[arg-type]


async def test_what_is_to_be_approved_is_shown_whole_and_safe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt: "no")
    code = "".join(f"line {number}\n" for number in range(100)) + "evil\x1b[2J()"
    code += "\u202e)(lamrofrah\u2066\u200b"
    await Screen().ask(Tool("run", "", {}, call=add), {"code": code})  # type: ignore[arg-type]
    shown = capsys.readouterr().err
    assert all(f"line {number}\n" in shown for number in range(100))
    assert "evil\ufffd[2J()" in shown and "\x1b[2J" not in shown
    assert r"\u202e)(lamrofrah\u2066\u200b" in shown


class Cramped(Scripted):
    """Has a context of 2,000 tokens."""

    async def stream(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        steering: Steering | None = None,
    ) -> AsyncIterator[TokenEvent]:
        if len(prompt_ids) > 2000:
            raise PromptTooLongError(f"{len(prompt_ids)} tokens are too many for a context")
        async for event in super().stream(prompt_ids, params, steering):
            yield event


def test_results_that_outgrow_the_context_are_forgotten_and_the_conversation_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read() -> str:
        """Read."""
        return "x" * 3000

    reading = '</think>\n\n<tool_call>\n{"name": "read", "arguments": {}}\n</tool_call>'
    model = Cramped(TOKENIZER, ["</think>\n\none", reading, "</think>\n\nthree"])
    talk = conversation()
    talk.agent = Agent(model, TOKENIZER, by_name([tool(read)]))
    talk_to(monkeypatch, talk, "first\nread it\nthird\n")
    assert "the results outgrew the context" in plain(screen_of(talk))
    said = [message["content"] for message in talk.messages]
    assert said == ["first", "one", "third", "three"]


class Typed:
    """A person who types `lines`, whatever is offered for editing."""

    interactive = True

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)

    def read(self, prefilled: str = "") -> str:
        if not self.lines:
            raise EOFError
        return self.lines.pop(0)


def test_an_edited_question_of_which_nothing_came_leaves_the_old_turn() -> None:
    talk = conversation()
    talk.agent = Agent(
        Cramped(TOKENIZER, ["</think>\n\none", "</think>\n\ntwo"]), TOKENIZER, {}
    )
    with asyncio.Runner() as runner:
        talk.talk(runner, Typed("first", "/edit", "x" * 3000, "third"))
    assert "too many for a context" in plain(screen_of(talk))
    said = [message["content"] for message in talk.messages]
    assert said == ["first", "one", "third", "two"]


def test_a_conversation_that_outgrows_the_context_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    talk = conversation()
    talk.agent = Agent(
        Cramped(TOKENIZER, ["</think>\n\none", "</think>\n\ntwo"]), TOKENIZER, {}
    )
    talk_to(monkeypatch, talk, f"first\n{'x' * 3000}\nthird\n")
    assert "said before is forgotten now: ask again" in plain(screen_of(talk))
    assert [message["content"] for message in talk.messages] == ["third", "two"]


def test_a_transcript_shows_the_same_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.jsonl"
    bad = "<tool_call>oops</tool_call>"
    talk = conversation("hm" + call(a=2, b=40) + bad, "so</think>42", path=path)
    talk.screen = Screen()
    talk_to(monkeypatch, talk, "what?\n")
    live = capsys.readouterr()
    replay(path)
    again = capsys.readouterr()
    assert again.out == live.out == "42\n"
    assert again.err == "transcript of toy\nyou> what?\n" + live.err


def test_a_transcript_is_whole_or_absent_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    transcript = Transcript("toy", path)
    transcript.add(Asked("é"))
    for piece in ("a", "b"):
        transcript.add(Content(piece))
    transcript.save()
    assert read_transcript(path) == ("toy", [Asked("é"), Content("ab")])
    transcript.add(object())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        transcript.save()
    assert read_transcript(path) == ("toy", [Asked("é"), Content("ab")])
    with pytest.raises(OpenQwQError, match="exists: name another"):
        Transcript("toy", path)
    with pytest.raises(OpenQwQError, match="no is not a directory: make it"):
        Transcript("toy", tmp_path / "no" / "t.jsonl")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not a transcript"),
        ("{}\n", "is not a transcript"),
        ('{"event": "model", "name": "m"}\n{"event": "flew"}\n', "line 2 of"),
        ('{"event": "model", "name": "m"}\n{"event": "asked", "txt": "a"}\n', "line 2 of"),
        ('{"event": "model", "name": "m"}\n[1]\n', "line 2 of"),
    ],
)
def test_a_bad_transcript_is_refused_by_its_line(
    tmp_path: Path, text: str, problem: str
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(OpenQwQError, match=problem):
        replay(path)


def test_the_verb_runs_a_checkpoint_with_tools_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Qwen2(
        ModelConfig(TOKENIZER.vocab_size, 16, 32, 1, 2, 1, 8, tie_word_embeddings=True)
    )
    model.initialise(torch.Generator().manual_seed(0), std=0.3)
    checkpoint.save(model, tmp_path / "model", TOKENIZER)
    transcript = tmp_path / "t.jsonl"
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    words = ["agent", str(tmp_path / "model"), "--tools", "calculator", "--max-tokens", "8"]
    assert cli.main([*words, "--transcript", str(transcript)]) == 0
    events = [json.loads(line)["event"] for line in transcript.read_text().splitlines()]
    assert events[:2] == ["model", "asked"] and events[-1] == "ended"
    live = capsys.readouterr()
    assert cli.main(["agent", "--replay", str(transcript)]) == 0
    assert capsys.readouterr().out == live.out
    assert cli.main([*words, "--context", "99999"]) == 2
    assert "the context length is 99999: it must be from 1 to" in capsys.readouterr().err
    assert cli.main([*words, "--allow", "fly"]) == 2
    assert "--allow names the unknown tool 'fly': calculator" in capsys.readouterr().err


def test_mistakes_on_the_command_line_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["agent"]) == 2
    assert "model is missing" in capsys.readouterr().err
    assert cli.main(["agent", "--replay", str(tmp_path / "none")]) == 2
    assert "is not a transcript" in capsys.readouterr().err
