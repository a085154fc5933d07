"""Weights by way of a directory: for samplers that read them from disk."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

COMPLETE = "COMPLETE"


def write_version(
    directory: Path, named_params: Iterable[tuple[str, Tensor]], version: int
) -> Path:
    """Write `version-N/model.safetensors`, then its completion marker; returns `version-N`.

    Only the last two versions are kept: the one before may still be read.
    """
    target = directory / f"version-{version}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    save_file(
        {name: value.contiguous() for name, value in named_params}, target / "model.safetensors"
    )
    (target / COMPLETE).touch()
    for old in versions(directory)[:-2]:
        shutil.rmtree(directory / f"version-{old}", ignore_errors=True)
    return target


def versions(directory: Path) -> list[int]:
    """The complete versions in a directory, oldest first."""
    found = (path.parent.name for path in directory.glob(f"version-*/{COMPLETE}"))
    return sorted(int(name.removeprefix("version-")) for name in found)
