"""A run on disk: nothing overwritten, nothing lost, every failure named."""

import json
import signal
from pathlib import Path

import pytest
import torch
from small import small_config

from openqwq.train.run import InterruptedRun, Run
from openqwq.types import OpenQwQError


def test_a_used_directory_is_refused_without_resume_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(OpenQwQError, match=r"not empty: add --resume"):
        Run(tmp_path, small_config(), resume=False)
    with pytest.raises(OpenQwQError, match="no run directory"):
        Run(tmp_path, small_config(), resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_resuming_with_another_config_is_refused_naming_the_change(tmp_path: Path) -> None:
    Run(tmp_path / "run", small_config(), resume=False)
    Run(tmp_path / "run", small_config(), resume=True)
    with pytest.raises(OpenQwQError, match=r"steps = 4.*now 'steps = 5'"):
        Run(tmp_path / "run", small_config("rl.steps=5"), resume=True)


def test_a_run_may_go_on_on_another_device(tmp_path: Path) -> None:
    Run(tmp_path / "run", small_config(), resume=False)
    Run(tmp_path / "run", small_config("device=cuda"), resume=True)
    assert 'device = "cuda"' in (tmp_path / "run" / "config.toml").read_text()


def test_an_unwritable_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OpenQwQError, match=r"cannot write .*file/run: Not a directory"):
        Run(tmp_path / "file" / "run", small_config(), resume=False)


def test_a_state_that_cannot_be_written_leaves_the_old_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run", small_config(), resume=False)
    run.save_state("rl", {"step": 1})

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OpenQwQError, match=r"No space left on device.*--resume"):
        run.save_state("rl", {"step": 2})
    assert run.load_state("rl") == {"step": 1}
    assert not list(run.directory.glob("*.partial"))


@pytest.mark.parametrize("damaged", [b"", b"junk", b"no state at all", None])
def test_a_corrupt_state_is_named(tmp_path: Path, damaged: bytes | None) -> None:
    run = Run(tmp_path / "run", small_config(), resume=False)
    run.save_state("rl", {"weights": torch.zeros(1000)})
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
    run.log("rl", 3, {"reward": 0.25, "reward_by_kind": {"addition": 1.0}, "sample": {"task": "t"}})
    run.close()
    events = EventAccumulator(str(run.directory / "tensorboard" / "rl")).Reload()
    assert events.Tags()["scalars"] == ["rl/reward", "rl/reward_by_kind/addition"]
    assert [(e.step, e.value) for e in events.Scalars("rl/reward")] == [(3, 0.25)]


def test_the_first_interrupt_waits_for_the_step_the_second_does_not(tmp_path: Path) -> None:
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
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
