"""A safetensors file, written one tensor at a time: all of them need not be in memory at once."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}
ALIGNMENT = 8  # bytes, at which the numbers begin


def write_tensors(
    described: Mapping[str, Tensor],
    values: Iterable[tuple[str, Tensor]],
    path: Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a new file of `values`, in any order; `described` has their shapes and types.

    A value is asked for when the one before it is written. Raises OSError where the file cannot be
    written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    # the widest type first, so that every tensor begins at a multiple of its own
    for name in sorted(described, key=lambda name: -described[name].dtype.itemsize):
        tensor = described[name]
        start = end
        end += tensor.numel() * tensor.dtype.itemsize
        header[name] = {
            "dtype": TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }

    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        first = file.tell()
        missing = set(described)
        for name, value in values:
            file.seek(first + header[name]["data_offsets"][0])
            file.write(_bytes_of(value))
            missing.remove(name)
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing)[:3])}")


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data
