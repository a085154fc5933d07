"""The configured policy objective of an RL stage, for `Learner.train_step`."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from openqwq.config import RlStage
from openqwq.train.loss import Metrics, policy_loss
from openqwq.train.packing import MicroBatch

TOKEN_BOUNDS = (0.5, 5.0)  # of a token's importance ratio
SEQUENCE_BOUNDS = (0.99, 1.01)  # of a sequence's mean ratio


class Frozen(Protocol):
    """A policy that is not trained: a KL penalty's reference, or a teacher."""

    def log_probs(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """See `Learner.log_probs`."""
        ...


def objective(
    stage: RlStage, reference: Frozen | None = None
) -> Callable[[Tensor, MicroBatch, float], tuple[Tensor, Metrics]]:
    """See the module; `reference` is the frozen policy of the KL penalty."""

    def loss(log_probs: Tensor, batch: MicroBatch, tokens: float) -> tuple[Tensor, Metrics]:
        reference_log_probs = None
        if reference is not None:
            with torch.no_grad():
                reference_log_probs = reference.log_probs(batch)[0].to(log_probs.device)
        return policy_loss(
            stage.objective,
            log_probs,
            batch.sampler_log_probs,
            batch.advantages,
            batch.sequence_index,
            tokens,
            cispo_cap=stage.cispo_cap,
            dapo_clip=(stage.dapo_clip_low, stage.dapo_clip_high),
            gspo_clip=(stage.gspo_clip_low, stage.gspo_clip_high),
            token_bounds=TOKEN_BOUNDS if stage.token_mask else None,
            sequence_bounds=SEQUENCE_BOUNDS if stage.sequence_mask else None,
            reference_log_probs=reference_log_probs,
            kl_coefficient=stage.kl_coefficient,
        )

    return loss
