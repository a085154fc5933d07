"""Where a step's time goes from 8 to 1,024 GPUs: the plan's model, strong scaling, two modes.

    python bench/cluster_scaling.py [qwq-32b-64gpu]

A simulation, not a measurement. Its shares of the data sheet are checked against what others have
published (docs/cluster.md).
"""

import sys
from dataclasses import replace
from pathlib import Path

import openqwq
from openqwq.cluster.plan import make_plan
from openqwq.config import Config, load_config
from openqwq.types import OpenQwQError

CONFIGS = Path(openqwq.__file__).parent / "configs"


def scaled(config: Config, gpus: int) -> Config:
    """The same batch on `gpus` GPUs, learners and samplers in the same proportion."""
    cluster = config.cluster
    have = cluster.learners + cluster.samplers * cluster.gpus_per_sampler
    factor = gpus / have
    return replace(
        config,
        cluster=replace(
            cluster,
            learners=max(1, round(cluster.learners * factor)),
            samplers=max(1, round(cluster.samplers * factor)),
        ),
    )


def main() -> None:
    """One row for every size and mode."""
    name = sys.argv[1] if len(sys.argv) > 1 else "qwq-32b-64gpu"
    config = load_config([CONFIGS / f"{name}.toml"])
    print(
        f"{name}: {'GPUs':>6} {'mode':<13} {'step s':>8} {'learn':>8} {'sample':>8}  most of it"
    )
    for gpus in (8, 16, 32, 64, 128, 256, 512, 1024):
        for mode in ("synchronous", "asynchronous"):
            run = scaled(config, gpus)
            run = replace(run, cluster=replace(run.cluster, mode=mode))
            try:
                plan = make_plan(run)
            except OpenQwQError as error:
                print(f"{'':{len(name)}}  {gpus:>6} {mode:<13} does not fit: {error}")
                continue
            learn = plan.seconds["learn"] + plan.seconds["push"]
            sample = (
                plan.seconds["prefill"] + plan.seconds["decode"] + plan.seconds["longest"]
            )
            print(
                f"{'':{len(name)}}  {gpus:>6} {mode:<13} {plan.step_seconds:>8.0f} {learn:>8.0f} "
                f"{sample:>8.0f}  {plan.bottleneck}"
            )


if __name__ == "__main__":
    main()
