"""Runs on Ray against the same runs in one process, with actors killed on the way."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from machines import PLACED, NoNamespaces, two_machines
from safetensors.torch import load_file
from small import rl_stage, small_config

from openqwq.config import (
    Config,
    DistillStage,
    EvaluateConfig,
    LoraConfig,
    OptimiserConfig,
)
from openqwq.data.hub import DataLock
from openqwq.evaluation.progress import Display
from openqwq.model import checkpoint
from openqwq.model.qwen2 import Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.prepare import prepare
from openqwq.train.run import Run
from openqwq.train.stages import run_stages
from openqwq.types import OpenQwQError, SamplingParams

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'ray>=2.50'")

from openqwq.cluster.push import WeightStream  # noqa: E402

CLUSTER = ("cluster.learners=2", "cluster.samplers=1", "cluster.verifiers=1")
CLUSTER += ("cluster.cpus_per_actor=0.25", "cluster.timeout=300")
COMMON = ("stages.stage1.checkpoint_every=2", "evaluation.data=['addition']")


def config(*overrides: str) -> Config:
    """The small run up to its first RL stage."""
    whole = small_config(*COMMON, *overrides)
    return replace(whole, stages=whole.stages[:2])


def run_all(run: Run, placement: Any = None) -> None:
    prepared = prepare(run.config, DataLock())
    asyncio.run(run_stages(run, prepared, Display(), placement))


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose cold start is done, and its stage 1 in one process."""
    directory = tmp_path_factory.mktemp("cold") / "run"
    run_all(Run(directory, config(), resume=False))
    return directory


def begun(cold: Path, directory: Path, settings: Config) -> Run:
    """A fresh run that takes over a cold start."""
    run = Run(directory, settings, resume=False)
    for name in ("tokenizer", "sft", "evaluation"):  # these tests are not about evaluation
        shutil.copytree(cold / name, directory / name)
    run.finish("sft", 60)
    return run


def rewards(directory: Path) -> list[float]:
    lines = map(json.loads, (directory / "log.jsonl").read_text().splitlines())
    steps = [line for line in lines if line["stage"] == "stage1"]
    return [step["reward"] for step in steps if "reward" in step]


def same_weights(ours: Path, theirs: Path) -> None:
    expected = checkpoint.load(theirs / "stage1").state_dict()
    for name, value in checkpoint.load(ours / "stage1").state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=0, msg=name)


@pytest.fixture
def ray_on_this_machine() -> Iterator[None]:
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()


def train_on_ray(run: Run, during: Any = None) -> Any:
    """Run the stages on Ray; `during` sees the placement's policy and may do harm."""
    from openqwq.cluster.placement import ray_placement

    with ray_placement(run.config) as placement:
        seen = {}
        place = placement.policy

        def spied(*arguments: Any) -> Any:
            manager = place(*arguments)
            enter = manager.__enter__

            class Spy:
                def __enter__(self) -> Any:
                    seen["policy"] = enter()
                    if during:
                        during(seen["policy"])
                    return seen["policy"]

                def __exit__(self, *error: Any) -> Any:
                    return manager.__exit__(*error)

            return Spy()

        placement.policy = spied  # type: ignore[method-assign]
        run_all(run, placement)
    return seen["policy"]


class Saboteur:
    """Does harm once, right after a phase of the push of a version has been asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.harms: dict[tuple[str, int], Callable[[], None]] = {}
        version = 0
        asked = WeightStream._all

        def ask(stream: WeightStream, actors: Any, method: str, *arguments: Any) -> Any:
            nonlocal version
            if method == "manifest":
                (version,) = arguments
            found = asked(stream, actors, method, *arguments)
            self.harms.pop((method, version), lambda: None)()
            return found

        monkeypatch.setattr(WeightStream, "_all", ask)

    def kill(self, phase: str, version: int, victim: Callable[[], Any]) -> None:
        self.harms[phase, version] = lambda: ray.kill(victim())


@pytest.mark.usefixtures("ray_on_this_machine")
def test_a_run_on_ray_has_the_curve_and_weights_of_the_local_one_whoever_is_killed(
    cold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saboteur = Saboteur(monkeypatch)

    def kill_on_the_way(policy: Any) -> None:
        learner, sampler, _, _ = policy
        train_step = learner.train_step
        steps = iter(range(100))

        def train_step_after_a_kill(*arguments: Any) -> Any:
            if next(steps) == 1:  # between checkpoints
                ray.kill(learner.ranks[1])
            return train_step(*arguments)

        learner.train_step = train_step_after_a_kill
        saboteur.kill("begin", 1, lambda: sampler.actors[0])  # with half new weights
        saboteur.kill("commit", 2, lambda: sampler.actors[0])
        saboteur.kill("begin", 3, lambda: learner.ranks[0])
        # with whole ones, uncommitted
        saboteur.kill("finish", 4, lambda: sampler.actors[0])

    run = begun(cold, tmp_path / "run", config(*CLUSTER))
    policy = train_on_ray(run, kill_on_the_way)
    assert saboteur.harms == {}
    assert (policy.learner.restarts, policy.generate.restarts) == (2, 3)
    assert rewards(run.directory) == rewards(cold)
    same_weights(run.directory, cold)


@pytest.mark.usefixtures("ray_on_this_machine")
def test_a_driver_killed_in_a_push_resumes_on_another_number_of_ranks(
    cold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DriverDied(BaseException):
        pass

    def die() -> None:
        raise DriverDied

    saboteur = Saboteur(monkeypatch)
    saboteur.harms["begin", 3] = die
    run = begun(cold, tmp_path / "run", config(*CLUSTER))
    with pytest.raises(DriverDied):
        train_on_ray(run)
    fewer = config(*CLUSTER, "cluster.learners=1")
    # the number of ranks is the one thing that differs
    (run.directory / "config.toml").unlink()
    from openqwq.config import dump_config

    (run.directory / "config.toml").write_text(dump_config(fewer))
    again = Run(run.directory, fewer, resume=True)
    train_on_ray(again)
    assert rewards(run.directory) == rewards(cold)
    same_weights(run.directory, cold)


@pytest.mark.usefixtures("ray_on_this_machine")
def test_an_adapter_on_ray_is_trained_pushed_and_saved_as_in_one_process(
    cold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("stages.stage1.lora={ rank = 4 }", "stages.stage1.temperature=0.9")
    settings += ("stages.stage1.kl_coefficient=0.01", "stages.stage1.optimiser.lr=0.01")
    local = begun(cold, tmp_path / "local", config(*settings))
    run_all(local)
    saboteur = Saboteur(monkeypatch)

    def kill_on_the_way(policy: Any) -> None:
        saboteur.kill("begin", 2, lambda: policy.generate.actors[0])
        saboteur.kill("begin", 3, lambda: policy.learner.ranks[1])

    run = begun(cold, tmp_path / "run", config(*CLUSTER, *settings))
    policy = train_on_ray(run, kill_on_the_way)
    assert (policy.learner.restarts, policy.generate.restarts) == (1, 1)
    assert rewards(run.directory) == rewards(local.directory)
    expected = load_file(local.directory / "stage1" / "adapter_model.safetensors")
    found = load_file(run.directory / "stage1" / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=0, msg=name)
    assert (
        float(max(value.abs().max() for n, value in found.items() if "lora_B" in n)) > 1e-3
    )


def all_on_ray(*overrides: str) -> Config:
    """RL of whole weights, then of an adapter on them that a teacher guides, both evaluated."""
    whole = small_config(*COMMON, "stages.stage1.steps=2", *overrides)
    evaluate = EvaluateConfig(every=1, limit=2, samples=1)
    rl = replace(rl_stage(whole), kl_coefficient=0.05, reference="sft", evaluate=evaluate)
    taught = DistillStage(
        "taught",
        {"addition": 1.0},
        steps=2,
        lora=LoraConfig(2),
        teacher="sft",
        prompts_per_step=2,
        group_size=2,
        max_tokens=16,
        optimiser=OptimiserConfig(lr=0.01),
        evaluate=EvaluateConfig(limit=2, samples=1),
    )
    return replace(whole, stages=(whole.stages[0], rl, taught))


@pytest.mark.usefixtures("ray_on_this_machine")
def test_the_driver_holds_no_model_from_the_start_of_the_first_stage_to_the_end_of_the_last(
    cold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openqwq.cluster.placement import ray_placement

    local = begun(cold, tmp_path / "local", all_on_ray())
    run_all(local)
    made: list[Qwen2] = []
    fill = checkpoint.fill
    build = Qwen2.__init__

    def filled(model: Qwen2, tensors: Any) -> Qwen2:
        made.append(model)
        return fill(model, tensors)

    def built(model: Qwen2, shape: Any) -> None:
        build(model, shape)
        if model.device.type != "meta":
            made.append(model)

    run = begun(cold, tmp_path / "run", all_on_ray(*CLUSTER))
    with monkeypatch.context() as patched, ray_placement(run.config) as placement:
        patched.setattr(checkpoint, "fill", filled)
        patched.setattr(Qwen2, "__init__", built)
        run_all(run, placement)
        assert made == []
        checkpoint.load(run.directory / "stage1")
        assert len(made) == 1  # so it would have been seen
    assert rewards(run.directory) == rewards(local.directory)
    same_weights(run.directory, local.directory)
    for name, file in (("stage1.best", "model"), ("taught", "adapter_model")):
        expected = load_file(local.directory / name / f"{file}.safetensors")
        found = load_file(run.directory / name / f"{file}.safetensors")
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=1e-5, rtol=0, msg=key)
    for name in ("stage1@1", "stage1", "taught"):
        path = Path("evaluation") / f"{name}.json"
        assert (run.directory / path).read_text() == (local.directory / path).read_text()


@pytest.mark.usefixtures("ray_on_this_machine")
@pytest.mark.parametrize("mode", ["one_step_off", "asynchronous"])
def test_overlapped_training_stays_within_its_staleness(
    cold: Path, tmp_path: Path, mode: str
) -> None:
    settings = config(
        *CLUSTER, "cluster.learners=1", f"cluster.mode={mode}", "stages.stage1.steps=6"
    )
    run = begun(cold, tmp_path / "run", settings)
    train_on_ray(run)
    lines = map(json.loads, (run.directory / "log.jsonl").read_text().splitlines())
    steps = [line for line in lines if line["stage"] == "stage1"]
    limit = 1 if mode == "one_step_off" else settings.cluster.max_staleness
    assert len(steps) == 6
    assert all(0 <= step["staleness"] <= step["max_staleness"] <= limit for step in steps)
    assert any(step["staleness"] > 0 for step in steps)
    assert all(step["log_prob_gap"] < 0.5 for step in steps if "log_prob_gap" in step)


def test_a_run_over_two_machines_has_the_curve_and_weights_of_the_local_one(
    cold: Path, tmp_path: Path
) -> None:
    try:
        with two_machines() as machines:
            machines.start_ray(0)
            machines.start_ray(1)
            settings = config(*CLUSTER, *PLACED, f"cluster.address={machines.meeting}")
            run = begun(cold, tmp_path / "run", settings)
            qwq = (
                sys.executable,
                "-m",
                "openqwq.cli",
                "train",
                f"{run.directory}/config.toml",
            )
            command = machines.command(0, *qwq, "--resume", "--out", str(run.directory))
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            sent = [machines.sent(machine) for machine in (0, 1)]
    except NoNamespaces as reason:
        pytest.skip(str(reason))
    assert done.returncode == 0, done.stderr
    assert rewards(run.directory) == rewards(cold)
    same_weights(run.directory, cold)
    weights = sum(4 * value.numel() for value in checkpoint.load(cold / "sft").parameters())
    # The first machine sends half of them to the sampler after every step, and half to the other
    # rank in every gathering, of which a step has at least two.
    assert sent[0] > (settings.stages[1].steps + 1) * weights
    assert sent[1] > settings.stages[1].steps * weights


@pytest.mark.usefixtures("ray_on_this_machine")
def test_what_a_cluster_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from openqwq.cluster import placement

    monkeypatch.setattr(placement, "PLACEMENT_SECONDS", 1)
    for overrides, message in (
        (("cluster.learners=9", "cluster.cpus_per_actor=1"), "the cluster has"),
        (("cluster.learners=1", "cluster.gpus_per_learner=1"), "add nodes"),
        (("cluster.learners=1", "cluster.samplers=0"), r"cluster\.samplers is 0"),
    ):
        with pytest.raises(OpenQwQError, match=message):
            with placement.ray_placement(config(*CLUSTER, *overrides)):
                pass


def test_a_sampler_that_cannot_hold_the_model_is_refused_by_its_size(
    cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openqwq.cluster import saved_policy
    from openqwq.cluster.saved_policy import SavedPolicy

    tokenizer = Tokenizer.load(cold / "sft")
    policy = SavedPolicy(cold / "sft", None, tokenizer, "fp32")
    policy.require_room(torch.device("cpu"))
    monkeypatch.setattr(saved_policy, "available_memory", lambda: 1000)
    with pytest.raises(OpenQwQError, match=r"a sampler needs .* GB .* node has .* 'bf16'"):
        policy.require_room(torch.device("cpu"))


def test_a_judge_that_is_lost_again_and_again_is_an_error_and_no_zero() -> None:
    from openqwq.cluster.remote import VerifierPool
    from openqwq.types import Task

    class Lost:
        class score:  # noqa: N801 - stands in for an actor's method
            @staticmethod
            async def remote(*_: Any) -> None:
                raise TimeoutError("no answer")

    pool = VerifierPool(lambda index: Lost(), 1, 1.0)
    task = Task("t", "toy", ({"role": "user", "content": "?"},), "math")
    import openqwq.cluster.remote as remote

    killed: list[Any] = []
    original, remote.ray.kill = remote.ray.kill, killed.append
    try:
        score = asyncio.run(pool.score("math", task, "1"))
    finally:
        remote.ray.kill = original
    assert (score.status, score.value) == ("error", 0.0)
    assert "no answer" in score.detail
    assert len(killed) == 4


async def test_requests_of_one_moment_go_out_together_in_turn() -> None:
    from openqwq.cluster.remote import RemoteSampler

    calls: list[tuple[int, list[int]]] = []

    class Actor:
        def __init__(self, index: int) -> None:
            class Generate:
                @staticmethod
                async def remote(requests: Any) -> list[list[str]]:
                    calls.append((index, [ids[0] for ids, _, _ in requests]))
                    return [[f"{ids[0]}"] for ids, _, _ in requests]

            self.generate = Generate

    sampler = RemoteSampler(Actor, 2, 10.0, lambda: WeightStream("gloo", 1, 10.0))
    results = await asyncio.gather(
        *(sampler.generate([number], SamplingParams()) for number in range(5))
    )
    assert results == [["0"], ["1"], ["2"], ["3"], ["4"]]
    assert sorted(calls) == [(0, [0, 2, 4]), (1, [1, 3])]
    await sampler.generate([9], SamplingParams())
    assert calls[-1] == (1, [9])
