"""Progress bars on a terminal; one plain line per stage when piped."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SHOWN = ("reward", "thinking_tokens", "cross_entropy", "entropy")


class Display:
    """Where a run shows that it is alive: standard error."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Callable[[int, Mapping[str, Any]], None]]:
        """Yield the function that reports (steps done, metrics)."""
        columns = (
            TextColumn("{task.description:<16}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
        )
        last = ""
        with Progress(*columns, console=self.console, disable=not sys.stderr.isatty()) as progress:
            bar = progress.add_task(title, total=total, metrics="")

            def report(done: int, metrics: Mapping[str, Any]) -> None:
                nonlocal last
                last = "  ".join(f"{k} {metrics[k]:.3g}" for k in SHOWN if k in metrics)
                progress.update(bar, completed=done, metrics=last)

            yield report
        if not sys.stderr.isatty():
            self.console.print(f"{title}: done  {last}", highlight=False)
