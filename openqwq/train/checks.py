"""Reasons to refuse a run after its first batch, before it wastes hours (rl-recipe 0.5).

Each refusal shows its evidence, counts by status and two completions, and names the setting that
lets the run go on all the same.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import torch

from openqwq.config import RlStage
from openqwq.train.episodes import Attempt
from openqwq.train.learner import PolicyLearner
from openqwq.train.packing import MicroBatch
from openqwq.train.rollouts import RolloutRunner
from openqwq.types import OpenQwQError, Score, Task
from openqwq.verify.judge import LanguageModelJudge, RewardModelJudge

MAX_LOG_PROB_GAP = 1e-4  # nats, fp32
MAX_GAP_IN_BF16 = 0.5  # of a single token
SHOWN = 300  # characters of a completion


def max_log_prob_gap(precision: str, deterministic: bool) -> float:
    """How far apart sampler and learner may be on one token, in nats."""
    if deterministic:
        return 0.0
    return MAX_LOG_PROB_GAP if precision == "fp32" else MAX_GAP_IN_BF16


async def check_first_batch(
    runner: RolloutRunner,
    learner: PolicyLearner,
    attempts: Sequence[Attempt],
    micro_batches: Sequence[MicroBatch],
    max_gap: float,
    stage: RlStage,
) -> None:
    """Raise OpenQwQError naming the first thing that makes training pointless or wrong."""
    judged = [a for a in attempts if a.score.status != "error"]
    if "ends" not in stage.skip_checks:
        check_ends(judged, runner.tokenizer.eos_ids, stage)
    if "golds" not in stage.skip_checks:
        await check_gold_answers(runner, judged, stage)
    if "rewards" not in stage.skip_checks:
        check_rewards(judged, stage, runner.rewards.by_status)
    if micro_batches:
        check_mask(attempts, micro_batches)
        if "gap" not in stage.skip_checks:
            check_log_prob_gap(learner, micro_batches, max_gap)


def check_ends(attempts: Sequence[Attempt], eos_ids: Sequence[int], stage: RlStage) -> None:
    """A policy that never ends its turn is scored on cut-off text."""
    if not any(a.completions[-1].token_ids[-1] in eos_ids for a in attempts):
        raise OpenQwQError(
            f"no completion of the first batch ends with an end-of-turn token {tuple(eos_ids)}: "
            f"raise stages.{stage.name}.max_tokens ({stage.max_tokens}), or check the chat template"
            f"{evidence(attempts, stage, 'ends')}"
        )


def check_rewards(
    attempts: Sequence[Attempt], stage: RlStage, by_status: Callable[[str], bool]
) -> None:
    """Equal rewards give no gradient, and equal verdicts none where these decide (`informative`).

    `by_status` says whether the verdicts on a table's tasks decide.
    """
    rewards = {a.score.value for a in attempts}
    if len(rewards) == 1:
        raise OpenQwQError(
            f"every reward of the first batch is {rewards.pop()}: nothing can be learned from it; "
            "choose easier or harder tasks, or train on worked solutions first"
            f"{evidence(attempts, stage, 'rewards')}"
        )
    if stage.informative == "reward" or stage.shuffle_rewards:
        return
    for attempt in attempts:
        if attempt.score.status == "scored" or not by_status(attempt.task.kind):
            return
    right = {attempt.score.status == "correct" for attempt in attempts}
    if len(right) == 1:
        verdict = "right" if right.pop() else "wrong"
        raise OpenQwQError(
            f"every completion of the first batch is {verdict}, and "
            f"stages.{stage.name}.informative = 'verifier' learns from prompts with both right and "
            "wrong ones: choose easier or harder tasks, train on worked solutions first, or set it "
            f"to 'reward'{evidence(attempts, stage, 'rewards')}"
        )


async def check_gold_answers(
    runner: RolloutRunner, attempts: Sequence[Attempt], stage: RlStage
) -> None:
    """A verifier that rejects the task's own solution would teach the opposite."""
    # A learned judge has an opinion, no gold; an environment's solution takes several completions.
    tasks: dict[str, Task] = {}
    golds: dict[str, Awaitable[Score]] = {}
    for attempt in attempts:
        task = attempt.task
        judge = runner.rewards.verifiers.get(task.verifier)
        if judge is None or isinstance(judge, RewardModelJudge | LanguageModelJudge):
            continue
        if task.solution and not task.environment and task.id not in tasks:
            tasks[task.id] = task
            golds[task.id] = judge.score(task, task.solution)
    scores = await asyncio.gather(*golds.values())
    for task, score in zip(tasks.values(), scores, strict=True):
        if score.status not in ("correct", "scored"):
            raise OpenQwQError(
                f"the {task.verifier} verifier judges the gold solution of {task.id} as "
                f"{score.status} ({score.detail or 'no detail'}): correct the task or the verifier"
                f"{evidence(attempts, stage, 'golds')}"
            )


def evidence(attempts: Sequence[Attempt], stage: RlStage, check: str) -> str:
    """What the first batch was like, and the key that switches a check off."""
    counts = Counter(a.score.status for a in attempts)
    listed = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    lines = [f"\nThe first batch: {listed or 'nothing was judged'}."]
    for attempt in [*attempts[:1], *attempts[-1:]]:
        text = attempt.text
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."
        lines.append(f"{attempt.task.id} ({attempt.score.status}): {shown!r}")
    lines.append(f'To go on all the same: stages.{stage.name}.skip_checks = ["{check}"]')
    return "\n".join(lines)


def check_mask(attempts: Sequence[Attempt], micro_batches: Sequence[MicroBatch]) -> None:
    """The tokens trained on must be sampled ones: no prompt, no forced token."""
    drawn: list[int] = []
    for attempt in attempts:
        for reply in attempt.completions:
            pairs = zip(reply.token_ids, reply.sampled_mask, strict=True)
            drawn += [token for token, was_sampled in pairs if was_sampled]
    trained = torch.cat([batch.targets for batch in micro_batches]).bincount()
    sampled = torch.tensor(drawn).bincount(minlength=len(trained))
    if bool((trained > sampled[: len(trained)]).any()):
        raise OpenQwQError(
            "the loss covers tokens that were never sampled: the mask is wrong"
        )


def check_log_prob_gap(
    learner: PolicyLearner,
    micro_batches: Sequence[MicroBatch],
    max_gap: float = MAX_LOG_PROB_GAP,
) -> None:
    """Learner and sampler must give the same tokens the same probability."""
    gaps = []
    with torch.no_grad():
        for batch in micro_batches:
            log_probs, _ = learner.log_probs(batch)
            recorded = batch.sampler_log_probs.to(log_probs.device)
            gaps.append((log_probs - recorded).abs().max())
    gap = float(torch.stack(gaps).max()) if gaps else 0.0
    if not gap <= max_gap:  # NaN too
        raise OpenQwQError(
            f"sampler and learner differ by up to {gap:.2e} nats on the first batch (limit "
            f"{max_gap:.0e}): they run different weights or different code"
        )
