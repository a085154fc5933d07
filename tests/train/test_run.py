"""A run on disk: nothing overwritten, nothing lost, every failure named."""

import json
import re
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from small import small_config

from openqwq.evaluation.evaluate import Outcome
from openqwq.train.held_out import is_best, saved_accuracies
from openqwq.train.run import InterruptedRun, Run
from openqwq.types import OpenQwQError


class Part:
    """A part of a stage whose state is one value."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def state(self) -> dict[str, Any]:
        return {"step": self.value}

    def load_state(self, state: dict[str, Any]) -> None:
        self.value = state["step"]


def test_a_used_directory_is_refused_without_resume_and_left_as_it_was(
    tmp_path: Path,
) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(OpenQwQError, match=r"not empty: add --resume"):
        Run(tmp_path, small_config(), resume=False)
    with pytest.raises(OpenQwQError, match="not a run directory"):
        Run(tmp_path, small_config(), resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("resume", [False, True])
def test_the_users_own_config_makes_no_run_directory(tmp_path: Path, resume: bool) -> None:
    """A run into the project's own folder would overwrite the config and remove `python/`."""
    own = tmp_path / "config.toml"
    own.write_text('seed = 5\nmodel = "a"\n')
    (tmp_path / "python").mkdir()
    rewards = tmp_path / "python" / "rewards.py"
    rewards.write_text("mine")

    with pytest.raises(OpenQwQError, match=r"is not empty|no run wrote its config\.toml"):
        Run(tmp_path, small_config(), resume)
    assert own.read_text() == 'seed = 5\nmodel = "a"\n'
    assert rewards.read_text() == "mine"


def begun(directory: Path, *steps: tuple[str, int]) -> Run:
    """A run whose stages have done so many steps."""
    run = Run(directory, small_config(), resume=False)
    for stage, count in steps:
        run.log(stage, count - 1, {"loss": 1.0})
    run.close()
    return run


def test_a_start_that_failed_before_its_first_step_leaves_the_directory_usable(
    tmp_path: Path,
) -> None:
    Run(tmp_path / "run", small_config(), resume=False)
    run = Run(tmp_path / "run", small_config("seed=5"), resume=False)
    assert "seed = 5" in (run.directory / "config.toml").read_text()


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("seed=5", "seed = 0, now it is 5"),
        ("stages.sft.optimiser.lr=1.0", "stages.sft.optimiser.lr"),
        ("stages.sft.steps=50", "stages.sft.steps = 60, now it is 50"),
        ("data.addition.options.max_digits=2", "data.addition.options.max_digits"),
        ("tokenizer.vocab_size=310", "tokenizer.vocab_size"),
        ("engine.max_length=600", "engine.max_length = 640, now it is 600"),
    ],
)
def test_a_setting_that_would_make_it_another_run_is_refused_by_name(
    tmp_path: Path, override: str, key: str
) -> None:
    begun(tmp_path / "run", ("sft", 60))
    with pytest.raises(OpenQwQError, match=re.escape(key)):
        Run(tmp_path / "run", small_config(override), resume=True)


@pytest.mark.parametrize(
    "override",
    [
        "stages.sft.steps=70",
        "stages.sft.checkpoint_every=7",
        "stages.sft.evaluate.every=5",
        "stages.stage1.group_size=4",  # of a stage that has not begun
        "evaluation.samples=3",
        "threads=2",
        "trackers=[]",
        "device=cuda",
        "engine.max_length=700",  # for a prompt that was too long
    ],
)
def test_what_decides_nothing_that_was_trained_may_change(
    tmp_path: Path, override: str
) -> None:
    begun(tmp_path / "run", ("sft", 60))
    Run(tmp_path / "run", small_config(override), resume=True)


def test_a_micro_batch_may_grow_and_not_shrink(tmp_path: Path) -> None:
    key = "stages.sft.optimiser.max_tokens_per_micro_batch"
    run = Run(tmp_path / "run", small_config(f"{key}=700"), resume=False)
    run.log("sft", 0, {"loss": 1.0})
    run.close()
    Run(tmp_path / "run", small_config(f"{key}=800"), resume=True).close()
    with pytest.raises(OpenQwQError, match="now it is 600"):
        Run(tmp_path / "run", small_config(f"{key}=600"), resume=True)


def test_the_decay_that_a_reward_model_ignored_may_be_another(tmp_path: Path) -> None:
    key = "stages.taste.optimiser.final_lr_share"
    begun(tmp_path / "run", ("sft", 60), ("stage1", 4), ("taste", 3))
    Run(tmp_path / "run", small_config(f"{key}=0.5"), resume=True)


def test_a_stage_cannot_grow_once_a_later_one_has_begun(tmp_path: Path) -> None:
    begun(tmp_path / "run", ("sft", 60), ("stage1", 1))
    Run(tmp_path / "run", small_config("stages.stage1.steps=9"), resume=True)
    with pytest.raises(OpenQwQError, match="stage 'stage1' has begun from its end"):
        Run(tmp_path / "run", small_config("stages.sft.steps=70"), resume=True)


def test_an_unwritable_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OpenQwQError, match=r"cannot write .*file/run: Not a directory"):
        Run(tmp_path / "file" / "run", small_config(), resume=False)


def test_a_state_that_cannot_be_written_leaves_the_old_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run", small_config(), resume=False)
    run.save("rl", {"a": Part(1)})

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OpenQwQError, match=r"No space left on device.*--resume"):
        run.save("rl", {"a": Part(2)})
    assert run.load_state("rl") == {"a": {"step": 1}}
    assert not list(run.directory.glob(".*partial"))


@pytest.mark.parametrize("damaged", [b"", b"junk", b"no state at all", None])
def test_a_corrupt_state_is_named(tmp_path: Path, damaged: bytes | None) -> None:
    run = Run(tmp_path / "run", small_config(), resume=False)
    run.save("rl", {"a": Part(torch.zeros(1000))})
    path = run.directory / "rl.state"
    path.write_bytes(path.read_bytes()[:500] if damaged is None else damaged)
    with pytest.raises(OpenQwQError, match=r"rl\.state is unreadable"):
        run.load_state("rl")


def test_a_resumed_log_drops_the_steps_it_will_write_again_and_a_line_cut_in_half(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path / "run", small_config(), resume=False)
    for step in range(3):
        run.log("rl", step, {"reward": step})
    run.log("sft", 9, {})
    with (run.directory / "log.jsonl").open("a") as file:
        file.write('{"stage": "rl", "st')
    run.forget_after("rl", 2)
    lines = (run.directory / "log.jsonl").read_text().splitlines()
    assert [(r["stage"], r["step"]) for r in map(json.loads, lines)] == [
        ("rl", 0), ("rl", 1), ("sft", 9),
    ]  # fmt: skip


def test_every_number_of_a_record_reaches_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Run(tmp_path / "run", small_config(), resume=False)
    run.log(
        "rl",
        3,
        {"reward": 0.25, "reward_by_kind": {"addition": 1.0}, "sample": {"task": "t"}},
    )
    run.close()
    events = EventAccumulator(str(run.directory / "tensorboard" / "rl")).Reload()
    assert events.Tags()["scalars"] == ["rl/reward", "rl/reward_by_kind/addition"]
    assert [(e.step, e.value) for e in events.Scalars("rl/reward")] == [(3, 0.25)]


def test_the_first_interrupt_waits_for_the_step_the_second_does_not(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored where a shell started us by `&`
    run = Run(tmp_path / "run", small_config(), resume=False)
    with run.stoppable() as flag:
        flag.check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(
            InterruptedRun, match=r"is saved; go on with the same command and --resume"
        ):
            flag.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def evaluated(run: Run, steps: int, *verdicts: tuple[float, str]) -> dict[str, float]:
    """The accuracies of an evaluation after so many steps of stage1, saved with these verdicts."""
    outcomes: list[dict[str, Any]] = []
    for number, (value, status) in enumerate(verdicts):
        outcome = Outcome(f"t/{number}", "t", "q", "c", value, status, 0)
        outcomes.append(asdict(outcome))
    folder = run.directory / "evaluation"
    folder.mkdir(exist_ok=True)
    saved = json.dumps({"steps": steps, "outcomes": outcomes})
    (folder / f"stage1@{steps}.json").write_text(saved)
    found = saved_accuracies(run, f"stage1@{steps}")
    assert found is not None
    return found


def test_held_out_accuracy_is_the_share_of_right_verdicts_whatever_the_rewards(
    tmp_path: Path,
) -> None:
    run = begun(tmp_path / "run")
    found = evaluated(run, 2, (5.0, "correct"), (0.4, "wrong"), (-1.0, "truncated"))
    assert found["t"] == found["mean"] == pytest.approx(1 / 3)


def test_the_best_policy_by_rewards_below_zero_is_the_one_that_earns_most(
    tmp_path: Path,
) -> None:
    run = begun(tmp_path / "run")
    stage = small_config().stage("stage1")
    assert not is_best(run, stage, 2, evaluated(run, 2, (0.0, "error")))
    assert is_best(run, stage, 4, evaluated(run, 4, (-2.5, "scored")))
    assert not is_best(run, stage, 6, evaluated(run, 6, (-2.8, "scored")))
