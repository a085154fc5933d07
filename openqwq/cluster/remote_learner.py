"""The driver's side of the learner: ranks that it sees as one.

A rank that dies or hangs takes the others with it. All are started again, go back to the last
checkpoint, and repeat the steps since, whose inputs are kept.
"""

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch
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

from openqwq.cluster.sharded import deal
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.learner import Objective
from openqwq.train.packing import MicroBatch
from openqwq.types import OpenQwQError

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
ANSWER_SECONDS = 60
Result = TypeVar("Result")


class RemoteLearner:
    """Ranks that train as one `Learner`; `create` starts them all, met and loaded.

    `directory` receives their checkpoints. Between two of them the steps' inputs are kept, so that
    a lost rank costs a repetition and no step.
    """

    def __init__(
        self, create: Callable[[], list[Any]], directory: Path, timeout: float
    ) -> None:
        self.create = create
        self.directory = directory
        self.timeout = timeout
        self.done = self._saved = 0
        self._since: list[tuple[int, Sequence[MicroBatch], Objective]] = []
        self.ranks = create()
        self.restarts = 0
        self.lock = threading.RLock()  # over the ranks: they do one thing at a time

    def train_step(
        self, batches: Sequence[MicroBatch], objective: Objective
    ) -> dict[str, float]:
        """See `Learner.train_step`; every rank is sent its own share of the micro-batches."""
        with self.lock:
            step = (self.done, batches, objective)
            self._since.append(step)
            metrics = self._survive("train_step", lambda: self._step(*step))
            self.done += 1
        return metrics

    def log_probs(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """See `Learner.log_probs`, without gradients."""
        found: tuple[Tensor, Tensor] = self._all("log_probs", batch)[0]
        return found

    def frozen_log_probs(self, batch: MicroBatch) -> Tensor:
        """Those of what the policy is compared with, which the ranks hold too."""
        found: Tensor = self._all("frozen_log_probs", batch)[0]
        return found

    def named_params(self) -> "RankWeights":
        """What a push of the samplers takes; it stands for weights that stay on the ranks."""
        return RankWeights(self)

    def write(self, directory: Path, tokenizer: Tokenizer) -> None:
        """See `PolicyLearner.write`; the first rank writes."""
        self._all("write", directory.absolute(), tokenizer)

    def state(self) -> dict[str, Any]:
        """Where the ranks have just written their shards."""
        with self.lock:
            target = self.directory / f"step-{self.done}"
            shutil.rmtree(target, ignore_errors=True)
            self._all("save", target)
            self._saved = self.done
            self._since.clear()
        # The state file still names the shards before these until this returns.
        steps = sorted(
            int(p.name.removeprefix("step-")) for p in self.directory.glob("step-*")
        )
        for step in steps[:-2]:
            shutil.rmtree(self.directory / f"step-{step}", ignore_errors=True)
        return {"done": self.done, "shards": target.name}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a `state`, at whatever number of ranks it was written."""
        with self.lock:
            self.done = self._saved = state["done"]
            self._since.clear()
            self._all("restore", self.directory / state["shards"], self.done)

    def replace_lost(self) -> None:
        """Start the ranks again, and bring them to where they were, if one is lost."""
        with self.lock:
            if self._lost_a_rank():
                self._restart(in_step=False)

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        """Ask every rank the same; lost ranks are started again and brought to where they were."""

        def ask() -> list[Any]:
            calls = [getattr(rank, method).remote(*arguments) for rank in self.ranks]
            return list(ray.get(calls, timeout=self.timeout))

        with self.lock:
            return self._survive(method, ask)

    def _step(
        self, done: int, batches: Sequence[MicroBatch], objective: Objective
    ) -> dict[str, float]:
        shares = deal(batches, len(self.ranks))
        calls = []
        for rank, share in zip(self.ranks, shares, strict=True):
            calls.append(rank.train_share.remote(done, share, objective))
        metrics: dict[str, float] = ray.get(calls, timeout=self.timeout)[0]
        return metrics

    def _survive(self, method: str, ask: Callable[[], Result]) -> Result:
        lost = False
        for attempt in range(ATTEMPTS):
            try:
                if lost:
                    self._restart(in_step=method == "train_step")
                    lost = False
                return ask()
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
        return any(is_lost(rank) for rank in self.ranks)

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
            self._step(*step)


@dataclass(frozen=True)
class RankWeights:
    """What a learner's ranks hold and stream to samplers; the driver never does."""

    learner: RemoteLearner

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        raise TypeError("the weights are on the learner's ranks: push them, or write them")


@dataclass(frozen=True)
class RankTeacher:
    """The frozen policy that a learner's ranks hold, asked from the driver."""

    learner: RemoteLearner

    def log_probs(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """See `Learner.log_probs`; entropies are not asked for."""
        found = self.learner.frozen_log_probs(batch)
        return found, torch.zeros_like(found)


def is_lost(actor: Any) -> bool:
    """Whether an actor does not answer within seconds."""
    try:
        ray.get(actor.software.remote(), timeout=ANSWER_SECONDS)
    except LOST:
        return True
    return False
