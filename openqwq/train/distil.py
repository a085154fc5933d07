"""On-policy distillation: the student samples, a teacher scores the same tokens.

The advantage of a token is the teacher's log-prob minus the student's, so that the gradient lowers
the reverse KL from student to teacher on what the student itself says (Agarwal et al., arXiv
2306.13649; Gu et al., arXiv 2306.08543).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from openqwq.config import DistillStage
from openqwq.evaluation.progress import Progress
from openqwq.train.curriculum import Curriculum
from openqwq.train.describe import rollout_rows
from openqwq.train.episodes import Attempt
from openqwq.train.learner import PolicyLearner
from openqwq.train.loss import Metrics, policy_loss
from openqwq.train.packing import MicroBatch, pack_trajectories
from openqwq.train.rl import Groups, no_evaluation
from openqwq.train.rollouts import RolloutRunner, trajectories_of
from openqwq.train.run import Evaluate, Parts, Run
from openqwq.train.teachers import Teacher
from openqwq.types import OpenQwQError, SamplingParams, Trajectory, WeightLink


@dataclass(frozen=True)
class Distiller:
    """The parts of a distill stage; see `Trainer` for those of the same name."""

    run: Run
    stage: DistillStage
    learner: PolicyLearner
    runner: RolloutRunner
    link: WeightLink
    curriculum: Curriculum
    teacher: Teacher
    evaluate: Evaluate = no_evaluation

    async def train(self, progress: Progress) -> None:
        """Run the stage to its end, saving and logging as it goes; resumes where it stopped.

        Raises InterruptedRun after the step in which Ctrl-C came.
        """
        run = self.run
        stage = self.stage
        learner = self.learner
        parts: Parts = {"learner": learner, "curriculum": self.curriculum}
        run.restore(stage.name, parts)
        run.forget_after(stage.name, learner.done)
        self.link.push(learner.named_params(), learner.done)
        progress(learner.done, {})
        with run.stoppable() as flag:
            while learner.done < stage.steps:
                metrics = await self._step()
                run.log(stage.name, learner.done - 1, metrics)
                progress(learner.done, metrics)

                last = learner.done == stage.steps
                every = stage.evaluate.every
                if every and learner.done % every == 0 and not last:
                    found = await self.evaluate(learner.done)
                    run.log(stage.name, learner.done - 1, {"held_out": found})
                if learner.done % stage.checkpoint_every == 0 or last or flag.is_set:
                    run.save(stage.name, parts)
                    flag.check()

    async def _step(self) -> dict[str, Any]:
        started = time.perf_counter()
        step = self.learner.done
        groups = await self._sample()
        sampled = time.perf_counter()

        trajectories, attempts = _trajectories(groups)
        self.run.add_rollouts(self.stage.name, rollout_rows(step, groups, trajectories))
        limit = self.stage.optimiser.micro_batch_tokens
        batches = await self._taught(pack_trajectories(trajectories, limit))
        divergence = reverse_kl(batches)
        metrics = self.learner.train_step(batches, _objective)
        self.link.push(self.learner.named_params(), step + 1)

        learned = time.perf_counter()
        tokens = sum(attempt.sampled_tokens for attempt in attempts)
        return {
            "reverse_kl": divergence,
            "completion_tokens": tokens / len(attempts),
            "thinking_tokens": sum(a.reasoning_tokens for a in attempts) / len(attempts),
            **metrics,
            "seconds": {"rollout": sampled - started, "learn": learned - sampled},
        }

    async def _sample(self) -> Groups:
        stage = self.stage
        prefix = f"{stage.name}/{self.run.config.seed}/{self.curriculum.drawn}"
        tasks = self.curriculum.next_tasks(stage.prompts_per_step)
        keys = [f"{prefix}/{i}" for i in range(len(tasks))]
        prompts = []
        for number, task in enumerate(tasks):
            seed = (
                (self.run.config.seed + 1) * 1_000_003
                + 1009 * self.learner.done
                + 64 * number
            )
            params = SamplingParams(
                temperature=stage.temperature,
                top_p=1.0,
                top_k=0,
                max_tokens=stage.max_tokens,
                stop_token_ids=self.runner.tokenizer.eos_ids,
                seed=seed,
            )
            prompts.append((task, params))
        groups = await self.runner.groups(prompts, stage.group_size)
        return list(zip(keys, groups, strict=True))

    async def _taught(self, batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        """The batches with each token's advantage: how much likelier the teacher finds it."""
        found: list[MicroBatch] = []
        taught = await self.teacher.log_probs(batches)
        for batch, log_probs in zip(batches, taught, strict=True):
            own = batch.sampler_log_probs
            found.append(replace(batch, advantages=log_probs.to(own.device) - own))
        return found


def reverse_kl(batches: Sequence[MicroBatch]) -> float:
    """Mean of student minus teacher log-prob over sampled tokens, nats: an estimate of the KL."""
    gaps = torch.cat([batch.advantages for batch in batches])
    return float(-gaps.mean())


def _trajectories(groups: Groups) -> tuple[list[Trajectory], list[Attempt]]:
    """What is trained on: every attempt but those whose environment failed."""
    trajectories: list[Trajectory] = []
    attempts: list[Attempt] = []
    for key, group in groups:
        for attempt in group:
            if attempt.completions:
                trajectories += trajectories_of(attempt, key)
                attempts.append(attempt)
    if not trajectories:
        raise OpenQwQError(
            "no completion could be drawn: every environment of the step failed"
        )
    for trajectory in trajectories:
        trajectory.status = "scored"  # nobody's verdict decides what is learned here
    return trajectories, attempts


def _objective(
    log_probs: Tensor, batch: MicroBatch, tokens: float
) -> tuple[Tensor, Metrics]:
    return policy_loss(
        "cispo",
        log_probs,
        batch.sampler_log_probs,
        batch.advantages,
        batch.sequence_index,
        tokens,
    )
