"""Where a learner's ranks and the samplers find each other, and how all learn that it is over.

The first rank keeps a store. Every member watches one of its keys: who leaves writes the reason
there, and all others stop at once instead of waiting for what nobody sends. A store that is gone
says the same of the first rank.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from openqwq.types import OpenQwQError

WATCH = timedelta(days=1)  # after which a member asks the store once more
SLICE = timedelta(seconds=0.2)  # of a wait, after which a member looks whether it is over
FAREWELL = timedelta(seconds=2)  # for a store that may be gone
STORE_GONE = json.dumps([False, "the first rank, which keeps the store, is gone"])


class Seat(NamedTuple):
    """A member's number in one group, whose sender is number 0."""

    group: str
    number: int
    size: int


@dataclass(frozen=True)
class Meeting:
    """Where senders and receivers find each other: a store that the first rank keeps open.

    By NCCL a rank and all receivers are one group. By gloo the rank has a group with each receiver:
    of two members one can always let go, while three may wait for each other in a ring.
    """

    host: str
    port: int
    name: str  # of this meeting, unlike that of any other at this store
    ranks: int
    receivers: int
    backend: str  # gloo or nccl
    timeout: float  # seconds that a member may wait for the others

    @property
    def device(self) -> torch.device:
        """Where the buffers of this process lie."""
        return torch.device("cuda" if self.backend == "nccl" else "cpu")

    def sender_seats(self, rank: int) -> list[Seat]:
        """Where a rank is, in the order in which it joins."""
        if self.backend == "nccl":
            return [Seat(f"{rank}", 0, 1 + self.receivers)]
        return [Seat(f"{rank}-{number}", 0, 2) for number in range(self.receivers)]

    def receiver_seats(self, number: int) -> list[Seat]:
        """Where a receiver is, one seat a rank, in the order in which it joins."""
        if self.backend == "nccl":
            size = 1 + self.receivers
            return [Seat(f"{rank}", 1 + number, size) for rank in range(self.ranks)]
        return [Seat(f"{rank}-{number}", 1, 2) for rank in range(self.ranks)]

    def key(self, name: str) -> str:
        """The store's key for `name` of this meeting."""
        return f"{self.name}/{name}"


def keep_store(host: str) -> Any:
    """A store for meetings at a free port of this machine, which others reach as `host`."""
    return dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]


def end_meeting(meeting: Meeting, error: BaseException) -> None:
    """Send all members home because of `error`; for a driver, which is no member itself."""
    with suppress(dist.DistError):  # the store is gone: every member notices by itself
        _announce(_open_store(meeting, FAREWELL), meeting, _reason("the driver", error))


class Attendance:
    """One member's part in a meeting: its groups, for as long as nobody leaves.

    It joins a group for each of `seats`; `name` is for messages.
    """

    def __init__(self, meeting: Meeting, name: str, seats: Sequence[Seat]) -> None:
        self.meeting = meeting
        self.name = name
        self.seats = seats
        self._lock = threading.Lock()  # over what follows
        self._reason: str | None = None  # for which the meeting ended
        self._groups: list[Any] = []
        self._transfers: list[Transfer] = []
        self._store = _open_store(meeting, timedelta(seconds=meeting.timeout))
        with self.ending_for_all():
            self._arrive()
            for seat in seats:
                self._groups.append(_join(meeting, self._store, seat))
        threading.Thread(target=self._watch, name="weights' end", daemon=True).start()

    def send(self, buffer: Tensor) -> list["Transfer"]:
        """Begin to send `buffer` in all of one's groups."""
        return [self.begin(index, buffer) for index in range(len(self.seats))]

    def begin(self, index: int, buffer: Tensor) -> "Transfer":
        """Begin to send `buffer` in one's group `index`, or to receive into it."""
        transfer = self._begin(index, buffer)
        with self._lock:
            self._transfers = [one for one in self._transfers if not one.is_over]
            self._transfers.append(transfer)
            ended = self._reason is not None
        if ended:  # in the meantime, so that nobody has dropped this one
            transfer.drop()
            raise self.ended()
        return transfer

    def _begin(self, index: int, buffer: Tensor) -> "Transfer":
        with self._lock:
            group = self._groups[index] if self._groups else None
        if group is None:
            raise self.ended()
        options = dist.BroadcastOptions()
        options.rootRank = 0
        return Transfer(self, group.broadcast([buffer], options))

    @contextmanager
    def ending_for_all(self) -> Iterator[None]:
        """Within this an error ends the meeting; where another member was first, raise its reason.

        That is OpenQwQError where the other refused, so that nobody tries again, else RuntimeError.
        """
        try:
            yield
            if self.meeting.device.type == "cuda":
                torch.cuda.synchronize()  # NCCL's work is only queued so far
            if self._reason is not None:
                raise self.ended()
        except BaseException as error:
            if self.end(error):
                raise
            raise self.ended() from error

    def end(self, error: BaseException) -> bool:
        """Leave, and tell all why; whether `error` is the reason that they are told."""
        own = _reason(self.name, error)
        with self._lock:
            known, store = self._reason, self._store
        if known is None:
            try:
                store.set_timeout(FAREWELL)
                known = _announce(store, self.meeting, own)
            except dist.DistError:
                known = STORE_GONE
            self._close(known)
        return known == own

    def _arrive(self) -> None:
        """Wait until all members are here; the end wakes those who wait, too."""
        meeting = self.meeting
        members = meeting.ranks + meeting.receivers
        arrived = self._store.add(meeting.key("arrived"), 1)
        if arrived == members:
            self._store.set(meeting.key("complete"), "")
        try:
            self._store.wait([meeting.key("complete")])
        except dist.DistStoreError as error:
            arrived = self._store.add(meeting.key("arrived"), 0)
            raise RuntimeError(
                f"{arrived} of {members} ranks and samplers met within {meeting.timeout} s"
            ) from error
        ended = meeting.key("ended")
        if self._store.check([ended]):
            self._close(self._store.get(ended).decode())
            raise self.ended()

    def _watch(self) -> None:
        """Wait for the end, by a connection of its own, and drop the groups then."""
        while True:
            try:
                store = _open_store(self.meeting, WATCH)
                store.wait([self.meeting.key("ended")])
                return self._close(store.get(self.meeting.key("ended")).decode())
            except dist.DistStoreError:
                continue  # a day has passed
            except dist.DistError:
                return self._close(STORE_GONE)

    def ended(self) -> Exception:
        """What a member raises once the meeting has ended."""
        assert self._reason is not None
        refused, text = json.loads(self._reason)
        message = f"the push of weights broke off: {text}"
        return OpenQwQError(message) if refused else RuntimeError(message)

    def _close(self, reason: str) -> None:
        """Let go of every connection, so that the others' ends of them break.

        Gloo ends a transfer only when its connection breaks, and a group is gone only when its own
        transfers are: each is dropped in a thread, which may wait until the other end lets go.
        """
        with self._lock:
            if self._reason is None:
                self._reason = reason
            self._store = None
            groups, self._groups = self._groups, []
            for transfer in self._transfers:
                transfer.drop()
        while groups:
            last = [groups.pop()]
            if self.meeting.backend == "nccl":
                last[0].abort()
            threading.Thread(target=last.clear, name="weights' drop", daemon=True).start()


class Transfer:
    """One buffer on its way; it is waited for no longer than its meeting lasts."""

    def __init__(self, attendance: Attendance, work: dist.Work) -> None:
        self._attendance = attendance
        self._work: dist.Work | None = work
        self.is_over = False  # whether it has been waited for

    def wait(self) -> None:
        """Return when the buffer has been sent or filled; on a GPU, when that is queued.

        Raises RuntimeError where the connection breaks, and what `Attendance.ended` says.
        """
        queued = self._attendance.meeting.backend == "nccl"
        work = self._work
        try:
            while work is not None and not queued and not work.is_completed():
                with suppress(RuntimeError):
                    work.wait(SLICE)
                work = self._work
            if work is None:
                raise self._attendance.ended()
            work.wait()
            self.is_over = True
        finally:
            work = None  # an error's traceback holds what is in this frame
            self.drop()

    def drop(self) -> None:
        """Hold the connection no longer, though an error's traceback may hold this."""
        self._work = None


def _reason(name: str, error: BaseException) -> str:
    """Whether `name` refuses, and what it says, as the store carries it."""
    text = str(error) or type(error).__name__
    return json.dumps([isinstance(error, OpenQwQError), f"{name}: {text}"])


def _announce(store: Any, meeting: Meeting, reason: str) -> str:
    """End a meeting for `reason`, unless it has ended; the reason that stands."""
    given: bytes = store.compare_set(meeting.key("ended"), "", reason)
    store.set(meeting.key("complete"), "")
    return given.decode()


def _open_store(meeting: Meeting, waits: timedelta) -> Any:
    return dist.TCPStore(  # type: ignore[attr-defined]
        meeting.host, meeting.port, is_master=False, timeout=waits
    )


def _join(meeting: Meeting, store: Any, seat: Seat) -> Any:
    waits = timedelta(seconds=meeting.timeout)
    own = dist.PrefixStore(meeting.key(seat.group), store)  # type: ignore[attr-defined]
    if meeting.backend == "nccl":
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = waits
        return dist.ProcessGroupNCCL(own, seat.number, seat.size, options)
    return dist.ProcessGroupGloo(own, seat.number, seat.size, waits)
