from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import openqwq
from openqwq.cli import main
from openqwq.cluster.plan import describe_plan, make_plan, parameter_count
from openqwq.config import Config, LoraConfig, RlStage, load_config
from openqwq.types import OpenQwQError

CONFIGS = Path(openqwq.__file__).parent / "configs"
SHIPPED = ("qwq-32b-8xH200", "qwq-32b-64gpu", "qwq-7b-1node")


def shipped(name: str, *overrides: str) -> Config:
    return load_config([CONFIGS / f"{name}.toml"], overrides)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_cluster_configs_fit(name: str) -> None:
    config = shipped(name)
    plan = make_plan(config)
    assert (
        sum(plan.learner_bytes.values())
        < 0.94 * {"H200": 141e9, "H100": 80e9}[config.plan.gpu]
    )
    assert plan.step_seconds >= max(plan.seconds.values()) * 0.99
    assert plan.bottleneck in describe_plan(config, plan)


def test_the_32b_shape_has_its_parameters() -> None:
    assert parameter_count(shipped("qwq-32b-64gpu")) == 32_763_876_352


def test_sharding_divides_what_is_sharded_and_nothing_else() -> None:
    config = shipped("qwq-32b-64gpu")
    twice = replace(config, cluster=replace(config.cluster, learners=48))
    few, many = make_plan(config).learner_bytes, make_plan(twice).learner_bytes
    for name in ("weights", "gradients", "optimiser"):
        assert few[name] == pytest.approx(2 * many[name])
    assert few["gathered"] == many["gathered"]
    assert few["optimiser"] == pytest.approx(8 * 32_763_876_352 / 24)


def test_overlap_hides_the_shorter_part_and_recomputation_costs_a_third() -> None:
    config = shipped("qwq-7b-1node")
    waits = replace(config, cluster=replace(config.cluster, mode="synchronous"))
    overlapped, synchronous = make_plan(config), make_plan(waits)
    assert overlapped.step_seconds < synchronous.step_seconds
    learn = overlapped.seconds["learn"] + overlapped.seconds["push"]
    sample = overlapped.seconds["prefill"] + overlapped.seconds["decode"]
    assert overlapped.seconds["longest"] == 0 < synchronous.seconds["longest"]
    assert overlapped.step_seconds == pytest.approx(max(learn, sample))
    without = replace(config, recompute=False)
    with pytest.raises(OpenQwQError, match=r"recompute = true"):
        make_plan(without)  # activations of a 16k micro-batch do not fit


def with_stage(config: Config, **changes: Any) -> Config:
    """The config with its RL stages changed."""
    stages = []
    for stage in config.stages:
        stages.append(replace(stage, **changes) if isinstance(stage, RlStage) else stage)
    return replace(config, stages=tuple(stages))


def test_an_adapter_is_pushed_alone_and_its_base_is_frozen() -> None:
    config = shipped("qwq-32b-8xH200")
    whole = make_plan(with_stage(config, lora=None))
    adapter = make_plan(with_stage(config, lora=LoraConfig(rank=16)))
    assert whole.traffic["sampler"] == 2 * parameter_count(config)
    count = 64 * 16 * (2 * (5120 + 5120) + 2 * (5120 + 1024) + 3 * (5120 + 27648))
    assert adapter.traffic["sampler"] == 4 * count
    assert adapter.seconds["push"] < whole.seconds["push"] / 100
    assert adapter.learner_bytes["optimiser"] == 8 * count
    frozen = 2 * parameter_count(config) / config.cluster.learners
    assert adapter.learner_bytes["weights"] == pytest.approx(frozen + 4 * count)


@pytest.mark.parametrize(
    ("change", "bottleneck", "remedy"),
    [
        ({"plan": {"verdict_seconds": 9.0}}, "verdicts", "cluster.verifiers"),
        (
            {"cluster": {"mode": "synchronous"}, "plan": {"mean_completion": 0.001}},
            "longest",
            "asyn",
        ),
    ],
)
def test_a_plan_warns_where_neither_learning_nor_drawing_takes_most_of_a_step(
    change: dict[str, dict[str, Any]], bottleneck: str, remedy: str
) -> None:
    config = shipped("qwq-7b-1node")
    assert make_plan(config).warning == ""
    for name, fields in change.items():
        config = replace(config, **{name: replace(getattr(config, name), **fields)})
    plan = make_plan(config)
    assert plan.bottleneck == bottleneck
    assert remedy in plan.warning
    assert plan.warning in describe_plan(config, plan)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("cluster.learners=2",),
            r"each learner GPU needs .* of .*: raise cluster\.learners",
        ),
        (
            ("cluster.gpus_per_sampler=1", "plan.gpu=H100", "cluster.learners=16"),
            "a sampler of 1",
        ),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(OpenQwQError, match=message):
        make_plan(shipped("qwq-32b-8xH200", *overrides))


def test_a_pretrained_model_needs_its_shape_in_the_plan() -> None:
    config = shipped("qwq-7b-1node")
    with pytest.raises(OpenQwQError, match=r"\[plan\.shape\].*DeepSeek-R1-Distill-Qwen-7B"):
        make_plan(replace(config, plan=replace(config.plan, shape=None)))


def test_the_command_prints_the_plan_of_a_shipped_config_by_its_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", "qwq-7b-1node", "--plan"]) == 0
    assert "7,615,616,512 parameters" in capsys.readouterr().out


def test_a_run_without_a_directory_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "qwq-7b-1node"]) == 2
    assert "--out DIR" in capsys.readouterr().err
