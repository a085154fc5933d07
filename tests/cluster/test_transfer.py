"""Ranks and samplers as threads of one process, joined by gloo as on a cluster."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from openqwq.cluster import transfer
from openqwq.cluster.transfer import (
    Manifest,
    Meeting,
    Receiver,
    Sender,
    keep_store,
    manifest_of,
    rows_of,
)
from openqwq.types import OpenQwQError

RANKS, SAMPLERS = 2, 2


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
    return list(receiver.receive(manifest))


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


def test_who_stops_in_the_middle_fails_all_others(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BUCKET_BYTES", 2**22)
    senders, receivers = joined(replace(meeting, timeout=8.0))
    # More than the sockets and the senders' look-ahead can carry to the others in the meantime.
    named = {f"matrix {number}": torch.zeros(2**10, 2**12) for number in range(9)}
    manifest = manifest_of(1, RANKS, named.items(), torch.float32)

    def without_room() -> None:
        for name, _ in receivers[0].receive(manifest):
            if name == "matrix 1":
                raise MemoryError

    found = together(
        partial(senders[0].send, manifest, rows(named, 0)),
        partial(senders[1].send, manifest, rows(named, 1)),
        without_room,
        partial(received, receivers[1], manifest),
    )
    assert isinstance(found[2], MemoryError)
    others = [type(error) for error in (found[0], found[1], found[3])]
    assert others == [RuntimeError] * 3


def test_a_rank_that_holds_other_rows_than_announced_sends_nothing(
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
    assert isinstance(found[1], OpenQwQError)
    assert "disagree on the sharding" in str(found[1])
    assert all(isinstance(error, RuntimeError) for error in (found[2], found[3]))


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
