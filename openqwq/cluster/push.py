"""The driver's part in a push of weights: it names the phases, and no weight passes through it.

`begin` stops the samplers after their step, the transfer goes from every rank to all of them,
`finish` sees that it is whole, and `commit` lets all draw with it. Where one of them fails, none
draws before another transfer has come whole.
"""

import uuid
from collections.abc import Sequence
from typing import Any

import ray

from openqwq.cluster.meeting import Meeting, end_meeting
from openqwq.cluster.transfer import Manifest


class WeightStream:
    """One way from a learner's ranks to samplers, kept for as long as both are the same actors.

    `width` is how many processes receive in each sampler.
    """

    def __init__(self, backend: str, width: int, timeout: float) -> None:
        self.backend = backend
        self.width = width
        self.timeout = timeout
        self._members: list[Any] = []
        self._meeting: Meeting | None = None  # of the members

    def push(self, ranks: Sequence[Any], samplers: Sequence[Any], version: int) -> None:
        """Send the ranks' weights to all samplers, as `version`.

        Raises what Ray raises for an actor that is lost or fails; then none of the samplers draws
        from half new weights, nobody waits for another, and the push may be repeated.
        """
        members = [*ranks, *samplers]
        try:
            if self._members != members:
                self._meet(ranks, samplers)
            manifest: Manifest = self._all(ranks[:1], "manifest", version)[0]
            self._all(samplers, "begin", manifest)
            sent = [rank.send.remote(manifest) for rank in ranks]
            received = [sampler.receive.remote(manifest) for sampler in samplers]
            ray.get([*sent, *received], timeout=self.timeout)
            self._all(samplers, "finish")
            self._all(samplers, "commit", version)
        except BaseException as error:
            if self._meeting is not None:
                end_meeting(self._meeting, error)
            self._members = []
            self._meeting = None
            raise
        self._members = members

    def _meet(self, ranks: Sequence[Any], samplers: Sequence[Any]) -> None:
        self._all(samplers, "software")  # nobody waits for one that is gone already
        host, port = self._all(ranks[:1], "open_store")[0]
        receivers = len(samplers) * self.width
        name = uuid.uuid4().hex
        meeting = self._meeting = Meeting(
            host, port, name, len(ranks), receivers, self.backend, self.timeout
        )
        calls = [rank.meet.remote(meeting) for rank in ranks]
        for number, sampler in enumerate(samplers):
            calls.append(sampler.meet.remote(meeting, number * self.width))
        ray.get(calls, timeout=self.timeout)

    def _all(self, actors: Sequence[Any], method: str, *arguments: Any) -> list[Any]:
        calls = [getattr(actor, method).remote(*arguments) for actor in actors]
        return list(ray.get(calls, timeout=self.timeout))
