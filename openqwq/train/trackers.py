"""Where a run's numbers go in addition to log.jsonl: TensorBoard, wandb, trackio."""

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from openqwq.types import OpenQwQError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Tracker(Protocol):
    """Takes the numbers of one step of one stage."""

    def log(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers by names such as `rl/reward`."""
        ...

    def close(self) -> None:
        """Flush what was not yet written."""
        ...


class TensorBoard:
    """One writer for each stage; a resumed run hides the steps that it writes again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writers: dict[str, SummaryWriter] = {}

    def log(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        if stage not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            directory = str(self._directory / stage)
            self._writers[stage] = SummaryWriter(directory, purge_step=step, flush_secs=10)
        for name, value in numbers.items():
            self._writers[stage].add_scalar(name, value, step)

    def close(self) -> None:
        """See `Tracker.close`."""
        for writer in self._writers.values():
            writer.close()


class Hosted:
    """wandb, or trackio, which has the same interface; steps of all stages count up."""

    def __init__(self, package: str, directory: Path, config: Mapping[str, Any]) -> None:
        self._module: Any = importlib.import_module(package)
        self._run = self._module.init(
            project="openqwq", name=directory.name, config=dict(config), resume="allow"
        )

    def log(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        self._module.log({**numbers, f"{stage}/step": step})

    def close(self) -> None:
        """See `Tracker.close`."""
        self._module.finish()


def check_trackers(names: Sequence[str]) -> None:
    """Raise OpenQwQError for a tracker that is not installed."""
    for name in names:
        if name == "tensorboard":
            continue
        if importlib.util.find_spec(name) is None:
            raise OpenQwQError(
                f"trackers names {name!r}, which is not installed: pip install {name}, or leave it "
                "out"
            )


def open_trackers(
    names: Sequence[str], directory: Path, config: Mapping[str, Any]
) -> list[Tracker]:
    """The trackers of a run."""
    opened: list[Tracker] = []
    for name in names:
        if name == "tensorboard":
            opened.append(TensorBoard(directory / "tensorboard"))
        else:
            opened.append(Hosted(name, directory, config))
    return opened


def numbers_of(record: Mapping[str, Any], path: str) -> dict[str, float]:
    """Every number of a log line, by its path: {"a": {"b": 1}} gives {"path/a/b": 1}."""
    numbers: dict[str, float] = {}
    for key, value in record.items():
        name = f"{path}/{key}"
        if isinstance(value, Mapping):
            numbers |= numbers_of(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[name] = value
    return numbers
