"""Charts of an evaluation draw what the records say."""

from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from openqwq.evaluation import chart
from openqwq.evaluation.results import Record, pass_at_1, summarise


def record(index: int, thinking: int, generated: bool = True) -> Record:
    value = float(generated)
    return Record(
        f"t/{index}",
        "t",
        0,
        0,
        [],
        reasoning_tokens=thinking,
        value=value,
        generated=generated,
    )


@pytest.fixture
def curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Filled with the points of the line that is saved next."""
    points: list[tuple[float, float]] = []

    def save(figure: Figure, path: Path, title: str, note: str = "") -> chart.Chart:
        (line,) = figure.axes[0].lines
        points.extend(zip(*map(list, line.get_data()), strict=True))
        return chart.Chart(title, note, "")

    monkeypatch.setattr(chart, "save", save)
    return points


def test_bars_of_rewards_beyond_0_and_1_are_within_the_chart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limits: list[tuple[float, float]] = []

    def save(figure: Figure, path: Path, title: str, note: str = "") -> chart.Chart:
        limits.append(figure.axes[0].get_ylim())
        return chart.Chart(title, note, "")

    monkeypatch.setattr(chart, "save", save)
    for value in (-3.0, 2.5, 0.5):
        records = [replace(record(i, 0), value=value) for i in range(2)]
        found = summarise(records, pass_at_1(records))
        chart.bars("m", {"t": "T"}, {"t": found}, tmp_path / "a.png")
    below, above, within = limits
    assert below[0] <= -300
    assert above[1] >= 250
    assert within == (0, 108)


def test_a_reply_without_thinking_is_within_every_budget(
    curve: list[tuple[float, float]], tmp_path: Path
) -> None:
    records = [record(i, 10 * (i % 2)) for i in range(100)]
    assert chart.by_budget("T", records, tmp_path / "a.png")
    assert curve == [(0, 50), (10, 100)]


def test_the_budget_curve_ends_at_the_score_with_failed_replies_wrong(
    curve: list[tuple[float, float]], tmp_path: Path
) -> None:
    records = [record(i, 5, generated=i < 30) for i in range(40)]
    assert chart.by_budget("T", records, tmp_path / "a.png")
    assert curve == [(5, 75)]


def test_there_is_no_budget_curve_without_any_thinking(tmp_path: Path) -> None:
    assert (
        chart.by_budget("T", [record(i, 0) for i in range(100)], tmp_path / "a.png") is None
    )
