"""The plan's step times against published runs: how far off is a roofline with four shares?

    python bench/published_steps.py

The runs are NVIDIA's, of NeMo RL 0.4 on DGX-H100: bf16, Megatron and vLLM, GRPO on 64 prompts with
32 samples each (https://docs.nvidia.com/nemo/rl/0.6.0/about/performance-summary.html; the nodes of
each role are from its recipes, examples/configs/recipes/llm/performance). "On policy" gives all
GPUs to both roles in turn; "1-step off" gives each role half.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import openqwq
from openqwq.cluster.plan import make_plan
from openqwq.config import Config, RlStage, ShapeConfig, load_config

CONFIGS = Path(openqwq.__file__).parent / "configs"
PROMPT = 100  # tokens; the table gives whole sequences alone
LIMIT = 4096

LLAMA_8B = ShapeConfig(4096, 14336, 32, 32, 8)
# Of Qwen2.5 32B, which has as many parameters, and keys and values as large.
QWEN3_32B = ShapeConfig(5120, 27648, 64, 40, 8)


@dataclass(frozen=True)
class Published:
    """One row of the table; `mean_tokens` is of whole sequences."""

    name: str
    shape: ShapeConfig
    vocab_size: int
    learners: int  # GPUs
    samplers: int
    width: int  # GPUs of a sampler
    mode: str
    mean_tokens: int
    seconds: float


ON, OFF = "synchronous", "one_step_off"
RUNS = (
    Published(
        "Llama 3.1 8B, 16 GPUs, on policy", LLAMA_8B, 128256, 16, 16, 1, ON, 1060, 97.7
    ),
    Published(
        "Llama 3.1 8B, 8 + 8, 1-step off", LLAMA_8B, 128256, 8, 8, 1, OFF, 1129, 74.6
    ),
    Published("Qwen3 32B, 32 GPUs, on policy", QWEN3_32B, 151936, 32, 8, 4, ON, 3206, 393),
    Published(
        "Qwen3 32B, 32 + 32, 1-step off", QWEN3_32B, 151936, 32, 8, 4, OFF, 3207, 215
    ),
)


def as_config(run: Published) -> Config:
    """The published run as a config of ours."""
    base = load_config([CONFIGS / "qwq-32b-64gpu.toml"])
    stages = []
    for stage in base.stages:
        if isinstance(stage, RlStage):
            optimiser = replace(stage.optimiser, max_tokens_per_micro_batch=4 * LIMIT)
            stage = replace(
                stage,
                prompts_per_step=64,
                group_size=32,
                max_tokens=LIMIT - PROMPT,
                optimiser=optimiser,
                lora=None,
            )
        stages.append(stage)
    cluster = replace(
        base.cluster,
        learners=run.learners,
        samplers=run.samplers,
        gpus_per_sampler=float(run.width),
        mode=run.mode,
        offload=False,
    )
    mean_completion = (run.mean_tokens - PROMPT) / (LIMIT - PROMPT)
    plan = replace(
        base.plan,
        shape=run.shape,
        vocab_size=run.vocab_size,
        gpu="H100",
        mean_completion=mean_completion,
    )
    engine = replace(base.engine, slots=256, max_length=LIMIT)
    return replace(
        base,
        cluster=cluster,
        plan=plan,
        engine=engine,
        stages=tuple(stages),
        recompute=True,
        precision="bf16",
    )


def main() -> None:
    """One line a run: published, computed, the error, and the parts."""
    for run in RUNS:
        plan = make_plan(as_config(run))
        error = plan.step_seconds / run.seconds - 1
        parts = ", ".join(f"{name} {value:.0f}" for name, value in plan.seconds.items())
        print(
            f"{run.name:<34} published {run.seconds:5.0f} s  plan {plan.step_seconds:5.0f} s  "
            f"({error:+.0%})  {parts}"
        )


if __name__ == "__main__":
    main()
