"""A chat in the terminal: thinking dimmed while it streams, the answer after it."""

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path

from openqwq.engine.engine import Engine, EngineLimits
from openqwq.model import checkpoint
from openqwq.text.stream import Delta, ReplyParser, starts_in_thinking
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Message, OpenQwQError, SamplingParams

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def chat(directory: Path, temperature: float, max_tokens: int, seed: int) -> None:
    """Talk to the model in `directory` until standard input ends."""
    model = checkpoint.load(directory)
    tokenizer = Tokenizer.load(directory)
    length = min(model.config.max_position_embeddings, 32768)
    engine = Engine(model, tokenizer, EngineLimits(1, length, 2048, 1))
    params = SamplingParams(
        temperature, max_tokens=max_tokens, stop_token_ids=tokenizer.eos_ids, seed=seed
    )
    try:
        Chat(engine, tokenizer, params).run()
    finally:
        engine.close()


@dataclass
class Chat:
    """One conversation with one model."""

    engine: Engine
    tokenizer: Tokenizer
    params: SamplingParams
    messages: list[Message] = field(default_factory=list)

    def run(self) -> None:
        """Read questions from standard input until it ends; Ctrl-C stops a reply."""
        interactive = sys.stdin.isatty()
        if interactive:
            print("/new starts a new conversation, Ctrl-C stops a reply, Ctrl-D ends.")
        while True:
            try:
                question = input("you> " if interactive else "").strip()
            except EOFError:
                return
            if not question:
                continue
            if question == "/new":
                self.messages.clear()
                continue
            self.messages.append({"role": "user", "content": question})
            try:
                asyncio.run(self._reply())
            except KeyboardInterrupt:
                print(f"{PLAIN if sys.stdout.isatty() else ''}\n(stopped)")
                self.messages.pop()
            except OpenQwQError as error:
                print(f"qwq: {error}", file=sys.stderr)
                self.messages.pop()

    async def _reply(self) -> None:
        prompt_ids = encode_chat(self.tokenizer, self.messages)
        parser = ReplyParser(self.tokenizer, starts_in_thinking(self.tokenizer, prompt_ids))
        writer = Writer(colour=sys.stdout.isatty())
        finish_reason = None
        async for event in self.engine.stream(prompt_ids, self.params):
            writer.write(parser.feed(event.token_id))
            finish_reason = event.finish_reason
        writer.write(parser.finish())
        writer.end()
        if finish_reason == "length":
            print("qwq: the reply was cut off at its token limit (--max-tokens)", file=sys.stderr)
        self.messages.append({"role": "assistant", "content": writer.content})


@dataclass
class Writer:
    """Prints deltas; thinking goes dim on a terminal, and to standard error when piped."""

    colour: bool
    content: str = ""
    thinking: bool = False

    def write(self, deltas: list[Delta]) -> None:
        """Show pieces of a reply as they come."""
        for delta in deltas:
            if delta.kind == "reasoning":
                self._switch(True)
                print(
                    delta.text, end="", flush=True, file=sys.stdout if self.colour else sys.stderr
                )
            else:
                self._switch(False)
                text = delta.text if delta.call is None else f"[calls {delta.call}]"
                self.content += delta.text
                print(text, end="", flush=True)

    def end(self) -> None:
        """Close the reply."""
        self._switch(False)
        print(flush=True)

    def _switch(self, thinking: bool) -> None:
        if thinking != self.thinking:
            stream = sys.stdout if self.colour else sys.stderr
            marks = (DIM, f"{PLAIN}\n") if self.colour else ("", "\n")
            print(marks[0] if thinking else marks[1], end="", flush=True, file=stream)
            self.thinking = thinking
