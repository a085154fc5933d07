"""Weights on their way from the ranks that train them to the samplers that draw with them.

Every rank sends the rows that it holds, packed into buckets, to all samplers at once. A sampler
puts each parameter together and passes it on before it asks for more, so that nobody holds more
than two buckets on the way. The bytes go from process to process, by gloo or NCCL.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from openqwq.types import OpenQwQError

BUCKET_BYTES = 2**26  # of whole parameters; one that is larger has a bucket to itself
ALIGNMENT = 8  # bytes, at which every parameter begins


@dataclass(frozen=True)
class Parameter:
    """One tensor of a transfer; `dtype` is that of the wire."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, along the first dimension."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


@dataclass(frozen=True)
class Manifest:
    """What comes, in which order, from how many ranks: sender and receiver pack by it alike."""

    version: int
    ranks: int
    parameters: tuple[Parameter, ...]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter by its name."""
        return {parameter.name: parameter.shape for parameter in self.parameters}

    @cached_property
    def buckets(self) -> list[list[Parameter]]:
        """The parameters in order, a bucket of them at a time."""
        found: list[list[Parameter]] = []
        room = 0
        for parameter in self.parameters:
            size = parameter.shape[0] * parameter.row_bytes
            if size > room:
                found.append([])
                room = BUCKET_BYTES
            found[-1].append(parameter)
            room -= size
        return found


def rows_of(count: int, ranks: int, rank: int) -> slice:
    """The rows that `rank` holds of `count`, as `torch.chunk` and FSDP2 deal them."""
    share = -(-count // ranks)
    return slice(min(count, rank * share), min(count, (rank + 1) * share))


@dataclass(frozen=True)
class Part:
    """Where one rank's rows of a parameter lie in its buffer."""

    parameter: Parameter
    rows: int
    start: int  # bytes

    @property
    def end(self) -> int:
        """The byte after the last."""
        return self.start + self.rows * self.parameter.row_bytes

    def within(self, buffer: Tensor) -> Tensor:
        """The rows as a view of `buffer` (bytes,)."""
        shape = (self.rows, *self.parameter.shape[1:])
        return buffer[self.start : self.end].view(self.parameter.dtype).view(shape)


def layout(bucket: Sequence[Parameter], ranks: int, rank: int) -> tuple[list[Part], int]:
    """Where a rank's rows of a bucket lie, and the bytes of the whole buffer."""
    parts: list[Part] = []
    end = 0
    for parameter in bucket:
        held = rows_of(parameter.shape[0], ranks, rank)
        start = -(-end // ALIGNMENT) * ALIGNMENT
        part = Part(parameter, held.stop - held.start, start)
        parts.append(part)
        end = part.end
    return parts, end


@dataclass(frozen=True)
class Meeting:
    """Where sender and receivers find each other: a store that the first rank keeps open.

    For every rank there is one group, in which it is member 0 and the receivers follow.
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


class TransferGroup:
    """One sender and all receivers."""

    def __init__(self, meeting: Meeting, store: Any, sender: int, member: int) -> None:
        waits = timedelta(seconds=meeting.timeout)
        own = dist.PrefixStore(f"{meeting.name}/{sender}", store)  # type: ignore[attr-defined]
        size = 1 + meeting.receivers
        self._group: Any = None
        if meeting.backend == "nccl":
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = waits
            self._group = dist.ProcessGroupNCCL(own, member, size, options)
        else:
            self._group = dist.ProcessGroupGloo(own, member, size, waits)

    def broadcast(self, buffer: Tensor) -> dist.Work:
        """Begin to send `buffer`, or to receive into it."""
        options = dist.BroadcastOptions()
        options.rootRank = 0
        work: dist.Work = self._group.broadcast([buffer], options)
        return work

    def close(self) -> None:
        """Leave; members that still wait for this one get an error."""
        self._group.abort()
        self._group = None


def keep_store(host: str) -> Any:
    """A store for meetings at a free port of this machine, which others reach as `host`."""
    return dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]


def open_store(meeting: Meeting) -> Any:
    """A connection to the meeting's store."""
    waits = timedelta(seconds=meeting.timeout)
    return dist.TCPStore(  # type: ignore[attr-defined]
        meeting.host, meeting.port, is_master=False, timeout=waits
    )


class Sender:
    """One rank's way to all receivers."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.meeting = meeting
        self.rank = rank
        self._group = TransferGroup(meeting, open_store(meeting), rank, 0)

    def send(self, manifest: Manifest, rows: Mapping[str, Tensor]) -> None:
        """Send this rank's rows of every parameter, in the manifest's order and types.

        Raises RuntimeError, with the group closed, where a receiver is gone.
        """
        on_its_way: list[tuple[dist.Work, Tensor]] = []
        try:
            self._send(manifest, rows, on_its_way)
        except BaseException:
            on_its_way.clear()  # the error's traceback would keep its connections open
            self.close()
            raise

    def _send(
        self,
        manifest: Manifest,
        rows: Mapping[str, Tensor],
        on_its_way: list[tuple[dist.Work, Tensor]],
    ) -> None:
        for bucket in manifest.buckets:
            parts, size = layout(bucket, manifest.ranks, self.rank)
            if not size:
                continue
            buffer = torch.empty(size, dtype=torch.uint8, device=self.meeting.device)
            for part in parts:
                own = rows[part.parameter.name]
                if len(own) != part.rows:
                    raise OpenQwQError(
                        f"rank {self.rank} holds {len(own)} rows of {part.parameter.name}, but "
                        f"{part.rows} were announced: the ranks disagree on the sharding"
                    )
                part.within(buffer).copy_(own)
            on_its_way.append((self._group.broadcast(buffer), buffer))
            if len(on_its_way) > 1:
                on_its_way.pop(0)[0].wait()
        while on_its_way:
            on_its_way.pop(0)[0].wait()

    def close(self) -> None:
        """See `TransferGroup.close`."""
        self._group.close()


class Receiver:
    """A sampler's way from all ranks; `number` counts the receivers from 0."""

    def __init__(self, meeting: Meeting, number: int) -> None:
        self.meeting = meeting
        store = open_store(meeting)
        self._groups = [
            TransferGroup(meeting, store, rank, 1 + number) for rank in range(meeting.ranks)
        ]

    def receive(self, manifest: Manifest) -> Iterator[tuple[str, Tensor]]:
        """Every parameter, whole, in the manifest's order; the next bucket comes meanwhile.

        Raises RuntimeError, with the groups closed, where a rank is gone. So it is if the caller
        stops before the end.
        """
        whole = False
        try:
            coming = self._begin(manifest, 0)
            for index, bucket in enumerate(manifest.buckets):
                following = self._begin(manifest, index + 1)
                yield from coming.parameters(bucket)
                coming = following
            whole = True
        finally:
            if not whole:
                self.close()

    def _begin(self, manifest: Manifest, index: int) -> "_Coming":
        """Ask for one bucket's rows from every rank; for none after the last."""
        coming = _Coming()
        if index == len(manifest.buckets):
            return coming
        for rank, group in enumerate(self._groups):
            parts, size = layout(manifest.buckets[index], manifest.ranks, rank)
            buffer = torch.empty(size, dtype=torch.uint8, device=self.meeting.device)
            if size:
                coming.works.append(group.broadcast(buffer))
            coming.views.append([part.within(buffer) for part in parts])
        return coming

    def close(self) -> None:
        """See `TransferGroup.close`."""
        for group in self._groups:
            group.close()
        self._groups = []


class _Coming:
    """A bucket on its way: what to wait for, and each rank's views of its parameters."""

    def __init__(self) -> None:
        self.works: list[dist.Work] = []
        self.views: list[list[Tensor]] = []

    def parameters(self, bucket: Sequence[Parameter]) -> Iterator[tuple[str, Tensor]]:
        for work in self.works:
            work.wait()
        for index, parameter in enumerate(bucket):
            parts = [views[index] for views in self.views]
            yield parameter.name, parts[0] if len(parts) == 1 else torch.cat(parts)


def manifest_of(
    version: int, ranks: int, named_params: Iterable[tuple[str, Tensor]], dtype: torch.dtype
) -> Manifest:
    """What `named_params` look like whole on the wire: matrices in `dtype`, vectors in fp32."""
    parameters: list[Parameter] = []
    for name, value in named_params:
        own = dtype if value.dim() > 1 else torch.float32
        parameters.append(Parameter(name, tuple(value.shape), own))
    return Manifest(version, ranks, tuple(parameters))
