"""The terminal: thinking apart from the answer, Ctrl-C twice, history kept, mistakes survived."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from openqwq.cli import main
from openqwq.engine.open import OpenedModel
from openqwq.serve.client import RemoteTalker
from openqwq.serve.guard import Access
from openqwq.serve.reply import Piece
from openqwq.serve.server import ServerOptions
from openqwq.serve.terminal import (
    DIM,
    PLAIN,
    LocalTalker,
    PlainWriter,
    TerminalChat,
    ask,
    question,
    say,
)
from openqwq.types import OpenQwQError, Steering

Build = Callable[..., OpenedModel]
HELLO = [{"role": "user", "content": "hello"}]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_thinking_is_dimmed_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, writer = Terminal(), PlainWriter()
    monkeypatch.setattr(sys, "stdout", terminal)
    for kind, text in (("reasoning", "so"), ("reasoning", "..."), ("content", "42")):
        writer.write(Piece(kind, text))  # type: ignore[arg-type]
    writer.end()
    assert terminal.getvalue() == f"{DIM}so...{PLAIN}\n42\n"
    assert (writer.reasoning, writer.content) == ("so...", "42")


def test_a_terminal_is_shown_control_characters_but_does_not_obey_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    PlainWriter().write(Piece("content", "a\x1b]0;title\x07\x9b31mb\n\tc"))
    assert terminal.getvalue() == "a\ufffd]0;title\ufffd\ufffd31mb\n\tc"


@pytest.mark.parametrize(("hide", "err"), [(False, "so\n"), (True, "")])
def test_piped_answers_go_to_stdout_and_thinking_to_stderr(
    scripted: Build, capsys: pytest.CaptureFixture[str], hide: bool, err: str
) -> None:
    ask(LocalTalker(scripted("so</think>\n\n42"), {}), HELLO, hide, False)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("42\n", err)


def test_json_is_one_object_with_the_counts(
    scripted: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(
        LocalTalker(scripted("so é</think>\n\n42"), {"max_tokens": 100}), HELLO, False, True
    )
    captured = capsys.readouterr()
    got = json.loads(captured.out)
    assert (got["reasoning"], got["content"], got["finish_reason"]) == (
        "so é",
        "42",
        "stop",
    )
    assert 0 < got["tokens"]["reasoning"] < got["tokens"]["completion"]
    assert captured.err == ""


def test_a_conversation_keeps_its_turns_until_new(
    scripted: Build, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = scripted("a</think>\n\none", "b</think>\n\ntwo")
    talk = TerminalChat(LocalTalker(model, {}), "be brief")
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\n\nsecond\n"))
    talk.run()
    assert [m["content"] for m in talk.dialogue.messages] == [
        "first",
        "one",
        "second",
        "two",
    ]
    prompt = model.tokenizer.decode(model.generate.asked[1][0])  # type: ignore[attr-defined]
    assert "be brief" in prompt and "one" in prompt
    monkeypatch.setattr(sys, "stdin", io.StringIO("/new\nthird\n"))
    talk.run()
    assert [m["content"] for m in talk.dialogue.messages] == ["third", "one"]
    assert capsys.readouterr().out.split() == ["one", "two", "one"]


def test_a_question_that_is_too_long_is_refused_and_the_chat_goes_on(
    scripted: Build, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = TerminalChat(LocalTalker(scripted("</think>ok", context=64), {}))
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{'x' * 200}\nshort\n"))
    talk.run()
    assert "too many for a context of 64" in capsys.readouterr().err
    assert [m["content"] for m in talk.dialogue.messages] == ["short", "ok"]


def interrupted(talker: Any, times: int, writer: PlainWriter) -> bool:
    """Say with Ctrl-C pressed `times` times once there is thinking."""

    def press() -> None:
        for _ in range(times):
            while not writer.reasoning:
                time.sleep(0.005)
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    finished = say(talker, HELLO, writer)
    presser.join()
    return finished


@pytest.mark.parametrize("hide", [False, True])
def test_the_first_ctrl_c_ends_the_thinking_of_a_real_engine(tiny: Any, hide: bool) -> None:
    body = {"max_tokens": 1500, "seed": 1, "stop_loops": False, "min_p": 0.05}
    writer = PlainWriter(hide)
    assert interrupted(LocalTalker(tiny.model, body), 1, writer)
    assert writer.finish and 0 < writer.finish.reasoning_tokens < 1400
    assert writer.content


def test_the_second_ctrl_c_ends_the_reply(scripted: Build) -> None:
    model = scripted("thinking " * 500, delay=0.01)
    assert not interrupted(LocalTalker(model, {}), 2, PlainWriter())
    assert model.generate.open == 0  # type: ignore[attr-defined]


def test_an_endpoint_answers_like_a_model_here(
    scripted: Build, serve: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    access = ServerOptions(Access("key"))
    with serve(scripted("so</think>\n\n42"), access) as server:
        for url in (server.url, server.url + "/v1/"):
            ask(RemoteTalker(url, "key", {"max_tokens": 99}), HELLO, False, True)
            got = json.loads(capsys.readouterr().out)
            assert (got["reasoning"], got["content"]) == ("so", "42")
            assert got["tokens"]["reasoning"] > 0
        with pytest.raises(OpenQwQError, match="API key"):
            ask(RemoteTalker(server.url, None, {}), HELLO, False, False)
        with pytest.raises(OpenQwQError, match="frequency_penalty"):
            ask(
                RemoteTalker(server.url, "key", {"frequency_penalty": 3}),
                HELLO,
                False,
                False,
            )
    with pytest.raises(OpenQwQError, match="cannot be reached"):
        ask(RemoteTalker(server.url, "key", {}), HELLO, False, False)


async def told(monkeypatch: pytest.MonkeyPatch, body: bytes) -> list[Piece]:
    """The pieces that a server's stream `body` makes."""
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=body))
    client = partial(httpx.AsyncClient, transport=transport)
    monkeypatch.setattr(httpx, "AsyncClient", client)
    talker = RemoteTalker("http://test", None, {"model": "m"})
    return [piece async for piece in talker.reply(HELLO, Steering())]


async def test_the_blank_after_data_may_be_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delta = b'{"delta": {"content": "hello"}, "finish_reason": "length"}'
    body = b'data:{"id": "1", "choices": [' + delta + b"]}\n\ndata:[DONE]\n\n"
    content, end = await told(monkeypatch, body)
    assert content.text == "hello" and end.finish and end.finish.reason == "length"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'data: {"error": "the model crashed"}\n\n', "the model crashed"),
        (b'data: {"error": {"code": 5}}\n\n', "'code': 5"),
        (
            b'data: {"choices": [{"delta": {"content": "half"}}]}\n\n',
            "before the reply did",
        ),
        (b"", "before the reply did"),
    ],
)
async def test_a_stream_that_fails_or_breaks_off_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, body: bytes, fault: str
) -> None:
    with pytest.raises(OpenQwQError, match=fault):
        await told(monkeypatch, body)


def test_ctrl_c_ends_the_thinking_at_an_endpoint(tiny: Any) -> None:
    body = {"max_tokens": 1500, "seed": 1, "stop_loops": False}
    writer = PlainWriter()
    assert interrupted(RemoteTalker(tiny.url, None, body), 1, writer)
    assert writer.content and writer.finish and writer.finish.reasoning_tokens < 1400


def test_questions_come_from_words_files_and_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("from a file\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped")))
    got = question(["what?"], [tmp_path / "notes.txt", Path("-")], "sys")
    assert got[0] == {"role": "system", "content": "sys"}
    text = f"```{tmp_path}/notes.txt\nfrom a file\n```\n\n```stdin\npiped\n```\n\nwhat?"
    assert got[1]["content"] == text
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"only piped\n")))
    assert question([], [], None) == [{"role": "user", "content": "only piped"}]
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for words, files, fault in (
        ([], [tmp_path / "missing"], "cannot read"),
        (["q"], [tmp_path / "binary"], "as text"),
        (["two", "words"], [], "in quotes"),
        ([" "], [], "nothing is asked"),
    ):
        with pytest.raises(OpenQwQError, match=fault):
            question(words, files, None)


def test_the_command_answers_and_names_mistakes(
    saved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved.parent)
    assert (
        main(["ask", str(saved), "hello", "--max-tokens", "20", "--json", "--seed", "1"])
        == 0
    )
    first = json.loads(capsys.readouterr().out)
    monkeypatch.setenv("QWQ_MODEL", str(saved))
    monkeypatch.setenv("QWQ_SEED", "1")
    assert main(["ask", "hello", "--max-tokens", "20", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["content"] == first["content"] and again["tokens"] == first["tokens"]
    for words, fault in (
        (["ask", "hello", "--temperature", "9"], "temperature: 9.0 is greater"),
        (["ask", "nowhere", "hello"], "nowhere does not exist"),
        (["serve", "--host", "0.0.0.0"], "--insecure"),
        (["serve", "--slots", "0"], "slots is 0"),
    ):
        assert main(words) == 2
        assert fault in capsys.readouterr().err
    monkeypatch.delenv("QWQ_MODEL")
    assert main(["chat"]) == 2
    assert "no model is named" in capsys.readouterr().err


def test_a_taken_port_is_named(
    saved: Path, tiny: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(saved), "--port", str(tiny.port)]) == 2
    assert f"cannot listen on 127.0.0.1:{tiny.port}" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_knows_verbs_and_flags(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "serve" in script and "hide-thinking" in script
    if shell == "bash":
        checked = subprocess.run(["bash", "-n"], input=script, text=True, check=False)
        assert checked.returncode == 0
