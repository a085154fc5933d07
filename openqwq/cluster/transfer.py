"""Weights on their way from the ranks that train them to the samplers that draw with them.

Every rank sends the rows that it holds, packed into buckets, to all samplers at once. A sampler
puts each parameter together and passes it on before it asks for more, so that nobody holds more
than two buckets on the way. The bytes go from process to process, by gloo or NCCL.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from openqwq.cluster.meeting import Attendance, Meeting, Transfer
from openqwq.types import OpenQwQError

BUCKET_BYTES = 2**26  # of whole parameters; one that is larger has a bucket to itself
ALIGNMENT = 8  # bytes, at which every parameter begins

# Takes parameters one by one; each may be overwritten once the next is asked for.
Take = Callable[[Iterable[tuple[str, Tensor]]], object]


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


class Sender:
    """One rank's way to all receivers."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.meeting = meeting
        self.rank = rank
        self._attendance = Attendance(meeting, f"rank {rank}", meeting.sender_seats(rank))

    def send(self, manifest: Manifest, rows: Mapping[str, Tensor]) -> None:
        """Send this rank's rows of every parameter, in the manifest's order and types.

        For what is raised, and what the others get then, see `Attendance.ending_for_all`.
        """
        with self._attendance.ending_for_all():
            on_its_way: list[list[Transfer]] = []
            for bucket in manifest.buckets:
                buffer = self._pack(manifest, bucket, rows)
                if not len(buffer):
                    continue
                on_its_way.append(self._attendance.send(buffer))
                if len(on_its_way) > 1:
                    _wait_for(on_its_way.pop(0))
            while on_its_way:
                _wait_for(on_its_way.pop(0))

    def _pack(
        self, manifest: Manifest, bucket: Sequence[Parameter], rows: Mapping[str, Tensor]
    ) -> Tensor:
        """This rank's rows of a bucket, in one buffer (bytes,)."""
        parts, size = layout(bucket, manifest.ranks, self.rank)
        buffer = torch.empty(size, dtype=torch.uint8, device=self.meeting.device)
        for part in parts:
            own = rows[part.parameter.name]
            if len(own) != part.rows:
                raise OpenQwQError(
                    f"rank {self.rank} holds {len(own)} rows of {part.parameter.name}, but "
                    f"{part.rows} were announced: the ranks disagree on the sharding"
                )
            part.within(buffer).copy_(own)
        return buffer

    def close(self) -> None:
        """Leave; a push that is under way breaks off for all."""
        self._attendance.end(RuntimeError("left"))


class Receiver:
    """A sampler's way from all ranks; `number` counts the receivers from 0."""

    def __init__(self, meeting: Meeting, number: int) -> None:
        self.meeting = meeting
        self.number = number
        seats = meeting.receiver_seats(number)
        self._attendance = Attendance(meeting, f"receiver {number}", seats)

    def receive(self, manifest: Manifest, take: Take) -> None:
        """Give `take` every parameter, whole, in the manifest's order.

        The next bucket comes meanwhile. What `take` raises ends the push for all; for what is
        raised here see `Attendance.ending_for_all`.
        """
        with self._attendance.ending_for_all():
            arriving = self._parameters(manifest)
            take(arriving)
            if next(arriving, None) is not None:
                raise RuntimeError("stopped before the last of the weights")

    def _parameters(self, manifest: Manifest) -> Iterator[tuple[str, Tensor]]:
        coming = self._begin(manifest, 0)
        for index, bucket in enumerate(manifest.buckets):
            following = self._begin(manifest, index + 1)
            yield from coming.parameters(bucket)
            coming = following

    def _begin(self, manifest: Manifest, index: int) -> "_Coming":
        """Ask for one bucket's rows from every rank; for none after the last."""
        coming = _Coming()
        if index == len(manifest.buckets):
            return coming
        for rank in range(self.meeting.ranks):
            parts, size = layout(manifest.buckets[index], manifest.ranks, rank)
            buffer = torch.empty(size, dtype=torch.uint8, device=self.meeting.device)
            if size:
                coming.transfers.append(self._attendance.begin(rank, buffer))
            coming.views.append([part.within(buffer) for part in parts])
        return coming

    def close(self) -> None:
        """See `Sender.close`."""
        self._attendance.end(RuntimeError("left"))


class _Coming:
    """A bucket on its way: what to wait for, and each rank's views of its parameters."""

    def __init__(self) -> None:
        self.transfers: list[Transfer] = []
        self.views: list[list[Tensor]] = []

    def parameters(self, bucket: Sequence[Parameter]) -> Iterator[tuple[str, Tensor]]:
        _wait_for(self.transfers)
        for index, parameter in enumerate(bucket):
            parts = [views[index] for views in self.views]
            yield parameter.name, parts[0] if len(parts) == 1 else torch.cat(parts)


def _wait_for(transfers: Sequence[Transfer]) -> None:
    for transfer in transfers:
        transfer.wait()


def manifest_of(
    version: int, ranks: int, named_params: Iterable[tuple[str, Tensor]], dtype: torch.dtype
) -> Manifest:
    """What `named_params` look like whole on the wire: matrices in `dtype`, vectors in fp32."""
    parameters: list[Parameter] = []
    for name, value in named_params:
        own = dtype if value.dim() > 1 else torch.float32
        parameters.append(Parameter(name, tuple(value.shape), own))
    return Manifest(version, ranks, tuple(parameters))
