"""RL steps that do not wait for their longest completion: more prompts are asked than are needed.

A step ends with the first `prompts_per_step` groups that are complete. What the others said so far
is kept, and the next steps go on with it under newer weights (partial rollouts of Kimi k1.5, arXiv
2501.12599); or it is dropped. Each token keeps the version and the log-prob of the weights that
drew it, so that importance ratios stay exact.
"""

import asyncio
import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, cast

from openqwq.evaluation.progress import Progress
from openqwq.text.template import encode_chat
from openqwq.train.episodes import Attempt
from openqwq.train.rl import Trainer
from openqwq.types import Completion, SamplingParams


class Interruptible(Protocol):
    """A sampler whose requests can be ended at once and taken up later; our engine is one."""

    async def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        n: int = 1,
        begun: Completion | None = None,
    ) -> list[Completion]:
        """See `Generate.generate`; `begun` is a completion that `interrupt` ended."""
        ...

    def interrupt(self) -> None:
        """End every request now, with the finish reason "cancelled"."""
        ...


@dataclass
class BegunPrompt:
    """A prompt of the curriculum by its number, and what its group has said so far."""

    number: int
    completions: list[Completion] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every member of the group has ended by itself."""
        ended = [completion.finish_reason != "cancelled" for completion in self.completions]
        return bool(ended) and all(ended)

    def oldest_version(self) -> int:
        """The version of the oldest weights that drew one of its tokens."""
        versions: list[int] = []
        for completion in self.completions:
            mask = completion.sampled_mask
            versions += itertools.compress(completion.weight_version, mask)
        return min(versions)


@dataclass
class Pending:
    """The groups that have begun and are not trained on yet, oldest first."""

    asked: list[BegunPrompt] = field(default_factory=list)
    dropped: int = 0  # groups, since the stage began
    staleness: int = 0  # updates between a token of the last step and that step, at most

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on with the same completions."""
        return {"asked": [asdict(asked) for asked in self.asked], "dropped": self.dropped}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a `state`."""
        self.dropped = state["dropped"]
        self.asked = []
        for saved in state["asked"]:
            completions = [Completion(**completion) for completion in saved["completions"]]
            self.asked.append(BegunPrompt(saved["number"], completions))


@dataclass(frozen=True)
class OverSamplingTrainer(Trainer):
    """A `Trainer` that ends the sampling of a step once enough groups are complete."""

    pending: Pending = field(default_factory=Pending)

    async def train(self, progress: Progress) -> None:
        """See `Trainer.train`."""
        await self.loop(self._counted_step, {"pending": self.pending}, progress)

    async def _counted_step(self, first: bool) -> dict[str, Any]:
        self.pending.staleness = 0
        metrics = await self._step(first)
        return {
            **metrics,
            "unfinished": len(self.pending.asked),
            "dropped": self.pending.dropped,
            "max_staleness": self.pending.staleness,
        }

    async def _groups(self, wanted: int) -> list[tuple[str, list[Attempt]]]:
        """See `Trainer._groups`; the oldest of the groups that are complete."""
        extra = math.ceil(wanted * self.stage.over_sampling)
        while len(self.pending.asked) < wanted + extra:
            self.curriculum.next_tasks(1)
            self.pending.asked.append(BegunPrompt(self.curriculum.drawn - 1))
        await self._sample(self.pending.asked, wanted)
        taken = self._taken(wanted)

        groups: list[tuple[str, list[Attempt]]] = []
        for asked in taken:
            task = self.curriculum.task(asked.number)
            attempts = await self.runner.judged(task, asked.completions)
            self.retire(attempts)
            groups.append((self._key(asked), attempts))
        return groups

    def _taken(self, wanted: int) -> list[BegunPrompt]:
        """The oldest complete groups, no longer pending; the others wait, or are dropped."""
        pending = self.pending
        complete = [asked for asked in pending.asked if asked.complete]
        taken = complete[:wanted]
        left = [asked for asked in pending.asked if asked not in taken]
        if self.stage.unfinished == "drop":
            kept = [asked for asked in left if asked.complete]
            pending.dropped += len(left) - len(kept)
            left = kept
        pending.asked = left

        ages = [self.learner.done - asked.oldest_version() for asked in taken]
        pending.staleness = max(pending.staleness, *ages)
        return taken

    async def _sample(self, asked: Sequence[BegunPrompt], wanted: int) -> None:
        """Go on with every group until `wanted` of them are complete."""
        sampler = cast(Interruptible, self.runner.generate)
        running = {asyncio.create_task(self._go_on(each, sampler)) for each in asked}
        done: set[asyncio.Task[None]] = set()
        waiting = running
        while waiting and len(done) < wanted:
            ended, waiting = await asyncio.wait(
                waiting, return_when=asyncio.FIRST_COMPLETED
            )
            done |= ended
        sampler.interrupt()
        results = await asyncio.gather(*running, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _go_on(self, asked: BegunPrompt, sampler: Interruptible) -> None:
        """Sample what a group still lacks, and keep it."""
        if asked.complete:
            return
        task, params = self.prompt(self.curriculum.task(asked.number), self._key(asked))
        prompt_ids = encode_chat(self.runner.tokenizer, task.messages, task.tools)
        if not asked.completions:
            asked.completions = await sampler.generate(
                prompt_ids, params, self.stage.group_size
            )
            return

        async def ended(member: int, begun: Completion) -> Completion:
            if begun.finish_reason != "cancelled":
                return begun
            own = replace(params, seed=params.seed + member)
            (completion,) = await sampler.generate(prompt_ids, own, begun=begun)
            return completion

        members = [ended(i, completion) for i, completion in enumerate(asked.completions)]
        asked.completions = list(await asyncio.gather(*members))

    def _key(self, asked: BegunPrompt) -> str:
        return f"{self.stage.name}/{self.run.config.seed}/{asked.number}"
