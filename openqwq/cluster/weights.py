"""Weights by way of a shared directory: for samplers that are not our own process or actor."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

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
