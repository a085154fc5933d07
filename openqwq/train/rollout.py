"""From tasks to scored attempts: sample a group for each prompt, let environments answer, judge."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.episodes import Attempt, Rollout
from openqwq.types import (
    Environment,
    Generate,
    OpenQwQError,
    SamplingParams,
    Score,
    Task,
    Trajectory,
    Verifier,
)

Request = tuple[Task, SamplingParams]


@dataclass(frozen=True)
class Sampler:
    """All that turning tasks into judged attempts needs.

    A task's `verifier` names one of `verifiers`, or one of `environments`: then the attempt goes on
    for up to `max_turns` replies while they fit into `context_length` tokens.

    `in_step`, all episodes take their turns together: every reply of a turn is sampled, then every
    environment acts at once. So the engine's batches, and every last bit of the log-probs, do not
    depend on how long a tool takes. Otherwise each goes at its own pace, which environments need
    that let only some episodes begin before others have ended.
    """

    generate: Generate
    tokenizer: Tokenizer
    verifiers: Mapping[str, Verifier]
    environments: Mapping[str, Environment] = field(default_factory=dict)
    max_turns: int = 8
    context_length: int = 32768
    in_step: bool = True

    async def groups(self, requests: Sequence[Request], n: int) -> list[list[Attempt]]:
        """`n` judged attempts of each task, which share one prefill."""
        async with AsyncExitStack() as stack:
            groups = [await self._begin(task, params.seed, n, stack) for task, params in requests]
            pairs = [(group, params) for group, (_, params) in zip(groups, requests, strict=True)]
            await asyncio.gather(*(self._first_turn(*pair) for pair in pairs))
            rollouts = [(r, params) for group, params in pairs for r in group]
            if self.in_step:
                await self._go_on(rollouts)
            else:
                await asyncio.gather(*(self._finish(*rollout) for rollout in rollouts))
            return list(await asyncio.gather(*(self._judged(group) for group in groups)))

    async def _begin(self, task: Task, seed: int, n: int, stack: AsyncExitStack) -> list[Rollout]:
        prompt_ids = encode_chat(self.tokenizer, task.messages, task.tools)
        if task.verifier in self.environments:
            environment, group = self.environments[task.verifier], []
            for i in range(n):
                group.append(rollout := Rollout(task, self.tokenizer, prompt_ids, i, None))
                try:
                    rollout.episode = await environment.reset(task, seed + i)
                except (OpenQwQError, OSError) as error:
                    rollout.done, rollout.failure = True, f"the environment failed: {error}"
                else:
                    stack.push_async_callback(rollout.episode.close)
            return group
        if task.verifier not in self.verifiers:
            raise OpenQwQError(
                f"task {task.id} asks for the verifier {task.verifier!r}: "
                f"known are {', '.join([*self.verifiers, *self.environments])}"
            )
        return [Rollout(task, self.tokenizer, prompt_ids, i, None) for i in range(n)]

    async def _first_turn(self, group: Sequence[Rollout], params: SamplingParams) -> None:
        """The group's first replies; a member whose environment did not begin takes none."""
        if all(rollout.done for rollout in group):
            return
        replies = await self.generate.generate(group[0].prompt_ids, params, len(group))
        for rollout, completion in zip(group, replies, strict=True):
            if not rollout.done:
                rollout.take(completion)

    async def _go_on(self, rollouts: Sequence[tuple[Rollout, SamplingParams]]) -> None:
        """Turn after turn until every episode is over."""
        active = [(r, params) for r, params in rollouts if not r.done]
        while active:
            await asyncio.gather(*(r.act(self.max_turns, self.context_length) for r, _ in active))
            active = [(r, params) for r, params in active if not r.done]
            replies = await asyncio.gather(
                *(self.generate.generate(r.prompt_ids, r.params(params)) for r, params in active)
            )
            for (rollout, _), (completion,) in zip(active, replies, strict=True):
                rollout.take(completion)
            active = [(r, params) for r, params in active if not r.done]

    async def _finish(self, rollout: Rollout, params: SamplingParams) -> None:
        """One episode to its verdict and its end."""
        await self._go_on([(rollout, params)])
        if rollout.episode is not None:
            rollout.verdict = await self._score(rollout)
            await rollout.episode.close()

    async def _judged(self, group: Sequence[Rollout]) -> list[Attempt]:
        # Members of a group often agree to the letter: each distinct text is judged once.
        distinct = {r.text: r for r in group if r.episode is None and not r.failure}
        verdicts = await asyncio.gather(*(self._score(rollout) for rollout in distinct.values()))
        known = dict(zip(distinct, verdicts, strict=True))
        scores = [known[r.text] if r.text in known else await self._score(r) for r in group]
        return [
            Attempt(r.task, r.records, r.completions, r.text, _cut_short(r, score))
            for r, score in zip(group, scores, strict=True)
        ]

    async def _score(self, rollout: Rollout) -> Score:
        if rollout.verdict is not None:
            return rollout.verdict
        if rollout.failure:
            return Score(0.0, "error", detail=rollout.failure)
        if rollout.episode is None:
            return await self.verifiers[rollout.task.verifier].score(rollout.task, rollout.text)
        try:
            return await rollout.episode.score()
        except (OpenQwQError, OSError) as error:
            return Score(0.0, "error", detail=f"the environment failed: {error}")


def _cut_short(rollout: Rollout, score: Score) -> Score:
    """An attempt that hit its limit is worth nothing (rl-recipe 0.1), whatever it says so far."""
    if score.status != "error" and rollout.completions[-1].finish_reason == "length":
        return replace(score, value=0.0, status="truncated")
    return score


def trajectories(attempt: Attempt, group_id: str, advantage: float = 0.0) -> list[Trajectory]:
    """The flat training records of an attempt: one, or more where its history was rewritten."""
    return [
        Trajectory(
            token_ids=record.token_ids,
            sampled_mask=record.sampled_mask,
            log_probs=record.log_probs,
            weight_version=record.weight_version,
            task_id=attempt.task.id,
            group_id=group_id,
            kind=attempt.task.kind,
            reward=attempt.score.value,
            reward_parts=attempt.score.parts,
            status=attempt.score.status,
            reasoning_tokens=record.reasoning_tokens,
            advantage=advantage,
        )
        for record in attempt.records
    ]


def by_kind(attempts: Sequence[Attempt]) -> dict[str, list[Attempt]]:
    """Attempts of each source, sources in alphabetical order."""
    kinds: dict[str, list[Attempt]] = {}
    for item in sorted(attempts, key=lambda attempt: attempt.task.kind):
        kinds.setdefault(item.task.kind, []).append(item)
    return kinds
