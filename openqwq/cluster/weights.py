"""Weights by way of a shared directory: for samplers that are not our own process or actor."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from openqwq.types import OpenQwQError

COMPLETE = "COMPLETE"


@dataclass(frozen=True)
class DirectoryLink:
    """A `WeightLink` that writes `version-N/model.safetensors`, then its completion marker.

    `notify(directory, version)` tells the sampler to read; only the last two versions are kept.
    """

    directory: Path
    notify: Callable[[Path, int], None]

    def push(self, named_params: Iterable[tuple[str, Tensor]], version: int) -> None:
        """See `WeightLink.push`."""
        target = self.directory / f"version-{version}"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        tensors = {name: value.contiguous() for name, value in named_params}
        save_file(tensors, target / "model.safetensors")
        (target / COMPLETE).touch()
        self.notify(target, version)
        for old in versions(self.directory)[:-2]:
            shutil.rmtree(self.directory / f"version-{old}", ignore_errors=True)


def versions(directory: Path) -> list[int]:
    """The complete versions in a directory, oldest first."""
    found = (path.parent.name for path in directory.glob(f"version-*/{COMPLETE}"))
    return sorted(int(name.removeprefix("version-")) for name in found)


def read_version(directory: Path) -> dict[str, torch.Tensor]:
    """One version's tensors; raises OpenQwQError where its marker is missing."""
    if not (directory / COMPLETE).exists():
        raise OpenQwQError(
            f"weights {directory} are incomplete (no {COMPLETE}): wait or push again"
        )
    tensors: dict[str, torch.Tensor] = load_file(directory / "model.safetensors")
    return tensors
