"""A server that says one prepared text: PORT STORE TEXT. It stands in a process to be killed."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from openqwq.engine.open import OpenedModel
from openqwq.serve.catalogue import Catalogue
from openqwq.serve.server import ServerOptions, serve
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Completion, SamplingParams, Steering, TokenEvent

DELAY = 0.03  # seconds a token


class Scripted:
    """Says `text` to whatever it is asked."""

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        self._ids = [*tokenizer.encode(text, allow_special=True), tokenizer.eos_ids[0]]

    async def generate(
        self, prompt_ids: Sequence[int], params: SamplingParams, n: int = 1
    ) -> list[Completion]:
        raise NotImplementedError

    async def stream(
        self, prompt_ids: Sequence[int], params: SamplingParams, steering: Steering | None = None
    ) -> AsyncIterator[TokenEvent]:
        for place, token_id in enumerate(self._ids, 1):
            await asyncio.sleep(DELAY)
            reason = "stop" if place == len(self._ids) else None
            yield TokenEvent(token_id, -0.5, True, reason)

    def close(self) -> None:
        pass


def main() -> None:
    port, store, text = sys.argv[1:]
    tokenizer = Tokenizer.train([text] * 4, 300)
    engine = Scripted(tokenizer, text)
    model = OpenedModel("scripted", engine, tokenizer, 4096, "torch", "a test")
    serve(Catalogue.of(model), ServerOptions(store=Path(store)), "127.0.0.1", int(port))


if __name__ == "__main__":
    main()
