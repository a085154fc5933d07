"""From what a user names (directory, GGUF file, hub id, URL) to something that generates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from openqwq.engine.engine import Engine, EngineLimits
from openqwq.model import checkpoint
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Generate

EngineName = Literal["auto", "torch", "llamacpp", "remote"]


class Closable(Generate, Protocol):
    """A back end that holds memory, threads or connections until it is closed."""

    def close(self) -> None:
        """Free them; whoever still waits gets a RuntimeError."""
        ...


@dataclass(frozen=True)
class OpenedModel:
    """A model ready to generate, whatever runs it; `why` says which engine was chosen and why."""

    name: str
    generate: Closable
    tokenizer: Tokenizer
    context_length: int  # prompt and completion together, tokens
    engine: EngineName
    why: str

    def close(self) -> None:
        """Free what the engine holds."""
        self.generate.close()


def open_model(
    model: str, engine: EngineName = "auto", slots: int = 8, context_length: int | None = None
) -> OpenedModel:
    """Load `model` for up to `slots` sequences at once of at most `context_length` tokens.

    Raises OpenQwQError naming what is missing, broken or does not fit the engine.
    """
    directory = Path(model)
    weights = checkpoint.load(directory)
    tokenizer = Tokenizer.load(directory)
    length = min(context_length or 32768, weights.config.max_position_embeddings)
    torch_engine = Engine(weights, tokenizer, EngineLimits(slots, length, 2048, min(slots, 16)))
    return OpenedModel(directory.name, torch_engine, tokenizer, length, "torch", "a directory")
