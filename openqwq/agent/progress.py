"""How a tool tells that it goes on: its caller waits longer, and may pass the news on."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class CallProgress:
    """What one call has told of itself; `latest` is when it last did, by the monotonic clock."""

    tell: Callable[[str], None] | None = None
    latest: float = field(default_factory=time.monotonic)

    def report(self, text: str) -> None:
        """Note that the call goes on, and pass on what it says."""
        self.latest = time.monotonic()
        if self.tell:
            self.tell(text)


_CURRENT: ContextVar[CallProgress | None] = ContextVar("progress", default=None)


@contextmanager
def reporting(progress: CallProgress) -> Iterator[None]:
    """Within it, and in tasks begun there, `report_progress` reaches `progress`."""
    token = _CURRENT.set(progress)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def reporter() -> Callable[[str], None]:
    """What tells the waiting caller that the present call goes on, from any task."""
    progress = _CURRENT.get()
    return progress.report if progress else _ignore


def report_progress(text: str = "") -> None:
    """Tell the waiting caller that this call goes on; nothing where nobody waits."""
    reporter()(text)


def _ignore(_: str) -> None:
    pass
