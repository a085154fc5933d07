"""The driver's side of samplers and judges, which it sees like the local ones.

An actor that dies or hangs is replaced and its work issued again. That is exact, since draws depend
on their seeds alone.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayTaskError
from torch import Tensor

from openqwq.cluster.actors import SampleRequest
from openqwq.cluster.push import WeightStream
from openqwq.cluster.remote_learner import (
    ATTEMPTS,
    LOST,
    RankWeights,
    RemoteLearner,
    is_lost,
)
from openqwq.types import (
    Completion,
    OpenQwQError,
    SamplingParams,
    Score,
    Steering,
    Task,
    TokenEvent,
)

Create = Callable[[int], Any]  # index -> a fresh actor


@dataclass
class RemoteSampler:
    """`Generate` and `WeightLink` over `count` sampler actors.

    Requests made at one moment go out together, dealt in turn: with the same seeds a synchronous
    run is the same at any time and, with one actor, the local one bit by bit.
    """

    create: Create
    count: int
    timeout: float
    streams: Callable[[], WeightStream]
    actors: list[Any] = field(default_factory=list)
    restarts: int = 0
    _learner: RemoteLearner | None = None  # whose weights were pushed
    _stream: WeightStream | None = None  # to all actors
    _waiting: list[tuple[SampleRequest, asyncio.Future[list[Completion]]]] = field(
        default_factory=list
    )
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _turn: int = 0
    # held while actors or weights change
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.actors = [self.create(index) for index in range(self.count)]

    async def generate(
        self, prompt_ids: Sequence[int], params: SamplingParams, n: int = 1
    ) -> list[Completion]:
        """See `Generate.generate`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Completion]] = loop.create_future()
        self._waiting.append(((list(prompt_ids), params, n), future))
        if len(self._waiting) == 1:
            loop.call_soon(self._dispatch)
        return await future

    async def stream(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        steering: Steering | None = None,
    ) -> AsyncIterator[TokenEvent]:
        """See `Generate.stream`; all tokens come at the end, and nothing can be steered."""
        if steering is not None:
            raise OpenQwQError(
                "a sampler on a cluster cannot be steered: ask without steering"
            )
        (c,) = await self.generate(prompt_ids, params)
        for i, (token_id, log_prob, sampled) in enumerate(
            zip(c.token_ids, c.log_probs, c.sampled_mask, strict=True), 1
        ):
            last = c.finish_reason if i == len(c.token_ids) else None
            yield TokenEvent(token_id, log_prob, sampled, last)

    def push(self, named_params: Iterable[tuple[str, Tensor]], version: int) -> None:
        """See `WeightLink.push`; replies that are being drawn go on with the new weights.

        The ranks of a `RemoteLearner` stream their `named_params`, which must be of `version`.
        """
        assert isinstance(named_params, RankWeights)
        with self._lock:
            self._learner = named_params.learner
            if version != self._learner.done:
                raise OpenQwQError(
                    f"weights of version {version} are to be pushed, but the learner has done "
                    f"{self._learner.done} steps: push what it has"
                )
            if self._stream is None:
                self._stream = self.streams()
            self._push_to(range(self.count), self._stream, self._learner)

    def _push_to(
        self, indices: Sequence[int], stream: WeightStream, learner: RemoteLearner
    ) -> None:
        """Stream the learner's weights to some actors; again from the start where one is lost."""
        failure = ""
        for _ in range(ATTEMPTS):
            actors = [self.actors[index] for index in indices]
            try:
                with learner.lock:
                    stream.push(learner.ranks, actors, learner.done)
                return
            except OpenQwQError:
                raise  # a refusal, which no repetition changes
            except (*LOST, RayTaskError) as error:
                failure = str(error)
            learner.replace_lost()
            for index in indices:
                if is_lost(self.actors[index]):
                    self._create(index)
        raise OpenQwQError(
            f"a push of weights failed {ATTEMPTS} times ({failure}): look at the actors' memory "
            "and logs, then go on with --resume"
        )

    def _dispatch(self) -> None:
        waiting = self._waiting
        self._waiting = []
        start = self._turn
        self._turn = (self._turn + len(waiting)) % self.count
        for index in range(self.count):
            share = waiting[(index - start) % self.count :: self.count]
            if share:
                task = asyncio.create_task(self._serve(index, share))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _serve(
        self,
        index: int,
        share: Sequence[tuple[SampleRequest, asyncio.Future[list[Completion]]]],
    ) -> None:
        requests = [request for request, _ in share]
        futures = [future for _, future in share]
        for attempt in range(ATTEMPTS):
            actor = self.actors[index]
            try:
                if attempt:
                    await asyncio.to_thread(self._replace, index, actor)
                    actor = self.actors[index]
                async with asyncio.timeout(self.timeout):
                    results = await actor.generate.remote(requests)
                break
            except LOST as error:
                if all(future.done() for future in futures):
                    return None  # nobody waits any more
                if attempt == ATTEMPTS - 1:
                    return _fail(futures, OpenQwQError(f"sampler {index} failed: {error}"))
            except Exception as error:  # what the request itself did wrong is its caller's
                return _fail(futures, error)
        for future, result in zip(futures, results, strict=True):
            if not future.done():
                future.set_result(result)
        return None

    def _replace(self, index: int, actor: Any) -> None:
        """A fresh actor with the current weights, unless somebody has put one there already."""
        with self._lock:
            if self.actors[index] is not actor:
                return
            self._create(index)
            if self._learner is not None:
                self._push_to([index], self.streams(), self._learner)

    def _create(self, index: int) -> None:
        ray.kill(self.actors[index])
        self.actors[index] = self.create(index)
        self.restarts += 1


def _fail(futures: Sequence[asyncio.Future[list[Completion]]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)


@dataclass
class VerifierPool:
    """Verifier actors, asked in turn; one that is lost is replaced."""

    create: Create
    count: int
    timeout: float
    actors: list[Any] = field(default_factory=list)
    restarts: int = 0
    _turn: int = 0

    def __post_init__(self) -> None:
        self.actors = [self.create(index) for index in range(self.count)]

    async def score(
        self, verifier: str, task: Task, completion: str, seconds: float | None = None
    ) -> Score:
        """A verdict within `seconds`; where no actor gives one, an `error`."""
        index = self._turn % self.count
        self._turn += 1
        failure = ""
        for _ in range(ATTEMPTS):
            actor = self.actors[index]
            try:
                async with asyncio.timeout(self.timeout):
                    fields: Mapping[str, Any] = await actor.score.remote(
                        verifier, task, completion, seconds
                    )
                return Score(**fields)
            except LOST as error:
                failure = str(error)
                if self.actors[index] is actor:
                    ray.kill(actor)
                    self.actors[index] = self.create(index)
                    self.restarts += 1
        return Score(0.0, "error", detail=f"no verifier answered: {failure}")


@dataclass(frozen=True)
class RemoteVerifier:
    """One judge of a pool, as a `Verifier`."""

    pool: VerifierPool
    name: str
    seconds: float | None = None  # see `Bench.verifier`

    async def score(self, task: Task, completion: str) -> Score:
        """See `Verifier.score`."""
        return await self.pool.score(self.name, task, completion, self.seconds)
