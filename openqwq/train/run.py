"""A run on disk: its resolved config, exact resume states, and its log."""

import json
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

import torch

from openqwq.config import Config, dump_config
from openqwq.data.files import explained, open_atomically, write_atomically
from openqwq.types import OpenQwQError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Resumable(Protocol):
    """What a stage must find again to go on exactly: a learner, a curriculum."""

    def state(self) -> dict[str, Any]:
        """All of it, in types that torch.save knows."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a `state`."""
        ...


Parts = Mapping[str, Resumable]


class InterruptedRun(Exception):  # noqa: N818 - no error: the user asked for it
    """The user asked to stop; the state is saved and the message says how to go on."""


class Run:
    """A run directory: writes are atomic; one in use is resumed or refused, never overwritten."""

    def __init__(self, directory: Path, config: Config, resume: bool) -> None:
        self.directory, self.config = directory, config
        self._boards: dict[str, SummaryWriter] = {}
        saved = directory / "config.toml"
        if directory.exists() and any(directory.iterdir()):
            if not resume:
                raise OpenQwQError(
                    f"run directory {directory} is not empty: add --resume to go on with it, "
                    "or choose another with --out"
                )
            _refuse_other_config(saved, config)
        with explained(directory):
            directory.mkdir(parents=True, exist_ok=True)
        write_atomically(saved, dump_config(config).encode())

    def save(self, stage: str, parts: Parts) -> None:
        """Save the state of every part of `stage`."""
        self.save_state(stage, {name: part.state() for name, part in parts.items()})

    def restore(self, stage: str, parts: Parts) -> None:
        """Put every part where `save` last left it; a stage that never saved stays as it is."""
        if state := self.load_state(stage):
            for name, part in parts.items():
                part.load_state(state[name])

    def save_state(self, stage: str, state: dict[str, Any]) -> None:
        """Replace the resume state of `stage` in one step; an old one survives a full disk."""
        with open_atomically(self.directory / f"{stage}.state") as file:
            torch.save(state, file)

    def load_state(self, stage: str) -> dict[str, Any] | None:
        """The last saved state of `stage`, or None if it never saved one."""
        path = self.directory / f"{stage}.state"
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, "cpu", weights_only=True)
        except Exception as error:  # torch.load raises any of ten kinds for a damaged file
            # PyTorch goes on with advice that would be unsafe here.
            reason = str(error).partition(". ")[0]
            raise OpenQwQError(
                f"resume state {path} is unreadable ({reason}): remove it to restart this stage"
            ) from error
        return state

    def log(self, stage: str, step: int, record: dict[str, Any]) -> None:
        """Append one line to log.jsonl, and its numbers to TensorBoard."""
        line = json.dumps({"stage": stage, "step": step, **record}) + "\n"
        path = self.directory / "log.jsonl"
        with explained(path), path.open("a") as file:
            file.write(line)
        if stage != "timing":
            board = self._board(stage, step)
            for name, value in _numbers(record, stage):
                board.add_scalar(name, value, step)

    def _board(self, stage: str, step: int) -> "SummaryWriter":
        """The stage's TensorBoard writer; a resumed run hides the steps it writes again."""
        if stage not in self._boards:
            from torch.utils.tensorboard import SummaryWriter

            directory = str(self.directory / "tensorboard" / stage)
            self._boards[stage] = SummaryWriter(directory, purge_step=step, flush_secs=10)
        return self._boards[stage]

    def close(self) -> None:
        """Flush what TensorBoard has not yet written."""
        for board in self._boards.values():
            board.close()

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Log the wall seconds of a part of the run, under the stage `timing`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            self.log("timing", 0, {"name": name, "seconds": round(seconds, 3)})

    def records(self, stage: str) -> list[dict[str, Any]]:
        """The logged lines of `stage`, one a step in order."""
        path = self.directory / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [record for record in map(json.loads, lines) if record["stage"] == stage]

    def forget_after(self, stage: str, step: int) -> None:
        """Drop log lines of `stage` from `step` on: a resumed run writes them again."""
        path = self.directory / "log.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line that a kill cut in half
            if record["stage"] != stage or record["step"] < step:
                kept.append(line + "\n")
        write_atomically(path, "".join(kept).encode())

    @contextmanager
    def stoppable(self) -> Iterator["StopFlag"]:
        """Within this, the first Ctrl-C only sets a flag, so that a step can finish and save."""
        flag = StopFlag()
        previous = signal.signal(signal.SIGINT, flag.raise_flag)
        try:
            yield flag
        finally:
            signal.signal(signal.SIGINT, previous)


class StopFlag:
    """Set by the first Ctrl-C; the second one interrupts at once."""

    def __init__(self) -> None:
        self.is_set = False

    def raise_flag(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.is_set:
            raise KeyboardInterrupt
        self.is_set = True

    def check(self) -> None:
        """Raise Interrupted if Ctrl-C came; call it where the state has just been saved."""
        if self.is_set:
            raise InterruptedRun(
                "stopped, everything is saved; go on with the same command and --resume"
            )


def _numbers(record: Mapping[str, Any], path: str) -> Iterator[tuple[str, float]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{path}/{key}")
        elif isinstance(value, int | float):
            yield f"{path}/{key}", value


def _refuse_other_config(saved: Path, config: Config) -> None:
    if not saved.exists():
        raise OpenQwQError(f"{saved.parent} is no run directory (no config.toml): choose another")
    old, new = (
        [line for line in text.splitlines() if not line.startswith("device = ")]
        for text in (saved.read_text(), dump_config(config))  # a run may move to a GPU and back
    )
    if old != new:
        changed = next(
            (pair for pair in zip(old, new, strict=False) if pair[0] != pair[1]),
            ("fewer lines", "more lines"),
        )
        raise OpenQwQError(
            f"run directory {saved.parent} was begun with another config "
            f"({changed[0]!r}, now {changed[1]!r}): use that config, or another --out"
        )
