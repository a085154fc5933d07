"""Reads what a person types: with an editor on a terminal, line by line from a pipe.

On a terminal Enter sends and Alt-Enter begins a new line; a pasted text of several lines stays one
question, and the arrow keys bring back earlier ones, also from other days.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from openqwq.types import OpenQwQError


class Lines(Protocol):
    """Where questions come from."""

    interactive: bool

    def read(self, prefilled: str = "") -> str:
        """The next question, to be edited from `prefilled`. Raises EOFError at the end."""
        ...


class PipedLines:
    """One question a line of standard input."""

    interactive = False

    def read(self, prefilled: str = "") -> str:
        """See `Lines.read`; a pipe has nobody to edit, so `prefilled` is the question."""
        return prefilled or input()


class EditedLines:
    """An editor with history and completion of commands."""

    interactive = True

    def __init__(self, commands: Sequence[str], history: Path | None = None) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory, InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings

        keys = KeyBindings()
        keys.add("enter")(_send)
        keys.add("escape", "enter")(_new_line)
        keys.add("c-j")(_new_line)
        keys.add("c-c")(_clear_or_leave)
        path = history or history_file()
        self._session: Any = PromptSession(
            history=FileHistory(str(path)) if path else InMemoryHistory(),
            completer=WordCompleter(list(commands), sentence=True),
            complete_while_typing=True,
            key_bindings=keys,
            multiline=True,
            prompt_continuation="     ",
        )

    def read(self, prefilled: str = "") -> str:
        """See `Lines.read`; KeyboardInterrupt for Ctrl-C where nothing is typed."""
        return str(self._session.prompt("you> ", default=prefilled))


def _send(event: Any) -> None:
    event.current_buffer.validate_and_handle()


def _new_line(event: Any) -> None:
    event.current_buffer.insert_text("\n")


def _clear_or_leave(event: Any) -> None:
    if event.current_buffer.text:
        event.current_buffer.reset()
    else:
        event.app.exit(exception=KeyboardInterrupt)


def open_lines(commands: Sequence[str]) -> Lines:
    """The editor where standard input and output are a terminal, else a reader of lines.

    Raises OpenQwQError where the editor is not installed.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return PipedLines()
    try:
        return EditedLines(commands)
    except ModuleNotFoundError as error:
        raise OpenQwQError(
            f"{error.name} is not installed: pip install 'openqwq[serve]', or pipe the questions in"
        ) from error


def history_file() -> Path | None:
    """Where questions are kept, readable by their writer alone; None where that is impossible."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state) / "qwq" / "questions"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return None
    return path
