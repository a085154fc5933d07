"""From tasks to scored trajectories: sample a group for each prompt, judge, align per token."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import (
    Completion,
    Generate,
    OpenQwQError,
    SamplingParams,
    Score,
    Task,
    Trajectory,
    Verifier,
)


@dataclass(frozen=True)
class Attempt:
    """One completion of a task with its verdict."""

    task: Task
    prompt_ids: list[int]
    completion: Completion
    text: str
    score: Score


@dataclass(frozen=True)
class Sampler:
    """All that turning tasks into judged completions needs."""

    generate: Generate
    tokenizer: Tokenizer
    verifiers: Mapping[str, Verifier]

    async def attempts(self, task: Task, params: SamplingParams, n: int) -> list[Attempt]:
        """`n` judged completions of one task, which share one prefill."""
        if task.verifier not in self.verifiers:
            raise OpenQwQError(
                f"task {task.id} asks for the verifier {task.verifier!r}: "
                f"known are {', '.join(self.verifiers)}"
            )
        prompt_ids = encode_chat(self.tokenizer, task.messages, task.tools)
        completions = await self.generate.generate(prompt_ids, params, n)
        texts = [self.tokenizer.decode(c.token_ids, skip_special=True) for c in completions]
        # Members of a group often agree to the letter: each distinct text is judged once.
        distinct = list(dict.fromkeys(texts))
        verdicts = await asyncio.gather(*(self._judge(task, text) for text in distinct))
        scores = dict(zip(distinct, verdicts, strict=True))
        return [
            Attempt(task, prompt_ids, completion, text, _cut_short(completion, scores[text]))
            for completion, text in zip(completions, texts, strict=True)
        ]

    async def _judge(self, task: Task, text: str) -> Score:
        return await self.verifiers[task.verifier].score(task, text)


def _cut_short(completion: Completion, score: Score) -> Score:
    """A completion that hit its limit is worth nothing (rl-recipe 0.1), whatever it says so far."""
    if completion.finish_reason == "length" and score.status != "error":
        return replace(score, value=0.0, status="truncated")
    return score


def trajectory(attempt: Attempt, group_id: str) -> Trajectory:
    """The flat training record of an attempt."""
    completion, prompt = attempt.completion, attempt.prompt_ids
    return Trajectory(
        token_ids=prompt + completion.token_ids,
        sampled_mask=[False] * len(prompt) + completion.sampled_mask,
        log_probs=[0.0] * len(prompt) + completion.log_probs,
        weight_version=[0] * len(prompt) + completion.weight_version,
        task_id=attempt.task.id,
        group_id=group_id,
        kind=attempt.task.kind,
        reward=attempt.score.value,
        reward_parts=attempt.score.parts,
        status=attempt.score.status,
        reasoning_tokens=completion.reasoning_tokens,
    )


def by_kind(trajectories: Sequence[Trajectory]) -> dict[str, list[Trajectory]]:
    """Trajectories of each source, sources in alphabetical order."""
    kinds: dict[str, list[Trajectory]] = {}
    for item in sorted(trajectories, key=lambda t: t.kind):
        kinds.setdefault(item.kind, []).append(item)
    return kinds
