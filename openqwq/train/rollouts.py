"""From tasks to scored attempts: sample a group for each prompt, let environments answer, judge."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.episodes import Attempt, Rollout, environment_failure, whole_episode
from openqwq.train.rewards import Rewards, without_value
from openqwq.types import (
    Completion,
    Environment,
    Generate,
    OpenQwQError,
    SamplingParams,
    Score,
    Task,
    Trajectory,
)

Prompt = tuple[Task, SamplingParams]
BegunRollout = tuple[Rollout, SamplingParams]  # and how its replies are sampled


@dataclass(frozen=True)
class RolloutRunner:
    """All that turning tasks into judged attempts needs.

    A task that names an environment is played in its table's own of `environments`, for up to
    `max_turns` replies while they fit into `context_length` tokens; `turns_of` overrides that for
    single tables.

    `in_step`, all episodes take their turns together: every reply of a turn is sampled, then every
    environment acts at once. So the engine's batches, and every last bit of the log-probs, do not
    depend on how long a tool takes. Otherwise each goes at its own pace, which environments need
    that let only some episodes begin before others have ended.
    """

    generate: Generate
    tokenizer: Tokenizer
    rewards: Rewards
    environments: Mapping[str, Environment] = field(default_factory=dict)
    max_turns: int = 8
    turns_of: Mapping[str, int] = field(default_factory=dict)
    context_length: int = 32768
    in_step: bool = True

    async def groups(
        self, prompts: Sequence[Prompt], n: int, answered: Callable[[], None] | None = None
    ) -> list[list[Attempt]]:
        """`n` judged attempts of each task, which share one prefill.

        `answered` is called when a task has its first replies.
        """

        async def first_turn(group: list[Rollout], params: SamplingParams) -> None:
            await self._first_turn(group, params)
            if answered is not None:
                answered()

        async with AsyncExitStack() as stack:
            begun: list[tuple[list[Rollout], SamplingParams]] = []
            for task, params in prompts:
                group = await self._begin(task, params.seed, n, stack)
                begun.append((group, params))

            await asyncio.gather(*(first_turn(group, params) for group, params in begun))

            rollouts: list[BegunRollout] = []
            for group, params in begun:
                rollouts += [(rollout, params) for rollout in group]
            if self.in_step:
                await self._go_on(rollouts)
            else:
                endings = [self._finish(rollout, params) for rollout, params in rollouts]
                await asyncio.gather(*endings)

            judging = [self._judged(group) for group, _ in begun]
            return list(await asyncio.gather(*judging))

    async def judged(self, task: Task, completions: Sequence[Completion]) -> list[Attempt]:
        """The judged attempts that `completions` are at a task without an environment."""
        prompt_ids = encode_chat(self.tokenizer, task.messages, task.tools)
        group: list[Rollout] = []
        for member, completion in enumerate(completions):
            rollout = Rollout(task, self.tokenizer, prompt_ids, member, None)
            rollout.take(completion)
            group.append(rollout)
        return await self._judged(group)

    async def _begin(
        self, task: Task, seed: int, n: int, stack: AsyncExitStack
    ) -> list[Rollout]:
        prompt_ids = encode_chat(self.tokenizer, task.messages, task.tools)
        self._require_room(task, len(prompt_ids))
        group = [Rollout(task, self.tokenizer, prompt_ids, i, None) for i in range(n)]
        if not task.environment:
            return group

        environment = self.environments[task.kind]

        async def reset(rollout: Rollout) -> None:
            try:
                begun = await environment.reset(task, seed + rollout.member)
                rollout.episode = whole_episode(begun)
            except Exception as error:  # an environment of the user's may raise anything
                rollout.done = True
                rollout.failure = environment_failure(error)
            else:
                stack.push_async_callback(rollout.close)

        await asyncio.gather(*(reset(rollout) for rollout in group))
        return group

    def _require_room(self, task: Task, length: int) -> None:
        """Raise OpenQwQError where a prompt of `length` tokens leaves no room for a reply."""
        if length >= self.context_length:
            raise OpenQwQError(
                f"the prompt of {task.id} ({task.kind}) has {length} tokens, and engine.max_length "
                f"is {self.context_length}: raise it, and go on with --resume"
            )

    async def _first_turn(self, group: Sequence[Rollout], params: SamplingParams) -> None:
        """The group's first replies; a member whose environment did not begin takes none."""
        if all(rollout.done for rollout in group):
            return
        replies = await self.generate.generate(group[0].prompt_ids, params, len(group))
        for rollout, completion in zip(group, replies, strict=True):
            if not rollout.done:
                rollout.take(completion)

    async def _go_on(self, rollouts: Sequence[BegunRollout]) -> None:
        """Turn after turn until every episode is over."""
        active = _not_done(rollouts)
        while active:
            await asyncio.gather(*(self._act(rollout) for rollout, _ in active))
            active = _not_done(active)
            asking = [self._next_reply(rollout, params) for rollout, params in active]
            replies = await asyncio.gather(*asking)
            for (rollout, _), reply in zip(active, replies, strict=True):
                rollout.take(reply)
            active = _not_done(active)

    async def _act(self, rollout: Rollout) -> None:
        max_turns = self.turns_of.get(rollout.task.kind, self.max_turns)
        await rollout.act(max_turns, self.context_length)

    async def _next_reply(self, rollout: Rollout, params: SamplingParams) -> Completion:
        own = rollout.params(params)
        (reply,) = await self.generate.generate(rollout.prompt_ids, own)
        return reply

    async def _finish(self, rollout: Rollout, params: SamplingParams) -> None:
        """One episode to its verdict and its end."""
        await self._go_on([(rollout, params)])
        if rollout.episode is not None:
            rollout.verdict = await self._episode_verdict(rollout)
            await rollout.close()

    async def _judged(self, group: Sequence[Rollout]) -> list[Attempt]:
        # Members of a group often agree to the letter: each distinct text is judged once.
        distinct: dict[str, Rollout] = {}
        for rollout in group:
            if _is_judged_by_text(rollout):
                distinct[rollout.text] = rollout
        judging = [self._score(rollout) for rollout in distinct.values()]
        scores = await asyncio.gather(*judging)
        by_text = dict(zip(distinct, scores, strict=True))

        attempts: list[Attempt] = []
        for rollout in group:
            if _is_judged_by_text(rollout):
                score = by_text[rollout.text]
            else:
                score = await self._score(rollout)
            if rollout.cut_short:
                score = without_value(score)
            attempts.append(
                Attempt(
                    rollout.task,
                    rollout.token_records,
                    rollout.completions,
                    rollout.text,
                    score,
                )
            )
        return attempts

    async def _score(self, rollout: Rollout) -> Score:
        """The verdict on an attempt, worth the stage's rewards."""
        if rollout.failure:
            return Score(0.0, "error", detail=rollout.failure)
        completion = rollout.completion_text()
        if rollout.episode is None:
            return await self.rewards.score(rollout.task, completion)
        verdict = rollout.verdict or await self._episode_verdict(rollout)
        return await self.rewards.reward(rollout.task, completion, verdict)

    async def _episode_verdict(self, rollout: Rollout) -> Score:
        assert rollout.episode is not None
        try:
            verdict = await rollout.episode.score()
        except Exception as error:  # as above
            return Score(0.0, "error", detail=environment_failure(error))
        if not isinstance(verdict, Score):
            told = f"the environment's score() returned {verdict!r:.80}: return a Score"
            return Score(0.0, "error", detail=told)
        return verdict


def _not_done(rollouts: Sequence[BegunRollout]) -> list[BegunRollout]:
    return [(rollout, params) for rollout, params in rollouts if not rollout.done]


def _is_judged_by_text(rollout: Rollout) -> bool:
    """Whether the text alone decides the verdict, not an environment or its failure."""
    return rollout.episode is None and not rollout.failure


def trajectories_of(
    attempt: Attempt, group_id: str, advantage: float = 0.0
) -> list[Trajectory]:
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
        for record in attempt.token_records
    ]


def by_kind(attempts: Sequence[Attempt]) -> dict[str, list[Attempt]]:
    """Attempts of each table, tables in alphabetical order."""
    kinds: dict[str, list[Attempt]] = {}
    for item in sorted(attempts, key=lambda attempt: attempt.task.kind):
        kinds.setdefault(item.task.kind, []).append(item)
    return kinds
