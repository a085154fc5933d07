"""A chat and single questions in the terminal: thinking dimmed or apart, the answer after it.

The first Ctrl-C ends the thinking, the next one the reply. Piped, the answer alone is on standard
output and the thinking on standard error.
"""

import asyncio
import json
import os
import signal
import stat
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from openqwq.engine.open import OpenedModel, open_model
from openqwq.engine.verbs import chosen_adapter, llama_options
from openqwq.serve.asking import ask_chat
from openqwq.serve.client import RemoteTalker
from openqwq.serve.protocol import check
from openqwq.serve.reply import Finish, Piece, reply
from openqwq.serve.terminal_commands import COMMANDS, Dialogue, fenced
from openqwq.serve.terminal_lines import Lines, open_lines
from openqwq.serve.terminal_markdown import CONTROL, MarkdownWriter
from openqwq.types import OpenQwQError, Steering

DIM, PLAIN = "\x1b[2m", "\x1b[0m"
ChatMessages = Sequence[dict[str, Any]]


class Talker(Protocol):
    """Whatever answers a chat: a model here or a server elsewhere.

    `body` holds the fields of a ChatRequest other than its messages; `/set` changes them.
    """

    @property
    def body(self) -> dict[str, Any]:
        """The options sent along."""
        ...

    def reply(
        self, messages: ChatMessages, steering: Steering
    ) -> AsyncGenerator[Piece, None]:
        """Stream one reply; `steering` may end its thinking."""
        ...


@dataclass(frozen=True)
class LocalTalker:
    """A model in this process."""

    model: OpenedModel
    body: dict[str, Any]

    async def reply(
        self, messages: ChatMessages, steering: Steering
    ) -> AsyncGenerator[Piece, None]:
        """See `Talker.reply`; raises OpenQwQError for a chat that does not fit."""
        ask = ask_chat(self.model, {**self.body, "messages": messages})
        async with aclosing(reply(self.model, ask, steering=steering)) as pieces:
            async for piece in pieces:
                yield piece


@dataclass
class PlainWriter:
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
            return

        text = piece.text
        if piece.call is not None:
            text = f"[calls {json.dumps(piece.call)}]"
        if text:
            self._switch(False)
            self.content += piece.text
            self._print(text, sys.stdout)

    def end(self) -> None:
        """Close the reply."""
        self._switch(False)
        self._print("\n", sys.stdout)

    def _print(self, text: str, stream: TextIO) -> None:
        if not self.quiet:
            shown = (
                CONTROL.sub("\N{REPLACEMENT CHARACTER}", text) if stream.isatty() else text
            )
            print(shown, end="", flush=True, file=stream)

    def _switch(self, thinking: bool) -> None:
        if thinking != self._dimmed and not self.quiet:
            stream = _thinking_stream()
            dim, plain = (DIM, PLAIN) if stream.isatty() else ("", "")
            print(dim if thinking else f"{plain}\n", end="", flush=True, file=stream)
        self._dimmed = thinking


def _thinking_stream() -> TextIO:
    return sys.stdout if sys.stdout.isatty() else sys.stderr


async def _say(
    talker: Talker, messages: ChatMessages, writer: PlainWriter | MarkdownWriter
) -> bool:
    """Write one reply; whether it came to its end. Ctrl-C first ends the thinking."""
    steering = Steering()
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
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


def say(
    talker: Talker, messages: ChatMessages, writer: PlainWriter | MarkdownWriter
) -> bool:
    """One reply, written while it is made; False if Ctrl-C stopped it."""
    return asyncio.run(_say(talker, messages, writer))


class TerminalChat:
    """One conversation."""

    def __init__(
        self, talker: Talker, system: str | None = None, hide_thinking: bool = False
    ) -> None:
        self._talker = talker
        self._hide_thinking = hide_thinking
        self.dialogue = Dialogue(self._apply, dict(talker.body), FIELDS, system)

    def run(self, lines: Lines | None = None) -> None:
        """Answer what `lines` (default: standard input) ask until they end."""
        lines = lines or open_lines(COMMANDS)
        if lines.interactive:
            print("/help lists the commands. Ctrl-C: answer now, again: stop. Ctrl-D ends.")
        while True:
            try:
                line = lines.read(self.dialogue.to_edit).strip()
                if line:
                    self._take(line)
                else:
                    self.dialogue.give_up_editing()
            except EOFError:
                return

    def _take(self, line: str) -> None:
        try:
            question = self.dialogue.run(line)
            if question is not None:
                self._turn(question)
        except OpenQwQError as error:
            print(f"qwq: {error}", file=sys.stderr)

    def _turn(self, question: str) -> None:
        messages = self.dialogue.messages
        messages.append({"role": "user", "content": question})
        writer: PlainWriter | MarkdownWriter = PlainWriter(self._hide_thinking)
        if sys.stdout.isatty():
            writer = MarkdownWriter(self._hide_thinking)
            writer.begin()
        answered = False
        try:
            answered = say(self._talker, self.dialogue.sent(), writer)
        finally:
            if not answered:
                messages.pop()
                self.dialogue.restore()
        if not answered:
            print("(stopped)", file=sys.stderr)
            return
        _warn(writer.finish)
        self.dialogue.taken_back.clear()
        messages.append({"role": "assistant", "content": writer.content})

    def _apply(self, options: dict[str, Any]) -> None:
        check_options(options)
        body = self._talker.body
        for name in FIELDS:
            body.pop(name, None)
        body.update(options)


FIELDS = (
    *("temperature", "top_p", "min_p", "top_k", "max_tokens"),
    *("seed", "thinking_budget", "reasoning_effort"),
)


@contextmanager
def talker(options: Any) -> Iterator[Talker]:
    """Who answers, by the command line's `options`: a model opened here, or an endpoint."""
    body = {name: getattr(options, name) for name in FIELDS}
    body = {name: value for name, value in body.items() if value is not None}
    check_options(body)
    if options.url:
        yield RemoteTalker(options.url, options.api_key, {**body, "model": options.model})
        return
    model = opened(options, slots=1)
    try:
        yield LocalTalker(model, body)
    finally:
        model.close()


def check_options(body: dict[str, Any]) -> None:
    """Raise OpenQwQError for options that no chat request may have."""
    check(
        {"model": "", "messages": [{"role": "user", "content": ""}], **body}, "ChatRequest"
    )


def opened(options: Any, slots: int) -> OpenedModel:
    """The model that the command line names; OpenQwQError if it names none."""
    if not options.model:
        raise OpenQwQError(
            "no model is named: give one, e.g. runs/demo/stage1 (see qwq models)"
        )
    return open_model(
        options.model,
        options.engine,
        slots,
        options.context,
        precision=options.precision,
        device=options.device,
        **chosen_adapter(options.adapter),
        llama=llama_options(options),
    )


def ask(talker: Talker, messages: ChatMessages, hide_thinking: bool, as_json: bool) -> None:
    """One question: the answer on standard output, or all of the reply as one JSON object.

    Raises KeyboardInterrupt if Ctrl-C stopped it.
    """
    writer = PlainWriter(hide_thinking, quiet=as_json)
    started = time.monotonic()
    finished = say(talker, messages, writer)
    finish = writer.finish
    if as_json and finish:
        detail = finish.detail and {"type": finish.detail[0], "message": finish.detail[1]}
        thinking = {} if hide_thinking else {"reasoning": writer.reasoning}
        counts = {
            "completion": finish.completion_tokens,
            "reasoning": finish.reasoning_tokens,
        }
        end = {"finish_reason": finish.reason, "finish_details": detail, "tokens": counts}
        seconds = round(time.monotonic() - started, 3)
        whole = {**thinking, "content": writer.content, **end, "seconds": seconds}
        print(json.dumps(whole, ensure_ascii=not sys.stdout.isatty()))
    if not finished:
        raise KeyboardInterrupt
    _warn(finish)


def _warn(finish: Finish | None) -> None:
    if finish and finish.reason == "length":
        why = "the reply was cut off (--max-tokens, --context)"
        if finish.detail:
            _, why = finish.detail
        print(f"qwq: {why}", file=sys.stderr)


def question(
    words: Sequence[str], files: Sequence[Path], system: str | None
) -> list[dict[str, Any]]:
    """The messages of `qwq ask`: files as named blocks, what is piped in, the question.

    `-` among the files is standard input; so is what is piped in, before the question or as it.
    Raises OpenQwQError for a file that cannot be read as text and where nothing is asked.
    """
    if len(words) > 1:
        raise OpenQwQError(
            f"the question has several parts {list(words)}: put it in quotes"
        )
    parts = []
    for file in files:
        name = "stdin" if str(file) == "-" else str(file)
        parts.append(fenced(_read(file), name))
    if Path("-") not in files and (not words or _is_piped()):
        piped = _read(Path("-"))
        if words and piped.strip():
            parts.append(fenced(piped, "stdin"))
        elif not words:
            parts.append(piped)
    text = "\n\n".join([*parts, *words]).strip()
    if not text:
        raise OpenQwQError(
            "nothing is asked: give a question, a file with -f, or pipe one in"
        )
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": text}]


def _is_piped() -> bool:
    """Whether standard input is a pipe or a file: one inherited from a service may never end."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _read(file: Path) -> str:
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return data.decode().rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise OpenQwQError(
            f"cannot read {file} as text ({error}): choose another file"
        ) from error
