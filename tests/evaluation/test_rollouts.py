"""The page and the JSON of a run's attempts: filtered, sampled by groups, safe to open."""

import json
from pathlib import Path
from typing import Any

import pytest

from openqwq.cli import main
from openqwq.evaluation.rollouts import Filter, read_attempts, selected, write_page
from openqwq.types import OpenQwQError

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def row(step: int, group: int, member: int, **changes: Any) -> dict[str, Any]:
    return {
        "step": step,
        "group": f"rl/0/{group}",
        "member": member,
        "task": f"sums:{group % 3}",
        "kind": "sums",
        "question": "What is 1 + 1?",
        "text": "one and one\n</think>\n\n\\boxed{2}",
        "reward": float(member),
        "parts": {"verifier": float(member)},
        "status": "correct" if member else "wrong",
        "detail": "",
        "tokens": 10,
        "thinking_tokens": 4,
        "trained": True,
    } | changes


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "rollouts"
    folder.mkdir(parents=True)
    rows = [row(group // 2, group, member) for group in range(10) for member in range(2)]
    rows[3]["text"] = HOSTILE
    lines = "".join(json.dumps(each) + "\n" for each in rows)
    (folder / "rl.jsonl").write_text(lines + '{"step": 9, "gro')  # a kill came in mid-line
    return tmp_path / "run"


def test_attempts_are_filtered_and_a_line_cut_short_is_left_out(run: Path) -> None:
    assert len(list(read_attempts(run, Filter()))) == 20
    assert len(list(read_attempts(run, Filter(status="correct", first=1, last=2)))) == 4
    one = list(read_attempts(run, Filter(task="sums:0")))
    assert [each["step"] for each in one] == sorted(each["step"] for each in one)
    assert {each["task"] for each in one} == {"sums:0"}


def test_too_many_attempts_are_sampled_by_whole_groups_and_the_page_says_so(
    run: Path,
) -> None:
    rows = list(read_attempts(run, Filter()))
    chosen = selected(rows, limit=6)
    assert chosen.found == 20 and chosen.one_in == 4
    groups = [each["group"] for each in chosen.rows]
    assert all(groups.count(group) == 2 for group in groups)


def test_no_text_of_a_model_leaves_its_place_in_the_page(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    assert write_page(run, Filter(), target) == 20
    page = target.read_text()
    assert page.count("<script") == page.count("</script>") == 2
    assert "onerror" in page and "<img" not in page
    assert "default-src 'none'" in page and "unsafe-eval" not in page


def test_the_command_writes_the_page_or_prints_json(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollouts", str(run)]) == 0
    assert (run / "rollouts.html").exists()
    capsys.readouterr()
    assert main(["rollouts", str(run), "--json", "--status", "wrong"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 10 and {each["status"] for each in rows} == {"wrong"}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Filter(stage="other"), "'other': there are rl"),
        (Filter(status="wrongg"), "'wrongg': it must be one of correct, wrong"),
    ],
)
def test_an_unknown_stage_or_status_is_named(
    run: Path, wanted: Filter, message: str
) -> None:
    with pytest.raises(OpenQwQError, match=message):
        list(read_attempts(run, wanted))


def test_a_directory_without_rollouts_and_a_damaged_line_are_named(
    run: Path, tmp_path: Path
) -> None:
    with pytest.raises(OpenQwQError, match="has no rollouts yet"):
        list(read_attempts(tmp_path / "nothing", Filter()))
    with (run / "rollouts" / "rl.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(OpenQwQError, match=r"rl\.jsonl:21 is damaged"):
        list(read_attempts(run, Filter()))
