"""Where long work shows that it is alive: bars on a terminal, plain lines where output is piped.

A plain line comes when a stage ends and at least every 30 seconds, also before a stage's first
report and between two stages: a thread watches the clock.
"""

import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)

# units done, and what to show of the last; the first report says where the work begins
Progress = Callable[[int, Mapping[str, Any]], None]

SHOWN = ("correct", "reward", "thinking_tokens", "cross_entropy", "entropy")
EVERY = 30.0  # seconds between plain lines, at most


class Outlook(Protocol):
    """How long a run of several stages still takes."""

    def left(self, part: str, done: int, total: int) -> float | None:
        """Seconds to the end of the run, or None where that cannot be told."""
        ...


class Display:
    """Shows the stages of a run on standard error."""

    def __init__(self, every: float = EVERY, outlook: Outlook | None = None) -> None:
        self.console = Console(stderr=True)
        self._bars: Bars | None = None
        self._outlook = outlook
        self._lines = PlainLines(self._print, every, outlook)
        self._watched = False

    @contextmanager
    def stage(self, title: str, total: int, unit: str = "step") -> Iterator[Progress]:
        """Yield the function that reports (units done, metrics); stages may be nested."""
        if sys.stderr.isatty():
            with self._bar(title, total) as report:
                yield report
            return
        if not self._watched:
            self._watched = True
            self._watch()
        with self._lines.stage(title, total, unit) as report:
            yield report

    @contextmanager
    def _bar(self, title: str, total: int) -> Iterator[Progress]:
        """A bar; one display holds the bars of nested stages, as a terminal has room for one."""
        outermost = self._bars is None
        if self._bars is None:
            self._bars = _new_bars(self.console)
        bars = self._bars
        task = bars.add_task(title, total=total, metrics="")

        def report(done: int, metrics: Mapping[str, Any]) -> None:
            shown = [f"{name} {metrics[name]:.3g}" for name in SHOWN if name in metrics]
            shown += _run_left(self._outlook, title, done, total)
            bars.update(task, completed=done, metrics="  ".join(shown))

        if not outermost:
            yield report
            return
        try:
            with bars:
                yield report
        finally:
            self._bars = None

    def _watch(self) -> None:
        """Have a thread look at the clock for as long as this display lives."""
        gone = threading.Event()
        weakref.finalize(self, gone.set)
        lines = self._lines

        def look() -> None:
            while not gone.wait(min(1.0, lines.every / 4)):
                lines.tell_if_silent()

        threading.Thread(target=look, name="progress", daemon=True).start()

    @staticmethod
    def _print(line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _new_bars(console: Console) -> Bars:
    return Bars(
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}"),
        console=console,
    )


@dataclass
class _Stage:
    """What is known of a stage; `first` are the units done when it begins or is resumed."""

    title: str
    total: int
    unit: str
    started: float
    done: int | None = None
    first: int = 0
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def line(self, now: float) -> str:
        """Stage, unit of units, one figure, time left."""
        elapsed = now - self.started
        done = self.done or 0
        place = f"{self.title}: {self.unit} {done} of {self.total}"
        worked = done - self.first
        if worked == 0:
            return f"{place}, {_duration(elapsed)} so far"
        left = elapsed / worked * (self.total - done)
        return ", ".join([place, *_figure(self.metrics), f"about {_duration(left)} left"])


class PlainLines:
    """Tells of the stages in plain lines, `every` so many seconds at the latest."""

    def __init__(
        self, tell: Callable[[str], None], every: float, outlook: Outlook | None = None
    ) -> None:
        self.every = every
        self._tell = tell
        self._outlook = outlook
        self._lock = threading.Lock()
        self._open: list[_Stage] = []
        self._ended = ""
        self._told = time.monotonic()

    @contextmanager
    def stage(self, title: str, total: int, unit: str = "step") -> Iterator[Progress]:
        """Yield the function that reports (units done, metrics)."""
        stage = _Stage(title, total, unit, time.monotonic())
        with self._lock:
            self._open.append(stage)

        def report(done: int, metrics: Mapping[str, Any]) -> None:
            with self._lock:
                if stage.done is None:
                    stage.first = done
                stage.done = done
                stage.metrics = metrics
            self.tell_if_silent()

        try:
            yield report
        except BaseException:
            self._close(stage)
            raise
        self._close(stage)
        elapsed = _duration(time.monotonic() - stage.started)
        self._say(", ".join([f"{title}: done in {elapsed}", *_figure(stage.metrics)]))

    def tell_if_silent(self) -> None:
        """A line about the innermost stage, if the last line is old enough."""
        now = time.monotonic()
        with self._lock:
            if now - self._told < self.every:
                return
            if self._open:
                stage = self._open[-1]
                done = stage.done or 0
                whole = _run_left(self._outlook, stage.title, done, stage.total)
                line = ", ".join([stage.line(now), *whole])
            else:
                line = f"after {self._ended}: preparing what comes next"
        self._say(line)

    def _close(self, stage: _Stage) -> None:
        with self._lock:
            self._open.remove(stage)
            self._ended = stage.title

    def _say(self, line: str) -> None:
        with self._lock:
            self._told = time.monotonic()
        self._tell(line)


def _figure(metrics: Mapping[str, Any]) -> list[str]:
    """The first of SHOWN, or else the first number, with its name."""
    names = [name for name in SHOWN if name in metrics]
    names += [name for name, value in metrics.items() if isinstance(value, int | float)]
    return [f"{names[0].replace('_', ' ')} {metrics[names[0]]:.3g}"] if names else []


def _run_left(outlook: Outlook | None, title: str, done: int, total: int) -> list[str]:
    """How long the whole run still takes, where that can be told."""
    if outlook is None:
        return []
    left = outlook.left(title, done, total)
    if left is None:
        return []
    return [f"the whole run: about {_duration(left)}"]


def _duration(seconds: float) -> str:
    """As a reader says it: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
