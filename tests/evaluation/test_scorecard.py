"""The evaluation report: what a model says stays text, and every figure is on the page."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from openqwq.evaluation.benchmarks.benchmark import Benchmark
from openqwq.evaluation.evaluation import Selection, score_run
from openqwq.evaluation.results import Record, RecordFile
from openqwq.evaluation.scorecard import write_scorecard
from openqwq.types import OpenQwQError

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>"
STATUSES = ("correct", "wrong", "truncated", "error")
RUN = {
    "version": "0",
    "model": "runs/mine",
    "preset": "qwq",
    "params": {"temperature": 0.6, "top_p": 0.95, "top_k": 40, "max_tokens": 9}
    | {"thinking_budget": None},
    "seed": 0,
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    tmp_path = tmp_path_factory.mktemp("run")
    records = [
        Record(
            f"aime24/{i}", "aime24", 0, 1, [{"role": "user", "content": f"Question {i} {HOSTILE}"}],
            HOSTILE, f"\x1b[31m {HOSTILE}", "stop", 5, 10 * i, 10 * i + 5, float(i % 4 == 0),
            STATUSES[i % 4], HOSTILE, generated=True,
        )
        for i in range(40)
    ]  # fmt: skip
    RecordFile(tmp_path / "aime24.jsonl").replace(records)
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    score_run(
        tmp_path, [Selection(Benchmark("aime24", "AIME 2024", 64, lambda _: []), "", [])]
    )
    write_scorecard(tmp_path, {"aime24": "AIME 2024"})
    assert (tmp_path / "charts" / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "charts").iterdir())) == 3
    return (tmp_path / "report.html").read_text()


def test_nothing_that_a_model_says_becomes_markup(page: str) -> None:
    tags: list[tuple[str, list[str]]] = []

    class Reader(HTMLParser):
        def handle_starttag(
            self, tag: str, attributes: list[tuple[str, str | None]]
        ) -> None:
            tags.append((tag, [name for name, _ in attributes]))

    Reader().feed(page)
    assert not [tag for tag, _ in tags if tag in ("script", "img", "iframe", "link")]
    assert not [names for _, names in tags if any(name.startswith("on") for name in names)]
    assert page.count("&lt;script&gt;") >= 160
    assert "\x1b" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "default-src 'none'" in page


def test_scores_peers_caveats_and_verdicts_are_on_the_page(page: str) -> None:
    for text in ("25.0", "79.5", "63.6", "English press copies only", "correct"):
        assert text in page
    for status in STATUSES:
        assert page.count(f'<details class="{status}">') == 10
        assert f"#aime24-{status}:checked ~ .items details:not(.{status})" in page


def test_a_directory_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(OpenQwQError, match=r"run\.json cannot be read"):
        write_scorecard(tmp_path, {})
