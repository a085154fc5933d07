"""A chat and single questions in the terminal: thinking dimmed or apart, the answer after it.

The first Ctrl-C ends the thinking, the next one the reply. Piped, the answer alone is on standard
output and the thinking on standard error.
"""

import asyncio
import json
import re
import signal
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from openqwq.engine.open import OpenedModel, open_model
from openqwq.serve.asking import ask_chat
from openqwq.serve.client import RemoteTalker
from openqwq.serve.protocol import check
from openqwq.serve.reply import Finish, Piece, reply
from openqwq.types import OpenQwQError, Steering

DIM, PLAIN = "\x1b[2m", "\x1b[0m"
# What a terminal would obey rather than show; a model's text may hold any of it.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
Messages = Sequence[dict[str, Any]]


class Talker(Protocol):
    """Whatever answers a chat: a model here or a server elsewhere."""

    def reply(self, messages: Messages, steering: Steering) -> AsyncGenerator[Piece, None]:
        """Stream one reply; `steering` may end its thinking."""
        ...


@dataclass(frozen=True)
class LocalTalker:
    """A model in this process; `body` holds the fields of a ChatRequest beside its messages."""

    model: OpenedModel
    body: dict[str, Any]

    async def reply(self, messages: Messages, steering: Steering) -> AsyncGenerator[Piece, None]:
        """See `Talker.reply`; raises OpenQwQError for a chat that does not fit."""
        ask = ask_chat(self.model, {**self.body, "messages": messages})
        async with aclosing(reply(self.model, ask, steering=steering)) as pieces:
            async for piece in pieces:
                yield piece


@dataclass
class Writer:
    """Prints pieces as they come; what is on a terminal is free of control characters."""

    hide_thinking: bool = False
    quiet: bool = False  # nothing at all is printed
    reasoning: str = ""
    content: str = ""
    in_thinking: bool = False
    finish: Finish | None = None
    _dimmed: bool = False

    def write(self, piece: Piece) -> None:
        """Show a piece."""
        self.finish = piece.finish or self.finish
        self.in_thinking = piece.kind == "reasoning"
        if piece.kind == "reasoning":
            self.reasoning += piece.text
            if not self.hide_thinking:
                self._switch(True)
                self._print(piece.text, _thinking_stream())
        elif text := piece.text if piece.call is None else f"[calls {json.dumps(piece.call)}]":
            self._switch(False)
            self.content += piece.text
            self._print(text, sys.stdout)

    def end(self) -> None:
        """Close the reply."""
        self._switch(False)
        self._print("\n", sys.stdout)

    def _print(self, text: str, stream: TextIO) -> None:
        if not self.quiet:
            shown = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text) if stream.isatty() else text
            print(shown, end="", flush=True, file=stream)

    def _switch(self, thinking: bool) -> None:
        if thinking != self._dimmed and not self.quiet:
            stream = _thinking_stream()
            dim, plain = (DIM, PLAIN) if stream.isatty() else ("", "")
            print(dim if thinking else f"{plain}\n", end="", flush=True, file=stream)
        self._dimmed = thinking


def _thinking_stream() -> TextIO:
    return sys.stdout if sys.stdout.isatty() else sys.stderr


async def _say(talker: Talker, messages: Messages, writer: Writer) -> bool:
    """Write one reply; whether it came to its end. Ctrl-C first ends the thinking."""
    steering = Steering()
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def interrupt() -> None:
        if writer.in_thinking and not steering.answer_now:
            steering.answer_now = True
        else:
            task.cancel()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        async with aclosing(talker.reply(messages, steering)) as pieces:
            async for piece in pieces:
                writer.write(piece)
    except asyncio.CancelledError:
        return False
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        writer.end()
    return True


def say(talker: Talker, messages: Messages, writer: Writer) -> bool:
    """One reply, written as it comes; False if Ctrl-C stopped it."""
    return asyncio.run(_say(talker, messages, writer))


@dataclass
class Chat:
    """One conversation."""

    talker: Talker
    system: str | None = None
    hide_thinking: bool = False
    messages: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> None:
        """Read questions from standard input until it ends."""
        interactive = sys.stdin.isatty()
        if interactive:
            print("/new starts a new conversation; Ctrl-C: answer now, again: stop; Ctrl-D ends.")
        while True:
            try:
                question = input("you> " if interactive else "").strip()
            except EOFError:
                return
            if question == "/new":
                self.messages.clear()
            elif question:
                self._turn(question)

    def _turn(self, question: str) -> None:
        asked = [*self.messages, {"role": "user", "content": question}]
        first = [{"role": "system", "content": self.system}] if self.system else []
        writer = Writer(self.hide_thinking)
        try:
            finished = say(self.talker, first + asked, writer)
        except OpenQwQError as error:
            print(f"qwq: {error}", file=sys.stderr)
            return
        if not finished:
            print("(stopped)", file=sys.stderr)
            return
        _warn(writer.finish)
        self.messages = [*asked, {"role": "assistant", "content": writer.content}]


FIELDS = (
    *("temperature", "top_p", "min_p", "top_k", "max_tokens"),
    *("seed", "thinking_budget", "reasoning_effort"),
)


@contextmanager
def talker(options: Any) -> Iterator[Talker]:
    """Who answers, by the command line's `options`: a model opened here, or an endpoint."""
    body = {name: getattr(options, name) for name in FIELDS}
    body = {name: value for name, value in body.items() if value is not None}
    check({"model": "", "messages": [{"role": "user", "content": ""}], **body}, "ChatRequest")
    if options.url:
        yield RemoteTalker(options.url, options.api_key, {**body, "model": options.model})
        return
    model = opened(options, slots=1)
    try:
        yield LocalTalker(model, body)
    finally:
        model.close()


def opened(options: Any, slots: int) -> OpenedModel:
    """The model that the command line names; OpenQwQError if it names none."""
    if not options.model:
        raise OpenQwQError("no model is named: give one, e.g. runs/demo/stage1 (see qwq models)")
    return open_model(
        options.model,
        options.engine,
        slots,
        options.context,
        precision=options.precision,
        device=options.device,
    )


def ask(talker: Talker, messages: Messages, hide_thinking: bool, as_json: bool) -> None:
    """One question: the answer on standard output, or all of the reply as one JSON object.

    Raises KeyboardInterrupt if Ctrl-C stopped it.
    """
    writer, started = Writer(hide_thinking, quiet=as_json), time.monotonic()
    finished = say(talker, messages, writer)
    finish = writer.finish
    if as_json and finish:
        detail = finish.detail and {"type": finish.detail[0], "message": finish.detail[1]}
        thinking = {} if hide_thinking else {"reasoning": writer.reasoning}
        counts = {"completion": finish.completion_tokens, "reasoning": finish.reasoning_tokens}
        end = {"finish_reason": finish.reason, "finish_details": detail, "tokens": counts}
        seconds = round(time.monotonic() - started, 3)
        whole = {**thinking, "content": writer.content, **end, "seconds": seconds}
        print(json.dumps(whole, ensure_ascii=not sys.stdout.isatty()))
    if not finished:
        raise KeyboardInterrupt
    _warn(finish)


def _warn(finish: Finish | None) -> None:
    if finish and finish.reason == "length":
        why = (
            finish.detail[1] if finish.detail else "the reply was cut off (--max-tokens, --context)"
        )
        print(f"qwq: {why}", file=sys.stderr)


def question(
    words: Sequence[str], files: Sequence[Path], system: str | None
) -> list[dict[str, Any]]:
    """The messages of `qwq ask`: files as named blocks, `-` and a missing question from stdin.

    Raises OpenQwQError for a file that cannot be read as text and where nothing is asked.
    """
    parts = [f"```{file if str(file) != '-' else 'stdin'}\n{_read(file)}\n```" for file in files]
    if len(words) > 1:
        raise OpenQwQError(f"the question has several parts {list(words)}: put it in quotes")
    if not words and Path("-") not in files:
        words = [_read(Path("-"))]
    text = "\n\n".join([*parts, *words]).strip()
    if not text:
        raise OpenQwQError("nothing is asked: give a question, a file with -f, or pipe one in")
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": text}]


def _read(file: Path) -> str:
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return data.decode().rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise OpenQwQError(f"cannot read {file} as text ({error}): choose another file") from error
