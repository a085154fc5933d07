"""The driver's side of the actors: a learner, a sampler and judges like the local ones.

An actor that dies or hangs is replaced and its work issued again. That is exact: draws depend on
their seeds alone, and a learner goes back to its last checkpoint and repeats the steps since.
"""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayTaskError,
)
from torch import Tensor

from openqwq.cluster.actors import Request
from openqwq.train.learner import Objective
from openqwq.train.packing import MicroBatch
from openqwq.types import (
    Completion,
    OpenQwQError,
    SamplingParams,
    Score,
    Steering,
    Task,
    TokenEvent,
)

LOST = (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    GetTimeoutError,
    TimeoutError,
)
ATTEMPTS = 4  # of one piece of work, before its failure is the run's

Create = Callable[[int], Any]  # index -> a fresh actor


class RemoteLearner:
    """Ranks that train as one `Learner`; `create` starts them all, met and loaded.

    `directory` receives their checkpoints. Between two of them the steps' inputs are kept, so that
    a lost rank costs a repetition and no step.
    """

    def __init__(self, create: Callable[[], list[Any]], directory: Path, timeout: float) -> None:
        self.create, self.directory, self.timeout = create, directory, timeout
        self.done = self._saved = 0
        self._since: list[tuple[int, Sequence[MicroBatch], Objective]] = []
        self.ranks = create()
        self.restarts = 0

    def train_step(self, batches: Sequence[MicroBatch], objective: Objective) -> dict[str, float]:
        """See `Learner.train_step`."""
        self._since.append((self.done, batches, objective))
        metrics: dict[str, float] = self._all("train_step", self.done, batches, objective)[0]
        self.done += 1
        return metrics

    def log_probs(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """See `Learner.log_probs`, without gradients."""
        found: tuple[Tensor, Tensor] = self._all("log_probs", batch)[0]
        return found

    def named_params(self) -> Iterator[tuple[str, Tensor]]:
        """See `Learner.named_params`."""
        weights: dict[str, Tensor] = self._all("weights")[0]
        yield from weights.items()

    def state(self) -> dict[str, Any]:
        """Where the ranks have just written their shards."""
        target = self.directory / f"step-{self.done}"
        shutil.rmtree(target, ignore_errors=True)
        self._all("save", target)
        self._saved = self.done
        self._since.clear()
        # The state file still names the shards before these until this returns.
        steps = sorted(int(p.name.removeprefix("step-")) for p in self.directory.glob("step-*"))
        for step in steps[:-2]:
            shutil.rmtree(self.directory / f"step-{step}", ignore_errors=True)
        return {"done": self.done, "shards": target.name}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a `state`, at whatever number of ranks it was written."""
        self.done = self._saved = state["done"]
        self._since.clear()
        self._all("restore", self.directory / state["shards"], self.done)

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        """Call every rank; lost ranks are started again and brought to where they were."""
        lost = False
        for attempt in range(ATTEMPTS):
            try:
                if lost:
                    self._restart(method == "train_step")
                    lost = False
                calls = [getattr(rank, method).remote(*arguments) for rank in self.ranks]
                return list(ray.get(calls, timeout=self.timeout))
            except (*LOST, RayTaskError) as error:
                # A rank that lost its peer fails in a collective: only a dead peer explains it.
                if isinstance(error, RayTaskError) and not self._lost_a_rank():
                    raise
                if attempt == ATTEMPTS - 1:
                    raise OpenQwQError(
                        f"the learner failed {ATTEMPTS} times at {method} ({error}): look at the "
                        "ranks' memory and logs, then go on with --resume"
                    ) from error
                lost = True
        raise AssertionError

    def _lost_a_rank(self) -> bool:
        for rank in self.ranks:
            try:
                ray.get(rank.software.remote(), timeout=10)
            except LOST:
                return True
        return False

    def _restart(self, in_step: bool) -> None:
        for rank in self.ranks:
            ray.kill(rank)
        self.ranks = self.create()
        self.restarts += 1
        if self._saved:
            shards = self.directory / f"step-{self._saved}"
            calls = [rank.restore.remote(shards, self._saved) for rank in self.ranks]
            ray.get(calls, timeout=self.timeout)
        for step in self._since[: -1 if in_step else None]:
            steps = [rank.train_step.remote(*step) for rank in self.ranks]
            ray.get(steps, timeout=self.timeout)


@dataclass
class RemoteSampler:
    """`Generate` and `WeightLink` over `count` sampler actors.

    Requests made at one moment go out together, dealt in turn: with the same seeds a synchronous
    run is the same at any time and, with one actor, the local one bit by bit.
    """

    create: Create
    count: int
    timeout: float
    actors: list[Any] = field(default_factory=list)
    restarts: int = 0
    _weights: tuple[Any, int] | None = None
    _waiting: list[tuple[Request, asyncio.Future[list[Completion]]]] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _turn: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)  # over actors and weights

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
        self, prompt_ids: Sequence[int], params: SamplingParams, steering: Steering | None = None
    ) -> AsyncIterator[TokenEvent]:
        """See `Generate.stream`; all tokens come at the end, and nothing can be steered."""
        if steering is not None:
            raise OpenQwQError("a sampler on a cluster cannot be steered: ask without steering")
        (c,) = await self.generate(prompt_ids, params)
        for i, (token_id, log_prob, sampled) in enumerate(
            zip(c.token_ids, c.log_probs, c.sampled_mask, strict=True), 1
        ):
            last = c.finish_reason if i == len(c.token_ids) else None
            yield TokenEvent(token_id, log_prob, sampled, last)

    def push(self, named_params: Iterable[tuple[str, Tensor]], version: int) -> None:
        """See `WeightLink.push`; replies that are being drawn go on with the new weights."""
        with self._lock:
            self._weights = ray.put(dict(named_params)), version
            calls = [(actor, actor.push.remote(*self._weights)) for actor in self.actors]
            for index, (actor, call) in enumerate(calls):
                try:
                    ray.get(call, timeout=self.timeout)
                except LOST:
                    self._replace(index, actor)

    def _dispatch(self) -> None:
        waiting, self._waiting = self._waiting, []
        start, self._turn = self._turn, (self._turn + len(waiting)) % self.count
        for index in range(self.count):
            share = waiting[(index - start) % self.count :: self.count]
            if share:
                task = asyncio.create_task(self._serve(index, share))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _serve(
        self, index: int, share: Sequence[tuple[Request, asyncio.Future[list[Completion]]]]
    ) -> None:
        requests, futures = [request for request, _ in share], [future for _, future in share]
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
            ray.kill(actor)
            fresh = self.actors[index] = self.create(index)
            self.restarts += 1
            if self._weights is not None:
                ray.get(fresh.push.remote(*self._weights), timeout=self.timeout)


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

    async def score(self, verifier: str, task: Task, completion: str) -> Score:
        """A verdict; where no actor gives one, an `error`."""
        index, self._turn = self._turn % self.count, self._turn + 1
        failure = ""
        for _ in range(ATTEMPTS):
            actor = self.actors[index]
            try:
                async with asyncio.timeout(self.timeout):
                    fields: Mapping[str, Any] = await actor.score.remote(verifier, task, completion)
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

    async def score(self, task: Task, completion: str) -> Score:
        """See `Verifier.score`."""
        return await self.pool.score(self.name, task, completion)
