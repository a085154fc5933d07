"""A run on disk: its resolved config, exact resume states, its log and its rollouts."""

import json
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch

from openqwq.config import Config, dump_config, load_config
from openqwq.data.files import explained, open_atomically, write_atomically
from openqwq.evaluation.run_data import FINISHED
from openqwq.train.resume import check_resumable
from openqwq.train.trackers import Tracker, numbers_of, open_trackers
from openqwq.types import OpenQwQError, Products

CONFIG = "config.toml"
LOCK = "data.lock"
PRECISION = "precision.json"  # in which the run multiplies
MICRO_BATCHES = "micro_batches.json"  # tokens, of each stage whose config leaves them open
SLOTS = "slots.json"  # of the engine, where the config leaves them open
# What a run writes up to the end of its first step; one that failed by then may begin again.
PREPARED = {
    CONFIG,
    PRECISION,
    MICRO_BATCHES,
    SLOTS,
    LOCK,
    "python",
    "tokenizer",
    "tensorboard",
    "log.jsonl",
    "errors.jsonl",
    "evaluation",
    "rollouts",
}


class Resumable(Protocol):
    """What a stage must find again to go on exactly: a learner, a curriculum."""

    def state(self) -> dict[str, Any]:
        """All of it, in types that torch.save knows."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a `state`."""
        ...


Parts = Mapping[str, Resumable]
# steps done -> what to log of them
Evaluate = Callable[[int], Awaitable[dict[str, Any]]]


class InterruptedRun(Exception):  # noqa: N818 - no error: the user asked for it
    """The user asked to stop; the state is saved and the message says how to go on."""


class Run:
    """A run directory: writes are atomic; one in use is resumed or refused, never overwritten."""

    def __init__(self, directory: Path, config: Config, resume: bool) -> None:
        self.directory = directory
        self.config = config
        self._trackers: list[Tracker] | None = None
        if has_begun(directory):
            if not resume:
                raise OpenQwQError(
                    f"run directory {directory} is not empty: add --resume to go on with it, "
                    "or choose another with --out"
                )
            self._check_config()
        elif not (resume and self._is_unchanged()):
            _clear(directory)
        with explained(directory):
            directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / CONFIG, dump_config(config).encode())

    def save(self, stage: str, parts: Parts) -> None:
        """Replace the resume state of `stage` in one step; an old one survives a full disk."""
        state = {name: part.state() for name, part in parts.items()}
        with open_atomically(self.directory / f"{stage}.state") as file:
            torch.save(state, file)

    def restore(self, stage: str, parts: Parts) -> None:
        """Put every part where `save` last left it; a stage that never saved stays as it is."""
        if state := self.load_state(stage):
            for name, part in parts.items():
                part.load_state(state[name])

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

    def finished(self, stage: str) -> int | None:
        """The steps after which the saved result of `stage` was made; None if there is none."""
        path = self.directory / FINISHED
        steps: int | None = None
        if path.exists():
            steps = json.loads(path.read_text()).get(stage)
        return steps

    def finish(self, stage: str, steps: int) -> None:
        """Note that the result of `stage` is saved."""
        path = self.directory / FINISHED
        found = json.loads(path.read_text()) if path.exists() else {}
        write_atomically(path, json.dumps({**found, stage: steps}, indent=1).encode())

    def recorded_precision(self) -> Products | None:
        """What the run has multiplied in so far; None where it has not begun."""
        path = self.directory / PRECISION
        found: Products | None = None
        if path.exists():
            found = json.loads(path.read_text())
        return found

    def record_precision(self, products: Products) -> None:
        """Keep what the run multiplies in, so that it goes on in the same."""
        if self.recorded_precision() != products:
            write_atomically(self.directory / PRECISION, json.dumps(products).encode())

    def micro_batch(self, stage: str, choose: Callable[[], int]) -> int:
        """A stage's micro-batch in tokens; chosen once, so that a resumed run adds up as before."""
        return self._chosen(MICRO_BATCHES, stage, choose)

    def slots(self, choose: Callable[[], int]) -> int:
        """The engine's slots; chosen once, so that a resumed run batches as before."""
        return self._chosen(SLOTS, "slots", choose)

    def _chosen(self, file: str, name: str, choose: Callable[[], int]) -> int:
        path = self.directory / file
        known: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        if name not in known:
            known[name] = choose()
            write_atomically(path, json.dumps(known, indent=1).encode())
        return known[name]

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Yield the path of a new directory that takes the place of `name`, if there is one."""
        target = self.directory / name
        old = self.directory / f".{name}.old"
        fresh = self.directory / f".{name}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        yield fresh
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
        shutil.rmtree(old, ignore_errors=True)

    def log(self, stage: str, step: int, record: Mapping[str, Any]) -> None:
        """Append one line to log.jsonl, and its numbers to the trackers."""
        self._append("log.jsonl", [{"stage": stage, "step": step, **record}])
        if stage == "timing":
            return
        if self._trackers is None:
            names = self.config.trackers
            self._trackers = open_trackers(
                names, self.directory, {"seed": self.config.seed}
            )
        for tracker in self._trackers:
            tracker.log(stage, step, numbers_of(record, stage))

    def add_rollouts(self, stage: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append attempts to rollouts/STAGE.jsonl, where `qwq rollouts` reads them."""
        self._append(f"rollouts/{stage}.jsonl", rows)

    def add_errors(self, stage: str, step: int, details: Iterable[str]) -> None:
        """Append what judges raised to errors.jsonl, tracebacks included."""
        rows = [{"stage": stage, "step": step, "detail": detail} for detail in details]
        if rows:
            self._append("errors.jsonl", rows)

    def close(self) -> None:
        """Flush what trackers have not yet written."""
        for tracker in self._trackers or ():
            tracker.close()

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Log the wall seconds of a part of the run, under the stage `timing`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            self.log("timing", 0, {"name": name, "seconds": round(seconds, 3)})

    def log_lines(self, stage: str) -> list[dict[str, Any]]:
        """The logged lines of `stage`, in order."""
        path = self.directory / "log.jsonl"
        return [record for record in _lines(path) if record["stage"] == stage]

    def forget_after(self, stage: str, step: int) -> None:
        """Drop what was logged of `stage` from `step` on: a resumed run writes it again."""
        for name in ("log.jsonl", "errors.jsonl"):
            _keep(
                self.directory / name,
                lambda row: row["stage"] != stage or row["step"] < step,
            )
        _keep(
            self.directory / "rollouts" / f"{stage}.jsonl", lambda row: row["step"] < step
        )

    @contextmanager
    def stoppable(self) -> Iterator["StopFlag"]:
        """Within this, the first Ctrl-C only sets a flag, so that a step can finish and save."""
        flag = StopFlag()
        previous = signal.signal(signal.SIGINT, flag.raise_flag)
        try:
            yield flag
        finally:
            signal.signal(signal.SIGINT, previous)

    def _append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        path = self.directory / name
        text = "".join(json.dumps(row) + "\n" for row in rows)
        with explained(path):
            path.parent.mkdir(exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(text)

    def _check_config(self) -> None:
        saved = self.directory / CONFIG
        if not saved.exists():
            raise OpenQwQError(
                f"{self.directory} is not a run directory (no {CONFIG}): choose another"
            )
        if not _is_of_a_run(self.directory):
            raise OpenQwQError(
                f"{self.directory} is not a run directory (no run wrote its {CONFIG}): choose "
                "another"
            )
        begun = begun_stages(self.directory)
        check_resumable(
            load_config([saved]), self.config, begun, f"run directory {self.directory}"
        )

    def _is_unchanged(self) -> bool:
        """Whether a run without a step was of this config: its first evaluation still holds."""
        saved = self.directory / CONFIG
        if not saved.exists():
            return False
        before = load_config([saved])
        begun = {stage.name: 0 for stage in before.stages}
        try:
            check_resumable(before, self.config, begun, "")
        except OpenQwQError:
            return False
        return True


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
        """Raise InterruptedRun if Ctrl-C came; call it where the state has just been saved."""
        if self.is_set:
            raise InterruptedRun(
                "stopped, everything is saved; go on with the same command and --resume"
            )


def has_begun(directory: Path) -> bool:
    """Whether a directory holds a step of a run, or files of something else."""
    if not directory.exists():
        return False
    names = {path.name for path in directory.iterdir() if not path.name.startswith(".")}
    if names <= PREPARED and CONFIG in names and _is_of_a_run(directory):
        return bool(begun_stages(directory))
    return bool(names)


def _is_of_a_run(directory: Path) -> bool:
    """Whether a run wrote the config in `directory`, or its user did before any run."""
    if (directory / LOCK).exists() or begun_stages(directory):
        return True
    saved = directory / CONFIG
    try:
        resolved = dump_config(load_config([saved]))
    except OpenQwQError:
        return False
    return saved.read_text("utf-8") == resolved


def begun_stages(directory: Path) -> dict[str, int]:
    """The stages that have logged a step or saved a state, with the steps that were logged."""
    begun: dict[str, int] = {}
    for record in _lines(directory / "log.jsonl"):
        if record["stage"] != "timing":
            begun[record["stage"]] = max(begun.get(record["stage"], 0), record["step"] + 1)
    for path in directory.glob("*.state"):
        begun.setdefault(path.stem, 0)
    return begun


def _clear(directory: Path) -> None:
    """Remove what a run left that failed before the end of its first step."""
    if not directory.exists():
        return
    for name in PREPARED:
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file, without a last line that a kill cut in half."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


def _keep(path: Path, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
    """Leave only the wanted rows of a JSONL file."""
    if not path.exists():
        return
    with open_atomically(path) as file:
        for row in _lines(path):
            if wanted(row):
                file.write(json.dumps(row).encode() + b"\n")
