"""From a checkpoint directory to a GGUF file and back; what would lose precision must be asked for.

Nothing is loaded as a whole where the source is a directory: its tensors stay mapped and are
written one after another.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from openqwq.model import checkpoint, gguf
from openqwq.model.gguf_header import read_header
from openqwq.model.qwen2 import Qwen2
from openqwq.text.gguf import from_metadata, to_metadata
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import OpenQwQError

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
NAMES = ("f32", "f16", "bf16", "q8_0")


@dataclass(frozen=True)
class Conversion:
    """What was written; `note` says whether the weights are the same numbers as before."""

    target: Path
    type: str
    parameters: int
    note: str


def convert(source: Path, target: Path, type_name: str | None = None) -> Conversion:
    """Write `source` (directory or GGUF file) as `target`, a .gguf file or a new directory.

    Without `type_name` (one of `NAMES`) the weights keep their numbers: the stored type, or fp32
    for a quantised file. Raises OpenQwQError for two of one kind, a type that the target cannot
    hold, and as loading and saving do.
    """
    to_gguf = target.suffix == ".gguf"
    if to_gguf != source.is_dir():
        raise OpenQwQError(
            f"cannot convert {source} to {target}: name a checkpoint directory and a .gguf file"
        )
    if type_name not in (None, *NAMES) or (type_name == "q8_0" and not to_gguf):
        possible = NAMES if to_gguf else tuple(TYPES)
        raise OpenQwQError(
            f"the type {type_name!r} is not possible here: {', '.join(possible)}"
        )
    if to_gguf:
        return _to_gguf(source, target, type_name)
    return _to_directory(source, target, type_name)


def _to_gguf(source: Path, target: Path, type_name: str | None) -> Conversion:
    model = checkpoint.load(source, dtype=None)
    metadata = to_metadata(Tokenizer.load(source), model.config.vocab_size)
    stored = _stored_type(model)
    type_name = type_name or stored
    gguf.save(model, target, type_name.upper(), metadata)
    return _conversion(model, target, stored, type_name)


def _to_directory(source: Path, target: Path, type_name: str | None) -> Conversion:
    header = read_header(source)
    tokenizer = from_metadata(header.metadata, str(source))
    kinds = {t.kind.name.lower() for t in header.tensors.values() if len(t.shape) > 1}
    stored = "f32"  # in which quantised numbers are exact
    if len(kinds) == 1 and kinds <= TYPES.keys():
        (stored,) = kinds
    type_name = type_name or stored
    dtype: torch.dtype | None = TYPES[type_name]
    if type_name == stored != "f32":
        dtype = None  # vectors of a file in f16 are often fp32: they stay so
    model = gguf.load(source, dtype)
    tokenizer.require_fits(model.config.vocab_size)
    checkpoint.save(model, target, tokenizer)
    return _conversion(model, target, stored, type_name)


def _stored_type(model: Qwen2) -> str:
    """The type of all matrices; where they differ fp32, which holds all of them."""
    found = {parameter.dtype for parameter in model.parameters() if parameter.dim() > 1}
    for name, dtype in TYPES.items():
        if found == {dtype}:
            return name
    return "f32"


def _conversion(model: Qwen2, target: Path, stored: str, written: str) -> Conversion:
    count = 0
    exact = written in (stored, "f32")
    for parameter in model.parameters():
        count += parameter.numel()
        exact = exact and parameter.dtype != torch.float64
    note = "the same numbers"
    if not exact:
        note = f"rounded from {stored}: {written} cannot hold every number exactly"
    return Conversion(target, written, count, note)
