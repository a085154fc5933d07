"""A run whose output is piped tells in plain lines that it is alive."""

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from openqwq.config import find_config, load_config
from openqwq.evaluation import progress
from openqwq.evaluation.progress import Display, PlainLines
from openqwq.train import outlook
from openqwq.train.outlook import Outlook, introduction


def set_clock(monkeypatch: pytest.MonkeyPatch, now: Callable[[], float]) -> None:
    """Only these modules' clock: an event loop in another thread would sleep for hours."""
    for module in (outlook, progress):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=now))


def lines_until(capsys: pytest.CaptureFixture[str], wanted: str) -> list[str]:
    """What was told up to a line that holds `wanted`; fails after ten seconds."""
    told = ""
    for _ in range(1000):
        told += capsys.readouterr().err
        if wanted in told:
            return told.splitlines()
        time.sleep(0.01)
    raise AssertionError(f"{wanted!r} was not told: {told!r}")


def test_lines_come_before_the_first_report_between_reports_and_between_stages(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = Display(every=0.05)
    with display.stage("evaluate sft", 8, "problem") as report:
        lines_until(capsys, "evaluate sft: problem 0 of 8, 0 s so far")
        report(0, {})
        report(4, {"tokens": 1.0, "reward": 0.25, "name": "x"})
        (line, *_) = lines_until(capsys, "problem 4 of 8")[-1:]
        assert line.startswith("evaluate sft: problem 4 of 8, reward 0.25, about ")
        assert line.endswith(" s left")
    lines_until(capsys, "evaluate sft: done in")
    lines_until(capsys, "after evaluate sft: preparing what comes next")


def test_many_reports_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Display().stage("sft", 500) as report:
        for step in range(1, 501):
            report(step, {"cross_entropy": 2.5})
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "sft: done in 0 s, cross entropy 2.5"


@pytest.mark.parametrize("first", [0, 90])
def test_the_time_left_counts_the_steps_of_this_process(
    monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """Ten steps take a minute, in a new run and in one that is resumed after step 90."""
    now = 0.0
    set_clock(monkeypatch, lambda: now)
    told: list[str] = []
    with PlainLines(told.append, 30.0).stage("rl", first + 110) as report:
        report(first, {})
        now = 30.0
        report(first, {})
        now = 60.0
        report(first + 10, {})
    assert told[0] == f"rl: step {first} of {first + 110}, 30 s so far"
    assert told[1] == f"rl: step {first + 10} of {first + 110}, about 10 min left"


def test_the_innermost_stage_is_told_of_and_a_failed_one_is_not_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = Display(every=0.05)
    with pytest.raises(ZeroDivisionError), display.stage("rl", 9):
        with display.stage("evaluate rl@4", 2):
            lines_until(capsys, "evaluate rl@4: step 0 of 2")
        lines_until(capsys, "rl: step 0 of 9")
        raise ZeroDivisionError
    assert "rl: done" not in capsys.readouterr().err


def test_bars_of_nested_stages_share_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    display = Display()
    with display.stage("rl", 2) as outer:
        outer(1, {"reward": 0.5})
        with display.stage("evaluate rl@1", 1) as inner:
            inner(1, {})
    with display.stage("next", 1):
        pass
    told = capsys.readouterr().err
    assert "rl" in told and "evaluate rl@1" in told and "next" in told


def test_the_demo_says_what_it_does_before_it_begins() -> None:
    config = load_config([find_config("mini")], ["stages.stage1.steps=7"])
    text = introduction(config, Path("runs/demo"))
    for stage in config.stages:
        assert re.search(rf"^  {stage.name} ", text, re.MULTILINE)
    assert re.search(r"^  stage1 +7 steps ", text, re.MULTILINE)
    assert "into runs/demo" in text and re.search(r"About 1\d minutes", text)


def test_the_time_left_of_a_run_follows_the_pace_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Work expected to take 100 s took 300 s, so the 200 s that are left take 600 s."""
    now = 0.0
    set_clock(monkeypatch, lambda: now)
    outlook = Outlook({"sft": 200.0, "evaluate sft": 20.0, "stage1": 80.0})
    assert outlook.left("sft", 0, 800) == 300.0
    now = 300.0
    assert outlook.left("sft", 400, 800) == 600.0
    assert outlook.left("evaluate sft@400", 1, 2) is None


def test_what_an_earlier_process_did_says_nothing_about_the_pace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    set_clock(monkeypatch, lambda: now)
    outlook = Outlook({"sft": 200.0, "stage1": 100.0})
    assert outlook.left("stage1", 0, 10) == 100.0
    now = 20.0
    assert outlook.left("stage1", 1, 10) == pytest.approx(180.0)


def test_a_line_tells_of_the_stage_and_of_the_whole_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = Display(every=0.05, outlook=Outlook({"sft": 60.0, "stage1": 600.0}))
    with display.stage("sft", 8):
        (line, *_) = lines_until(capsys, "step 0 of 8")
    assert line.endswith("so far, the whole run: about 11 min")
