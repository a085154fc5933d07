"""Reasons to refuse a run after its first batch, before it wastes hours (rl-recipe 0.5)."""

import asyncio
from collections.abc import Sequence

import torch

from openqwq.train.episodes import Attempt
from openqwq.train.learner import PolicyLearner
from openqwq.train.packing import MicroBatch
from openqwq.train.rollout import Sampler
from openqwq.types import OpenQwQError
from openqwq.verify.judge import LanguageModelJudge, RewardModelJudge

MAX_LOG_PROB_GAP = 1e-4  # nats, fp32
MAX_GAP_IN_BF16 = 0.5  # of a single token


async def check_first_batch(
    sampler: Sampler,
    learner: PolicyLearner,
    attempts: Sequence[Attempt],
    micro_batches: Sequence[MicroBatch],
    max_gap: float = MAX_LOG_PROB_GAP,
) -> None:
    """Raise OpenQwQError naming the first thing that makes training pointless or wrong."""
    judged = [a for a in attempts if a.score.status != "error"]
    check_end_of_sequence(judged, sampler.tokenizer.eos_ids)
    await check_gold_answers(sampler, judged)
    rewards = {a.score.value for a in judged}
    if len(rewards) == 1:
        raise OpenQwQError(
            f"every reward of the first batch is {rewards.pop()}: nothing can be learned; "
            "choose easier or harder tasks, or train the cold start longer"
        )
    if micro_batches:
        check_mask(attempts, micro_batches)
        check_log_prob_gap(learner, micro_batches, max_gap)


def check_end_of_sequence(attempts: Sequence[Attempt], eos_ids: Sequence[int]) -> None:
    """A policy that never ends its turn is scored on cut-off text."""
    if not any(a.completions[-1].token_ids[-1] in eos_ids for a in attempts):
        raise OpenQwQError(
            f"no completion of the first batch ends with an end-of-turn token {tuple(eos_ids)}: "
            "raise rl.max_tokens, or check the chat template"
        )


async def check_gold_answers(sampler: Sampler, attempts: Sequence[Attempt]) -> None:
    """A verifier that rejects the task's own solution would teach the opposite."""
    # A learned judge has an opinion, no gold; an environment's solution takes several completions.
    known = {
        name: verifier
        for name, verifier in sampler.verifiers.items()
        if not isinstance(verifier, RewardModelJudge | LanguageModelJudge)
    }
    tasks = {a.task.id: a.task for a in attempts if a.task.solution and a.task.verifier in known}
    golds = list(tasks.values())
    scores = await asyncio.gather(*(known[t.verifier].score(t, t.solution or "") for t in golds))
    for task, score in zip(golds, scores, strict=True):
        if score.status != "correct":
            raise OpenQwQError(
                f"the {task.verifier} verifier judges the gold solution of {task.id} as "
                f"{score.status} ({score.detail or 'no detail'}): mend the task or the verifier"
            )


def check_mask(attempts: Sequence[Attempt], micro_batches: Sequence[MicroBatch]) -> None:
    """The tokens trained on must be sampled ones: no prompt, no forced token."""
    trained = torch.cat([batch.targets for batch in micro_batches]).bincount()
    sampled = torch.tensor(
        [
            token
            for a in attempts
            for reply in a.completions
            for token, drawn in zip(reply.token_ids, reply.sampled_mask, strict=True)
            if drawn
        ]
    ).bincount(minlength=len(trained))
    if bool((trained > sampled[: len(trained)]).any()):
        raise OpenQwQError("the loss covers tokens that were never sampled: the mask is wrong")


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
