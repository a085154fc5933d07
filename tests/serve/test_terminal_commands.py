"""The terminal's editor and commands: pastes stay whole, commands never reach the model."""

import io
import json
import os
import pty
import select
import sys
import textwrap
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from openqwq.serve.reply import Finish, Piece
from openqwq.serve.terminal import TerminalChat, question
from openqwq.serve.terminal_commands import HELP, fenced
from openqwq.serve.terminal_lines import open_lines
from openqwq.serve.terminal_markdown import MarkdownWriter, protect_mathematics, settled_end
from openqwq.types import Steering


class Echo:
    """Answers with the number of its turn, and keeps what it was asked."""

    def __init__(self) -> None:
        self.body: dict[str, Any] = {"max_tokens": 9}
        self.asked: list[list[dict[str, Any]]] = []
        self.bodies: list[dict[str, Any]] = []

    async def reply(
        self, messages: Sequence[dict[str, Any]], steering: Steering
    ) -> AsyncGenerator[Piece, None]:
        self.asked.append([dict(message) for message in messages])
        self.bodies.append(dict(self.body))
        yield Piece("content", f"answer {len(self.asked)}")
        yield Piece("end", finish=Finish("stop", None, 3, 0))


class Typed:
    """A person who types `lines`; what was offered for editing is kept."""

    interactive = True

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)
        self.offered: list[str] = []

    def read(self, prefilled: str = "") -> str:
        self.offered.append(prefilled)
        if not self.lines:
            raise EOFError
        return self.lines.pop(0)


def talk(*lines: str) -> tuple[TerminalChat, Echo, Typed]:
    echo, typed = Echo(), Typed(*lines)
    chat = TerminalChat(echo)
    chat.run(typed)
    return chat, echo, typed


def test_no_command_reaches_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    _, echo, _ = talk("/help", "/tools", "/set", "/systm x", "/nonsense", "/copy", "/regen")
    assert echo.asked == []
    captured = capsys.readouterr()
    assert all(usage in captured.out for usage in HELP)
    assert "/systm is not a command: /help lists them" in captured.err
    assert "nothing has been asked yet" in captured.err


@pytest.mark.parametrize("line", ["/Help", "/?", " /HELP now"])
def test_help_is_found_however_it_is_written(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, echo, _ = talk(line)
    assert echo.asked == [] and "/regen" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["/exit", "/quit", "/Bye"])
def test_a_word_leaves_the_conversation(line: str) -> None:
    _, echo, typed = talk("one", line, "two")
    assert len(echo.asked) == 1 and typed.lines == ["two"]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user"}],
        [{"role": "wizard", "content": "a"}],
        ["a"],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        "hello",
        {},
    ],
)
def test_what_is_no_conversation_is_refused_and_the_open_one_stays(
    tmp_path: Path, messages: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({"messages": messages}))
    chat, echo, _ = talk("one", f"/load {path}", "/edit", "two")
    assert "is not a conversation" in capsys.readouterr().err
    assert [message["content"] for message in chat.dialogue.messages] == ["two", "answer 2"]
    assert len(echo.asked) == 2


def test_a_conversation_in_parts_can_be_edited(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "what is"}, {"type": "text", "text": "it?"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "that"}]
    path = tmp_path / "parts.json"
    path.write_text(json.dumps({"messages": turns}))
    _, _, typed = talk(f"/load {path}", "/edit", "again")
    assert typed.offered == ["", "", "what is\nit?", ""]


def test_a_path_or_a_slash_alone_is_a_question() -> None:
    _, echo, _ = talk("/usr/bin holds what?", "/ 2 = 1?")
    assert [asked[-1]["content"] for asked in echo.asked] == [
        "/usr/bin holds what?",
        "/ 2 = 1?",
    ]


def test_the_system_prompt_and_options_are_changed_and_taken_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["/system be brief", "/set temperature 0.5", "/set seed 7", "one"]
    words += [
        "/system -",
        "/set temperature",
        "/set temperature hot",
        "/set colour red",
        "/set top_k=4",
        "two",
    ]
    _, echo, _ = talk(*words)
    assert echo.asked[0][0] == {"role": "system", "content": "be brief"}
    assert echo.bodies[0] == {"max_tokens": 9, "temperature": 0.5, "seed": 7}
    assert [m["role"] for m in echo.asked[1]] == ["user", "assistant", "user"]
    assert echo.bodies[1] == {"max_tokens": 9, "seed": 7, "top_k": 4}
    errors = capsys.readouterr().err
    assert "temperature" in errors and "colour is not an option" in errors


def test_another_answer_and_an_edited_question_replace_the_last_turn() -> None:
    chat, echo, typed = talk("first", "/regen", "/edit", "changed", "/edit", "")
    contents = [[m["content"] for m in asked] for asked in echo.asked]
    assert contents == [["first"], ["first"], ["changed"]]
    assert typed.offered == ["", "", "", "first", "", "changed", ""]
    # The second edit was given up with an empty line: the turn is still there.
    assert [m["content"] for m in chat.dialogue.messages] == ["changed", "answer 3"]


@pytest.mark.parametrize("line", ["/save {}", "/set seed 1", "/nonsense", "/copy"])
def test_a_command_leaves_the_question_that_was_to_be_edited_as_it_was(
    tmp_path: Path, line: str
) -> None:
    path = tmp_path / "talk.json"
    chat, echo, typed = talk("first", "/edit", line.format(path), "second")
    assert typed.offered == ["", "", "first", "", ""]
    said = [message["content"] for message in echo.asked[-1]]
    assert said == ["first", "answer 1", "second"]
    if path.exists():
        saved = json.loads(path.read_text())["messages"]
        assert [message["content"] for message in saved] == ["first", "answer 1"]
    assert len(chat.dialogue.messages) == 4


def test_a_new_conversation_never_brings_an_old_question_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("openqwq.serve.terminal.say", lambda talker, *_: False)
    chat = TerminalChat(Echo())
    chat.dialogue.messages += [
        {"role": "user", "content": "old"},
        {"role": "assistant", "content": "answer"},
    ]
    chat.run(Typed("/edit", "/new", "stopped by Ctrl-C"))
    assert chat.dialogue.messages == [] and chat.dialogue.taken_back == []


def test_a_conversation_is_saved_as_a_training_row_and_loaded_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my talk.json"
    talk("/system be brief", "hello", f"/save '{path}'")
    roles = [m["role"] for m in json.loads(path.read_text())["messages"]]
    assert roles == ["system", "user", "assistant"]
    (tmp_path / "bad").write_text("[]")
    chat, echo, _ = talk(
        f"/load '{path}'", "again", f"/load {tmp_path}/bad", "/load", "/save a b"
    )
    assert [m["content"] for m in echo.asked[0]] == [
        "be brief",
        "hello",
        "answer 1",
        "again",
    ]
    assert len(chat.dialogue.messages) == 4
    errors = capsys.readouterr().err
    assert "is not a conversation" in errors and errors.count("needs one path") == 2


def test_a_file_goes_along_once(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("```py\nx\n```\n")
    _, echo, _ = talk(f"/file {tmp_path}/a.md", "what?", "and now?")
    asked = echo.asked[0][-1]["content"]
    assert asked == f"````{tmp_path}/a.md\n```py\nx\n```\n````\n\nwhat?"
    assert echo.asked[1][-1]["content"] == "and now?"
    assert fenced("x", "n") == "```n\nx\n```"


def test_what_is_piped_in_goes_before_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"1,2\n")
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
        (message,) = question(["Sum?"], [], None)
    assert message["content"] == "```stdin\n1,2\n```\n\nSum?"
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert question(["Sum?"], [], None)[0]["content"] == "Sum?"


def test_piped_questions_are_one_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n" + "x" * 5000 + "\n"))
    echo = Echo()
    TerminalChat(echo).run(open_lines([]))
    assert [len(asked[-1]["content"]) for asked in echo.asked] == [3, 5000]


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Sends keys to an editor and gives the text that it returns."""
    pytest.importorskip("prompt_toolkit", reason="needs pip install prompt_toolkit")
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    from openqwq.serve.terminal_lines import EditedLines

    history = tmp_path / "history"
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        lines = EditedLines(["/help"], history)

        def typed(text: str, prefilled: str = "") -> str:
            keys.send_text(text)
            return lines.read(prefilled)

        yield typed


def test_a_pasted_text_of_several_lines_is_one_question(editor: Any) -> None:
    pasted = "line one\n" + "long " * 2000 + "\nlast"
    assert editor(f"Sum up: \x1b[200~{pasted}\x1b[201~\r") == f"Sum up: {pasted}"


def test_alt_enter_begins_a_line_and_the_arrow_brings_back_the_last_question(
    editor: Any,
) -> None:
    assert editor("a\x1b\rb\r") == "a\nb"
    assert editor("\x1b[A\r") == "a\nb"
    assert editor("!\r", "edited") == "edited!"


def test_ctrl_c_clears_what_is_typed_and_then_leaves(editor: Any) -> None:
    assert editor("rubbish\x03kept\r") == "kept"
    with pytest.raises(KeyboardInterrupt):
        editor("\x03")
    with pytest.raises(EOFError):
        editor("\x04")


CHILD = """
    import asyncio, sys
    from openqwq.serve.reply import Finish, Piece
    from openqwq.serve.terminal import TerminalChat
    class Talker:
        body = {}
        async def reply(self, messages, steering):
            yield Piece("reasoning", "hm")
            yield Piece("content", f"**{len(messages[-1]['content'])}** characters, "
                        f"{messages[-1]['content'].count(chr(10))} breaks")
            yield Piece("end", finish=Finish("stop", None, 3, 1))
    TerminalChat(Talker()).run()
"""


def test_a_real_terminal_takes_a_long_paste_and_shows_markdown(tmp_path: Path) -> None:
    pytest.importorskip("prompt_toolkit", reason="needs pip install prompt_toolkit")
    child, terminal = pty.fork()
    if child == 0:
        environment = {**os.environ, "TERM": "xterm", "XDG_STATE_HOME": str(tmp_path)}
        command = [sys.executable, "-c", textwrap.dedent(CHILD)]
        os.execve(sys.executable, command, environment)
    shown = ""

    def wait_for(text: str) -> None:
        nonlocal shown
        end = time.monotonic() + 30
        while text not in shown:
            assert time.monotonic() < end, shown[-2000:]
            if select.select([terminal], [], [], 0.2)[0]:
                shown += os.read(terminal, 65536).decode(errors="replace")

    wait_for("you>")
    pasted = "x" * 3000 + "\n" + "y" * 3000
    os.write(terminal, f"\x1b[200~{pasted}\x1b[201~\r".encode())
    wait_for("tokens/s")
    assert "6001" in shown and "1 breaks" in shown
    shown = ""
    wait_for("you>")
    os.write(terminal, b"\x04")
    with suppress(OSError):  # Linux says so where the other side has closed
        while select.select([terminal], [], [], 20)[0] and os.read(terminal, 65536):
            pass
    os.close(terminal)  # which also ends a child that is stuck
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "qwq" / "questions").stat().st_mode & 0o077 == 0


def test_a_reply_is_shown_as_markdown_with_what_it_took() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60)
    writer = MarkdownWriter(console=console)
    writer.begin()
    writer.write(Piece("reasoning", "so \x1b]0;owned\x07"))
    for text in (
        "# Title\n\nIt ",
        "is **42** and ",
        "\\(a_1 * b_2\\).\n\n",
        "```py\nx\n\ny\n```\n",
    ):
        writer.write(Piece("content", text))
    writer.write(Piece("end", finish=Finish("stop", None, 12, 2)))
    writer.end()
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b]0" not in shown and "\x07" not in shown
    assert "\x1b[1m42\x1b[0m" in shown and "\\(a_1 * b_2\\)" in shown
    assert "12 tokens (2 thinking)" in shown and "first after" in shown


def test_blocks_are_final_once_a_blank_line_outside_code_follows() -> None:
    assert settled_end("one\n\ntwo", 0) == 5
    assert settled_end("one\n", 0) == 0
    assert settled_end("```\na\n\nb\n", 0) == 0
    assert settled_end("```\na\n\nb\n```\n\nc", 0) == 14


def test_mathematics_survives_markdown_and_code_is_left_alone() -> None:
    assert protect_mathematics("\\[x_1\\]") == "\\\\\\[x\\_1\\\\\\]"
    assert protect_mathematics("```\n\\(x\\)\n```") == "```\n\\(x\\)\n```"
    assert protect_mathematics("**bold** \\* star") == "**bold** \\* star"
