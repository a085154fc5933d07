"""One optimiser step over micro-batches, whatever the objective."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from openqwq.config import OptimiserConfig
from openqwq.model import checkpoint, lora
from openqwq.model.attention import RaggedAttention, SequenceAttention
from openqwq.model.linear import invariant_linear, product
from openqwq.model.lora import Adapter
from openqwq.model.qwen2 import Attend, Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.loss import Metrics, frozen_log_probs, mean_metrics, token_log_probs
from openqwq.train.optimiser import build_optimisers, rate_at
from openqwq.train.packing import MicroBatch
from openqwq.types import OpenQwQError

WIDE = 512  # numbers in a token's queries; from here on a call per sequence is cheap

# (log-probs (loss_tokens,), micro-batch, token count of the whole step) -> (scalar loss, sums)
Objective = Callable[[Tensor, MicroBatch, float], tuple[Tensor, Metrics]]


class PolicyLearner(Protocol):
    """What the RL loop asks of a learner, wherever it runs; see `Learner`."""

    done: int

    def train_step(
        self, batches: Sequence[MicroBatch], objective: Objective
    ) -> dict[str, float]:
        """Update the weights once."""
        ...

    def log_probs(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Log-probs of the targets and entropies."""
        ...

    def named_params(self) -> Iterable[tuple[str, Tensor]]:
        """All that is trained, by its name in a checkpoint or adapter."""
        ...

    def write(self, directory: Path, tokenizer: Tokenizer) -> None:
        """Write the checkpoint, or the adapter alone, to a new directory, tensor by tensor."""
        ...

    def state(self) -> dict[str, Any]:
        """All that resuming needs."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a `state`."""
        ...


class Learner:
    """A model, or the adapter that hangs on it, with optimisers and learning-rate schedule.

    With an `adapter` (see `lora.attach`) only that is trained, and only that is pushed and saved.
    `temperature` is the sampler's: log-probs are of the distribution that it draws from.
    """

    def __init__(
        self,
        model: Qwen2,
        config: OptimiserConfig,
        steps: int,
        adapter: Adapter | None = None,
        temperature: float = 1.0,
    ) -> None:
        if adapter is not None and config.name != "adamw":
            raise OpenQwQError(
                f"optimiser.name is {config.name!r} for an adapter: its matrices are low in rank, "
                "so choose adamw"
            )
        self.model = model
        self.config = config
        self.steps = steps
        self.done = 0
        self.adapter = adapter
        self.temperature = temperature
        self.device = model.device  # of the products
        betas = config.beta1, config.beta2
        trained = model if adapter is None else adapter
        self.optimisers = build_optimisers(
            trained, config.name, config.lr, betas, config.weight_decay
        )

    def train_step(
        self, batches: Sequence[MicroBatch], objective: Objective
    ) -> dict[str, float]:
        """Update the weights once; returns token means of the objective's metrics.

        The loss is divided by the step's token count, so any split into micro-batches gives the
        same gradient.
        """
        self.model.train()
        tokens = float(sum(len(batch.targets) for batch in batches))
        return self.update([self.backward(batch, objective, tokens) for batch in batches])

    def backward(
        self, batch: MicroBatch, objective: Objective, tokens: float, scale: float = 1.0
    ) -> Metrics:
        """Add `scale` times the micro-batch's gradient; returns its sums, `loss` among them."""
        batch = batch.to(self.device)
        log_probs, entropy = self.log_probs(batch)
        loss, metrics = objective(log_probs, batch, tokens)
        (scale * loss).backward()  # type: ignore[no-untyped-call]
        return {**metrics, "entropy": entropy.sum(), "loss": loss.detach()}

    def update(self, parts: Sequence[Metrics]) -> dict[str, float]:
        """One optimiser step with the gradients added so far; `parts` are all their sums."""
        norm = self.clip_gradients()
        if not math.isfinite(norm):
            raise OpenQwQError(
                f"the gradient norm is {norm} at step {self.done}: lower optimiser.lr "
                f"({self.config.lr}), then go on from the last checkpoint with --resume"
            )
        rate = self.learning_rate(self.done)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.done += 1
        loss = float(sum(part["loss"] for part in parts))
        others: list[dict[str, Tensor]] = []
        for part in parts:
            others.append({name: value for name, value in part.items() if name != "loss"})
        return {"loss": loss, "grad_norm": norm, "lr": rate, **mean_metrics(others)}

    def clip_gradients(self) -> float:
        """Scale the gradient down to `max_grad_norm`; returns its norm before."""
        parameters = [parameter for _, parameter in self._trained()]
        return float(torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm))

    def log_probs(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Log-probs of the targets and entropies at their positions, both (loss_tokens,)."""
        batch = batch.to(self.device)
        invariant = self.model.invariant
        hidden = self.model(batch.token_ids, batch.position_ids, self._attend(batch))
        predictors = hidden[batch.loss_positions]
        if self.temperature != 1.0:
            predictors = predictors / self.temperature  # logits are linear in them
        head = self.model.lm_head
        if invariant:
            return token_log_probs(
                predictors, head.weight, batch.targets, product=invariant_linear
            )
        if not head.weight.requires_grad:
            return frozen_log_probs(predictors, head.weight, batch.targets)
        multiply = partial(product, dtype=head.product_dtype)
        return token_log_probs(predictors, head.weight, batch.targets, product=multiply)

    def _attend(self, batch: MicroBatch) -> Attend:
        """Attention inside each of the batch's sequences, by what is faster here."""
        lengths = batch.sequence_lengths
        prefixes = batch.prefix_lengths
        invariant = self.model.invariant
        shape = self.model.config
        is_wide = shape.num_attention_heads * shape.head_dim >= WIDE
        if is_wide and self.device.type == "cpu" and not invariant:
            return SequenceAttention(lengths, prefixes, batch.prefix_of)
        return RaggedAttention(lengths, prefixes, batch.prefix_of, self.device, invariant)

    def reference(self) -> "Reference":
        """The policy without the adapter, for a KL penalty; raises OpenQwQError without one."""
        if self.adapter is None:
            raise OpenQwQError(
                "the reference is the model without its adapter, and it has none: train with lora"
            )
        return Reference(self, self.adapter)

    def learning_rate(self, step: int) -> float:
        """The rate of a step of this stage; see `rate_at`."""
        return rate_at(self.config, step, self.steps)

    def named_params(self) -> Iterator[tuple[str, Tensor]]:
        """All that is trained, by its name in a checkpoint or adapter (see `WeightLink.push`)."""
        for name, parameter in self._trained():
            yield name, parameter.detach()

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        source = self.model if self.adapter is None else self.adapter
        yield from source.named_parameters()

    def write(self, directory: Path, tokenizer: Tokenizer) -> None:
        """See `PolicyLearner.write`."""
        if self.adapter is None:
            checkpoint.save(self.model, directory, tokenizer)
        else:
            lora.save(self.adapter, directory)

    def state(self) -> dict[str, Any]:
        """All that a resumed learner needs to continue bit for bit; a frozen base is left out."""
        if self.adapter is None:
            trained = self.model.state_dict()
        else:
            trained = dict(self.named_params())
        return {
            "done": self.done,
            "model": trained,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a `state`."""
        self.done = state["done"]
        if self.adapter is None:
            self.model.load_state_dict(state["model"])
        else:
            self.adapter.load(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)


@dataclass(frozen=True)
class Reference:
    """A learner's base, the adapter off: what a KL penalty compares with."""

    learner: Learner
    adapter: Adapter

    def log_probs(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """See `Learner.log_probs`; without gradients."""
        with torch.no_grad(), self.adapter.off():
            return self.learner.log_probs(batch)
