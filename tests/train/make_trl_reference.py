"""Writes trl_reference.json: losses, gradients and advantages computed by TRL's own code.

`python tests/train/make_trl_reference.py` (needs trl). `GRPOTrainer._compute_loss` runs unbound on
a stub whose model call returns fixed log-probs; the advantage lines are cut out of its source by
their syntax tree and executed as they are. One process, one accumulation step, so TRL divides by
`num_items_in_batch` ("dapo", "cispo") or by sequence length and count ("grpo").
"""

import ast
import inspect
import json
import textwrap
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import trl
from torch import Tensor
from trl.rewards import get_soft_overlong_punishment
from trl.trainer import grpo_trainer
from trl.trainer.utils import entropy_from_logits, selective_log_softmax

LENGTHS = [5, 2, 7, 4]
ADVANTAGES = [0.75, -0.25, -1.0, 0.5]
# name: TRL loss_type, level, (epsilon_low, epsilon_high), beta, spread of the log ratios
CASES: dict[str, tuple[str, str, tuple[float, float], float, float]] = {
    "cispo": ("cispo", "token", (0.2, 5.0), 0.0, 3.0),
    "dapo": ("dapo", "token", (0.2, 0.28), 0.0, 0.8),
    "dapo_with_kl": ("dapo", "token", (0.2, 0.28), 0.05, 0.8),
    "grpo": ("grpo", "token", (0.2, 0.2), 0.0, 0.8),
    "gspo_token_sum": ("dapo", "sequence", (3e-4, 4e-4), 0.0, 3e-3),
    "gspo": ("grpo", "sequence", (3e-4, 4e-4), 0.0, 3e-3),
}


def padded(flat: Tensor) -> Tensor:
    """(loss_tokens,) to (sequences, longest), zeros on the right."""
    return torch.nn.utils.rnn.pad_sequence(list(flat.split(LENGTHS)), batch_first=True)


def loss_case(
    loss_type: str, level: str, clip: tuple[float, float], beta: float, spread: float
) -> dict[str, Any]:
    """Inputs and TRL's loss, gradient by log-prob, clip fraction and reference KL."""
    generator = torch.Generator().manual_seed(22)
    noise = torch.randn(3, sum(LENGTHS), generator=generator, dtype=torch.float64)
    log_probs = (noise[0].abs() * -1.5).requires_grad_()
    sampler, reference = (
        log_probs.detach() - spread * noise[1],
        log_probs.detach() + 0.5 * noise[2],
    )
    mask = padded(torch.ones_like(sampler))
    accelerator = SimpleNamespace(
        num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x
    )
    stub = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (padded(log_probs), mask, None),
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        accelerator=accelerator,
        args=SimpleNamespace(
            use_bias_correction_kl=False, delta=None, steps_per_generation=1
        ),
        aux_loss_enabled=False,
        beta=beta,
        current_gradient_accumulation_steps=1,
        epsilon_low=clip[0],
        epsilon_high=clip[1],
        importance_sampling_level=level,
        loss_type=loss_type,
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
    )
    inputs = {
        "prompt_ids": torch.zeros(len(LENGTHS), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(LENGTHS), 1),
        "completion_ids": mask.long(),
        "completion_mask": mask,
        "advantages": torch.tensor(ADVANTAGES, dtype=torch.float64),
        "old_per_token_logps": padded(sampler),
        "ref_per_token_logps": padded(reference),
        "num_items_in_batch": torch.tensor(float(sum(LENGTHS))),
    }
    loss = grpo_trainer.GRPOTrainer._compute_loss(stub, stub.model, inputs)
    loss.backward()
    metrics = stub._metrics["train"]
    name = "cispo_clip_ratio" if loss_type == "cispo" else "clip_ratio/region_mean"
    return {
        "clip": clip,
        "beta": beta,
        "log_probs": log_probs.tolist(),
        "sampler_log_probs": sampler.tolist(),
        "reference_log_probs": reference.tolist(),
        "loss": loss.item(),
        "gradient": log_probs.grad.tolist(),
        "clip_fraction": metrics[name][0],
        "reference_kl": metrics["kl"][0] if beta else None,
    }


def advantages(rewards: list[float], group_size: int, scale_rewards: str) -> list[float]:
    """TRL's own advantage lines, executed."""
    source = inspect.getsource(grpo_trainer.GRPOTrainer._generate_and_score_completions)
    wanted = "self.multi_objective_aggregation == 'sum_then_normalize'"
    block = next(
        node
        for node in ast.walk(ast.parse(textwrap.dedent(source)))
        if isinstance(node, ast.If) and ast.unparse(node.test) == wanted
    )
    column = torch.tensor(rewards, dtype=torch.float64)[:, None]
    scope = vars(grpo_trainer) | {
        "self": SimpleNamespace(
            reward_weights=torch.ones(1, dtype=torch.float64), scale_rewards=scale_rewards
        ),
        "rewards_per_func": column,
        "unscorable_mask": torch.isnan(column).all(dim=1),
        "num_generations": group_size,
        "device": "cpu",
    }
    exec(compile(ast.Module(block.body, []), "trl", "exec"), scope)
    result: list[float] = scope["advantages"].tolist()
    return result


def main() -> None:
    generator = torch.Generator().manual_seed(7)
    hidden = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(11, 4, generator=generator, dtype=torch.float64)
    targets = torch.tensor([0, 10, 3, 3, 7, 5])
    logits = hidden @ weight.T
    rewards = [1.0, 0.0, 0.0, 1.0, 0.3, 0.3, 0.3, 0.3, 0.0, 0.25, 0.5, 1.0]
    punish = get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)
    lengths = [1, 79, 80, 81, 90, 99, 100, 101, 500]
    reference = {
        "trl": trl.__version__,
        "lengths": LENGTHS,
        "advantages": ADVANTAGES,
        "losses": {name: loss_case(*case) for name, case in CASES.items()},
        "group_advantages": {
            "rewards": rewards,
            "group_size": 4,
            "none": advantages(rewards, 4, "none"),
            "batch": advantages(rewards, 4, "batch"),
        },
        "overlong": {
            "max_length": 100,
            "buffer": 20,
            "lengths": lengths,
            "penalties": punish([[0] * length for length in lengths]),
        },
        "log_probs": {
            "hidden": hidden.tolist(),
            "weight": weight.tolist(),
            "targets": targets.tolist(),
            "log_probs": selective_log_softmax(logits, targets).tolist(),
            "entropy": entropy_from_logits(logits).tolist(),
        },
    }
    path = Path(__file__).with_name("trl_reference.json")
    path.write_text(json.dumps(reference) + "\n")


if __name__ == "__main__":
    main()
