"""Ranks and samplers as threads of one process, joined by gloo as on a cluster."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from subprocess import PIPE

import pytest
import torch
from torch import Tensor

from openqwq.cluster import transfer
from openqwq.cluster.meeting import Meeting, end_meeting, keep_store
from openqwq.cluster.transfer import Manifest, Receiver, Sender, manifest_of, rows_of
from openqwq.types import OpenQwQError

RANKS, SAMPLERS = 2, 2
Weights = dict[str, Tensor]


@pytest.fixture
def meeting() -> Iterator[Meeting]:
    store = keep_store("127.0.0.1")
    yield Meeting("127.0.0.1", store.port, "here", RANKS, SAMPLERS, "gloo", 30.0)


def weights(seed: int = 0) -> dict[str, Tensor]:
    """Rows that two ranks cannot share evenly, and a vector that one rank alone holds."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "embedding": (7, 4),
        "norm": (1,),
        "matrix": (5, 3),
        "bias": (6,),
        "head": (7, 4),
    }
    return {
        name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()
    }


def rows(named: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    return {name: value[rows_of(len(value), RANKS, rank)] for name, value in named.items()}


def together(*jobs: Callable[[], object]) -> list[object]:
    """Results of jobs that need each other; an exception is a result."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [pool.submit(job) for job in jobs]
    return [future.exception() or future.result() for future in futures]


def joined(meeting: Meeting) -> tuple[list[Sender], list[Receiver]]:
    senders = [partial(Sender, meeting, rank) for rank in range(RANKS)]
    receivers = [partial(Receiver, meeting, number) for number in range(SAMPLERS)]
    found = together(*senders, *receivers)
    return found[:RANKS], found[RANKS:]  # type: ignore[return-value]


def received(receiver: Receiver, manifest: Manifest) -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    receiver.receive(manifest, found.extend)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_samplers_get_every_parameter_whole_of_ranks_that_hold_rows(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(transfer, "BUCKET_BYTES", 60)
    senders, receivers = joined(meeting)
    for version in (1, 2):
        named = weights(version)
        manifest = manifest_of(version, RANKS, named.items(), dtype)
        assert len(manifest.buckets) >= 3
        jobs: list[Callable[[], object]] = []
        for rank, sender in enumerate(senders):
            jobs.append(partial(sender.send, manifest, rows(named, rank)))
        for receiver in receivers:
            jobs.append(partial(received, receiver, manifest))
        for found in together(*jobs)[RANKS:]:
            assert isinstance(found, list)
            assert [name for name, _ in found] == list(named)
            for name, value in found:
                wire = torch.float32 if named[name].dim() == 1 else dtype
                torch.testing.assert_close(value, named[name].to(wire), atol=0, rtol=0)


def test_nobody_holds_more_than_two_buckets(meeting: Meeting) -> None:
    named = [(f"layer {i}", torch.empty(2**19, 2**5, device="meta")) for i in range(10)]
    buckets = manifest_of(0, RANKS, named, torch.float32).buckets
    assert [len(bucket) for bucket in buckets] == [1] * 10
    halved = manifest_of(0, RANKS, named, torch.bfloat16).buckets
    assert [len(bucket) for bucket in halved] == [2] * 5


def large(monkeypatch: pytest.MonkeyPatch) -> tuple[Manifest, dict[str, Tensor]]:
    """More than sockets and look-ahead can carry to those who go on after somebody stopped."""
    monkeypatch.setattr(transfer, "BUCKET_BYTES", 2**22)
    named = {f"matrix {number}": torch.zeros(2**10, 2**12) for number in range(9)}
    return manifest_of(1, RANKS, named.items(), torch.float32), named


def push(
    senders: list[Sender], receivers: list[Receiver], manifest: Manifest, named: Weights
) -> list[object]:
    """What becomes of both senders and then of both receivers."""
    jobs: list[Callable[[], object]] = []
    for rank, sender in enumerate(senders):
        jobs.append(partial(sender.send, manifest, rows(named, rank)))
    jobs += [partial(received, receiver, manifest) for receiver in receivers]
    return together(*jobs)


class FailsAt(dict[str, Tensor]):
    """Rows of which one is gone when it is asked for."""

    def __init__(self, named: Weights, name: str, error: BaseException) -> None:
        super().__init__(named)
        self.name, self.error = name, error

    def __getitem__(self, name: str) -> Tensor:
        if name == self.name:
            raise self.error
        return super().__getitem__(name)


# Nobody comes back within LONG by itself: a test that ends long before shows that they were woken.
LONG = 600.0


def test_a_receiver_that_fails_ends_the_push_for_all_with_its_reason(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, named = large(monkeypatch)
    senders, receivers = joined(replace(meeting, timeout=LONG))
    kept: list[object] = []

    def without_room(arriving: Iterable[tuple[str, Tensor]]) -> None:
        kept.append(arriving)  # as an error's traceback keeps it
        for name, _ in arriving:
            if name == "matrix 1":
                raise MemoryError("no room for matrix 1")

    started = time.monotonic()
    found = together(
        partial(senders[0].send, manifest, rows(named, 0)),
        partial(senders[1].send, manifest, rows(named, 1)),
        partial(receivers[0].receive, manifest, without_room),
        partial(received, receivers[1], manifest),
    )
    assert time.monotonic() - started < LONG / 10
    assert isinstance(found[2], MemoryError)
    for other in (found[0], found[1], found[3]):
        assert type(other) is RuntimeError
        assert "receiver 0: no room for matrix 1" in str(other)


def test_a_sender_that_fails_ends_the_push_for_all_and_the_next_one_comes_whole(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, named = large(monkeypatch)
    meeting = replace(meeting, timeout=LONG)
    held: tuple[int, int] | None = None  # threads and open files after the first round
    errors: list[object] = []  # kept, as a driver's log may
    started = time.monotonic()
    for attempt in range(2):
        senders, receivers = joined(replace(meeting, name=f"attempt {attempt}"))
        broken = FailsAt(rows(named, 1), "matrix 4", OSError("the disk is gone"))
        jobs = [
            partial(senders[0].send, manifest, rows(named, 0)),
            partial(senders[1].send, manifest, broken),
        ]
        found = together(*jobs, *(partial(received, one, manifest) for one in receivers))
        assert isinstance(found[1], OSError)
        for other in (found[0], found[2], found[3]):
            assert type(other) is RuntimeError
            assert "rank 1: the disk is gone" in str(other)
        errors += found

        senders, receivers = joined(replace(meeting, name=f"again {attempt}"))
        whole = push(senders, receivers, manifest, named)
        assert [name for name, _ in whole[RANKS]] == list(named)  # type: ignore[attr-defined]
        senders[0].close()
        del senders, receivers, jobs, broken, whole
        held = held or settled()
        while settled() > held:
            assert time.monotonic() - started < LONG / 10, "threads or sockets leak"
    assert time.monotonic() - started < LONG / 10


def settled() -> tuple[int, int]:
    """Threads and open files of this process, once threads that are ending have ended."""
    before = (0, 0)
    while True:
        gc.collect()
        now = len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
        if now == before:
            return now
        before = now
        time.sleep(0.5)


def test_a_rank_that_never_begins_keeps_nobody_waiting_once_the_driver_gives_up(
    meeting: Meeting,
) -> None:
    meeting = replace(meeting, timeout=LONG)
    senders, receivers = joined(meeting)
    named = weights()
    manifest = manifest_of(1, RANKS, named.items(), torch.float32)
    begun = threading.Barrier(2)

    def receive_first(arriving: Iterable[tuple[str, Tensor]]) -> None:
        begun.wait()
        list(arriving)

    def give_up() -> None:
        begun.wait()
        end_meeting(meeting, TimeoutError("rank 1 does not answer"))

    started = time.monotonic()
    found = together(
        partial(senders[0].send, manifest, rows(named, 0)),
        partial(receivers[0].receive, manifest, receive_first),
        partial(received, receivers[1], manifest),
        give_up,
    )
    assert time.monotonic() - started < LONG / 10
    for receiver in found[1:3]:
        assert type(receiver) is RuntimeError
        assert "the driver: rank 1 does not answer" in str(receiver)
    with pytest.raises(RuntimeError, match="the driver: rank 1 does not answer"):
        senders[1].send(manifest, rows(named, 1))


def test_who_waits_for_a_member_that_does_not_come_is_sent_home(meeting: Meeting) -> None:
    meeting = replace(meeting, timeout=LONG)

    def give_up() -> None:
        end_meeting(meeting, TimeoutError("receiver 1 is gone"))

    started = time.monotonic()
    found = together(
        partial(Sender, meeting, 0),
        partial(Sender, meeting, 1),
        partial(Receiver, meeting, 0),
        give_up,
    )
    assert time.monotonic() - started < LONG / 10
    for member in found[:3]:
        assert type(member) is RuntimeError
        assert "receiver 1 is gone" in str(member)


FIRST_RANK = """
import os, signal, sys, torch
sys.path.insert(0, {tests!r})
from test_transfer import Meeting, Sender, large, rows, keep_store, weights, FailsAt
store = keep_store("127.0.0.1")
print(store.port, flush=True)
import pytest
manifest, named = large(pytest.MonkeyPatch())
sender = Sender(Meeting("127.0.0.1", store.port, "here", 2, 2, "gloo", {timeout}), 0)
class Killed(FailsAt):
    def __getitem__(self, name):
        if name == "matrix 4":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(name)
sender.send(manifest, Killed(rows(named, 0), "", OSError()))
"""


def test_the_first_rank_killed_in_a_push_takes_nobody_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = FIRST_RANK.format(tests=str(Path(__file__).parent), timeout=LONG)
    first = subprocess.Popen([sys.executable, "-c", code], stdout=PIPE, text=True)
    assert first.stdout is not None
    port = int(first.stdout.readline())
    meeting = Meeting("127.0.0.1", port, "here", RANKS, SAMPLERS, "gloo", LONG)
    manifest, named = large(monkeypatch)
    sender, *receivers = together(
        partial(Sender, meeting, 1),
        partial(Receiver, meeting, 0),
        partial(Receiver, meeting, 1),
    )
    started = time.monotonic()
    found = together(
        partial(sender.send, manifest, rows(named, 1)),  # type: ignore[attr-defined]
        *(partial(received, receiver, manifest) for receiver in receivers),  # type: ignore[arg-type]
    )
    assert time.monotonic() - started < LONG / 10
    assert first.wait() == -signal.SIGKILL
    first.stdout.close()
    assert [type(error) for error in found] == [RuntimeError] * 3


def test_a_rank_that_holds_other_rows_than_announced_is_refused_to_all(
    meeting: Meeting,
) -> None:
    senders, receivers = joined(meeting)
    named = weights()
    manifest = manifest_of(1, RANKS, named.items(), torch.float32)
    found = together(
        partial(senders[0].send, manifest, rows(named, 0)),
        partial(senders[1].send, manifest, rows(named, 0)),
        partial(received, receivers[0], manifest),
        partial(received, receivers[1], manifest),
    )
    for error in found[1:]:
        assert isinstance(error, OpenQwQError)
        assert "disagree on the sharding" in str(error)


def test_rows_are_dealt_as_chunk_deals_them() -> None:
    for count in range(1, 12):
        for ranks in range(1, 6):
            chunks = list(torch.arange(count).chunk(ranks))
            empty = [torch.arange(0)] * (ranks - len(chunks))
            for rank, chunk in enumerate([*chunks, *empty]):
                assert (
                    torch.arange(count)[rows_of(count, ranks, rank)].tolist()
                    == chunk.tolist()
                )


def test_a_manifest_is_the_same_for_sender_and_receiver() -> None:
    one = manifest_of(3, RANKS, weights().items(), torch.bfloat16)
    other = Manifest(3, RANKS, one.parameters)
    assert one == other
    assert one.buckets == other.buckets
    assert one.shapes["head"] == (7, 4)
