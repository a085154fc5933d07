"""The report of a run: its numbers, its honesty about gaps, and its safety against hostile text."""

import json
import math
import random
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from openqwq.config import (
    Config,
    DataConfig,
    EvaluationConfig,
    RlStage,
    SftStage,
    dump_config,
)
from openqwq.evaluation.comparison import summary_table
from openqwq.evaluation.plots import KIND_ROLES, LIGHT, IntervalRow, Plotter, moving_average
from openqwq.evaluation.report import print_summary, write_report
from openqwq.evaluation.rl_charts import rl_charts
from openqwq.evaluation.run_data import read_run
from openqwq.evaluation.words import LANGUAGES, Words, read_words
from openqwq.types import OpenQwQError

FAMILIES = {"arithmetic": ("addition", "subtraction"), "code": ("linear",)}
KINDS = ("addition", "subtraction", "linear", "riddle")  # riddle belongs to no family
HOSTILE = (
    "1+1=2 </pre><script>alert(1)</script> & \0 \ud800\n</think>\n\n"
    "<img src=x onerror=alert(2)>"
)
CHARTS = {
    "accuracy", "held_out_thinking", "sft_loss", "sft_rate", "seconds",
    "stage1_reward", "stage1_reward_by_kind", "stage1_thinking", "stage1_thinking_by_kind",
    "stage1_verdicts", "stage1_groups", "stage1_entropy", "stage1_log_prob_gap",
    "stage1_grad_norm", "stage1_learning_rate",
}  # fmt: skip
VOID_TAGS = {"meta", "br"}


def outcome(kind: str, problem: int, right: bool, **changes: Any) -> dict[str, Any]:
    return {
        "task_id": f"{kind}:{problem}",
        "kind": kind,
        "question": f"Question {problem} of {kind}",
        "completion": f"thought {problem}\n</think>\n\nanswer {problem}",
        "value": float(right),
        "status": "correct" if right else "wrong",
        "thinking_tokens": 20 if right else 10,
    } | changes


def rl_record(step: int, rng: random.Random, **changes: Any) -> dict[str, Any]:
    return {
        "stage": "stage1",
        "step": step,
        "reward": rng.random(),
        "reward_by_kind": {kind: rng.random() for kind in KINDS},
        "thinking_tokens": 10 + step,
        "thinking_by_kind": dict.fromkeys(KINDS, 10 + step),
        "completion_tokens": 30.0,
        "status": {"correct": 10 + step, "wrong": 22 - step},
        "errors": 1,
        "groups": 5,
        "groups_trained": 3,
        "refills": 1,
        "sample": {
            "task": "addition:1",
            "question": "",
            "completion": "",
            "status": "wrong",
        },
        "loss": 0.1,
        "grad_norm": 0.5,
        "lr": 3e-4,
        "tokens": 900.0,
        "entropy": 0.3,
        "log_prob_gap": 1e-7,
        "mismatch_kl": 1e-13,
        "max_ratio": 1.0,
        "clip_fraction": 0.0,
        "seconds": {"rollout": 2.0, "learn": 1.5},
    } | changes


def sft_record(step: int) -> dict[str, Any]:
    return {"stage": "sft", "step": step, "lr": 0.01, "cross_entropy": 3 / (step + 1)}


def timing(name: str, seconds: float) -> dict[str, Any]:
    return {"stage": "timing", "step": 0, "name": name, "seconds": seconds}


def write_run(
    directory: Path,
    log: Sequence[dict[str, Any]] = (),
    before: Sequence[dict[str, Any]] | None = None,
    after: Sequence[dict[str, Any]] | None = None,
) -> Path:
    shares = dict.fromkeys(KINDS, 1.0)
    config = Config(
        data={kind: DataConfig(source=kind) for kind in KINDS},
        stages=(SftStage("sft", shares, steps=30), RlStage("stage1", shares, steps=10)),
        evaluation=EvaluationConfig(limit=8, samples=2),
    )
    directory.mkdir(exist_ok=True)
    (directory / "config.toml").write_text(dump_config(config))
    (directory / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    (directory / "evaluation").mkdir(exist_ok=True)
    for name, outcomes in (("sft", before), ("stage1", after)):
        if outcomes is not None:
            record = {"checkpoint": name, "outcomes": list(outcomes)}
            (directory / "evaluation" / f"{name}.json").write_text(json.dumps(record))
    return directory


def full_log() -> list[dict[str, Any]]:
    rng = random.Random(0)
    log = [sft_record(step) for step in range(30)] + [timing("cold start", 61.0)]
    log += [rl_record(step, rng) for step in range(10)]
    return [*log, timing("stage 1", 20.0), timing("stage 1", 30.0)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose addition:0 is said by a hostile model, with its report."""
    before = [
        outcome(kind, i, i % 4 == 3) for kind in KINDS for i in range(8) for _ in range(2)
    ]
    after = [
        outcome(kind, i, i % 4 != 0) for kind in KINDS for i in range(8) for _ in range(2)
    ]
    after[0] |= {"completion": HOSTILE, "question": HOSTILE}
    before[0] |= {"question": HOSTILE}
    run = write_run(tmp_path_factory.mktemp("run"), full_log(), before, after)
    assert write_report(run, FAMILIES) == run / "report.html"
    return run


class Tags(HTMLParser):
    """Every tag with its attributes; open ones on a stack, so that a stray one shows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_asks_for_nothing_outside_itself(finished: Path) -> None:
    tags = Tags((finished / "report.html").read_text()).seen
    links = [
        v for _, attributes in tags for k, v in attributes.items() if k in ("src", "href")
    ]
    assert {link for link in links if link and not link.startswith("#")} == {
        "report.zh.html"
    }
    assert not {"link", "script", "img", "iframe"} & {tag for tag, _ in tags}
    policy = next(a["content"] for _, a in tags if a.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_what_a_model_says_stays_text(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    tags = Tags(page)
    assert tags.open == []  # a </pre> or </span> of the model's would have left one
    assert not any(
        name.startswith("on") for _, attributes in tags.seen for name in attributes
    )
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt; &amp; ␀ ?") == 2
    assert "&lt;img src=x onerror=alert(2)&gt;" in page
    assert "\0" not in page


def test_every_chart_is_a_png_and_inline(finished: Path) -> None:
    files = sorted((finished / "plots").iterdir())
    assert {file.stem for file in files} == CHARTS
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    assert (finished / "report.html").read_text().count("<svg") == len(CHARTS)


def test_every_colour_follows_the_theme(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    charts = page[page.index("<body>") :]
    assert not re.findall(r"(?:fill|stroke|color): ?#[0-9a-f]+", charts)
    assert "prefers-color-scheme: dark" in page


def test_equal_runs_give_equal_reports(finished: Path) -> None:
    page = (finished / "report.html").read_bytes()
    write_report(finished, FAMILIES)
    assert (finished / "report.html").read_bytes() == page


def test_a_finished_run_says_how_far_each_stage_went(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "Unfinished" not in page
    assert "30 of 30 steps" in page and "10 of 10 steps" in page
    assert page.index("<h2>sft</h2>") < page.index("<h2>stage1</h2>")
    assert "10 refill rounds in 10 steps." in page


def test_time_of_a_resumed_run_is_summed(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    for name, time in {
        "cold start": "1 min 01 s",
        "stage 1": "50.0 s",
        "total": "1 min 51 s",
        "in RL steps: learn": "15.0 s",
    }.items():
        assert f"<td>{name}</td><td>{time}</td>" in page


def test_rows_are_families_with_their_kinds_then_the_rest(finished: Path) -> None:
    rows = summary_table(read_run(finished), FAMILIES)
    assert [(row.name, row.is_family) for row in rows] == [
        ("arithmetic", True), ("addition", False), ("subtraction", False),
        ("code", True), ("riddle", True),
    ]  # fmt: skip


def test_gains_are_paired_by_problem(tmp_path: Path) -> None:
    before = [outcome("linear", i, i == 0) for i in range(4)]
    after = [outcome("linear", i, i != 3) for i in range(4)]
    (row,) = summary_table(read_run(write_run(tmp_path, [], before, after)), FAMILIES)
    left, right = row.sides
    assert left and right
    assert (left.pass_at_1, right.pass_at_1, row.gains[0][0]) == (0.25, 0.75, 50.0)
    # Gains of 0, 100, 100 and 0 points: standard deviation 57.735 over 4 problems.
    assert math.isclose(row.gains[0][1], 1.96 * 57.735 / 2, rel_tol=1e-4)


def test_gains_are_of_verdicts_and_not_of_rewards(tmp_path: Path) -> None:
    before = [outcome("linear", i, False, value=-1.0) for i in range(4)]
    after = [outcome("linear", i, i < 2, value=5.0) for i in range(4)]
    (row,) = summary_table(read_run(write_run(tmp_path, [], before, after)), FAMILIES)
    assert row.gains[0][0] == 50.0


def test_the_first_sentence_says_what_was_trained_and_what_it_gained(
    finished: Path,
) -> None:
    page = (finished / "report.html").read_text()
    (lead,) = re.findall(r'<p class="lead">([^<]*)</p>', page)
    assert lead == (
        "A model made from nothing was trained by supervised fine-tuning and reinforcement"
        " learning on addition, subtraction, linear and riddle; on 32 problems that it never saw,"
        " the share of right answers rose from 25.0% after sft to 75.0% (+50.0 ± 17.6 points)."
    )


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (
            [1, 1, 1, 1],
            [0, 0, 0, 0],
            "fell from 100.0% after sft to 0.0% (−100.0 ± 0.0 points)",
        ),
        ([1, 0, 1, 0], [0, 1, 1, 0], "did not change measurably from 50.0%"),
        ([1, 0], None, "it has not been compared with its beginning yet."),
    ],
)
def test_the_first_sentence_claims_no_more_than_the_interval_allows(
    tmp_path: Path, before: list[int], after: list[int] | None, words: str
) -> None:
    def side(values: list[int] | None) -> list[dict[str, Any]] | None:
        return values and [outcome("linear", i, bool(v)) for i, v in enumerate(values)]

    run = write_run(tmp_path, [], side(before), side(after))
    assert words in write_report(run, FAMILIES).read_text()


def test_points_tell_their_value_without_a_script(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert page.count("<title>cross_entropy, step 29: 0.1 nats/token</title>") == 1
    assert (
        len(re.findall(r"<title>reward, step \d: 0\.\d+ mean reward</title>", page)) == 10
    )


def test_every_term_is_explained_where_it_stands(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "<b>pass@1</b> is the share of single answers that are right" in page
    for kind in ("sft", "rl"):
        assert read_words("en")["stages_explained"][kind] in page
    titles = set(re.findall(r'<div role="img" aria-label="([^"]*)"', page))
    assert titles <= set(read_words("en")["charts_explained"])


@pytest.mark.parametrize("name", ["report.html", "report.zh.html"])
def test_the_contents_name_every_section(finished: Path, name: str) -> None:
    page = (finished / name).read_text()
    links = re.findall(r'<a href="#([^"]+)"', page)
    assert links == re.findall(r'<section id="([^"]+)"', page)


def placeholders(words: Words) -> dict[str, set[str]]:
    """Of each text, by its path, the names of the values that it takes."""
    found: dict[str, set[str]] = {}
    for key, text in words.texts.items():
        if key in ("drawn", "notes"):
            continue
        texts = text if isinstance(text, dict) else {"": text}
        for inner, each in texts.items():
            found[f"{key}/{inner}"] = set(re.findall(r"{(\w+)", each))
    return found


def test_both_languages_say_the_same_with_the_same_values() -> None:
    english, *others = map(read_words, LANGUAGES)
    for other in others:
        assert placeholders(other) == placeholders(english)


def test_the_report_is_there_in_chinese_and_each_page_leads_to_the_other(
    finished: Path,
) -> None:
    assert write_report(finished, FAMILIES, "zh") == finished / "report.zh.html"
    page = (finished / "report.zh.html").read_text()
    assert '<html lang="zh">' in page
    assert '<a href="report.html" lang="en" hreflang="en">English</a>' in page
    assert '<a href="report.zh.html" lang="zh" hreflang="zh">中文</a>' in (
        finished / "report.html"
    ).read_text(encoding="utf-8")
    (lead,) = re.findall(r'<p class="lead">([^<]*)</p>', page)
    assert lead == (
        "一个从零开始的模型 在 addition、subtraction、linear、riddle 上"
        "经监督微调、强化学习训练而成；在 32 道它从未见过的题目上，"
        "答对的比例从阶段 sft 后的 25.0% 升至 75.0%（+50.0 ± 17.6 个百分点）。"
    )
    assert "1 分 51 秒" in page and "10 步中补采 10 轮。" in page
    assert "<title>交叉熵, 步 29: 0.1 奈特/词元</title>" in page


class Texts(HTMLParser):
    """What a reader sees of a page, but for what models said and the config."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._within: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID_TAGS:
            self._within.append(tag)
        self.texts += [value or "" for name, value in attrs if name == "aria-label"]

    def handle_endtag(self, tag: str) -> None:
        self._within.pop()

    def handle_data(self, data: str) -> None:
        if not {"pre", "style"} & set(self._within):
            self.texts.append(data.strip())


def test_the_chinese_page_has_no_english_sentence_or_label_left(finished: Path) -> None:
    write_report(finished, FAMILIES)
    names = {*KINDS, *FAMILIES, "sft", "rl", "stage1", "adamw", "muon"}
    timed = {"cold", "start", "stage"}  # as the log names them
    terms = {"OpenQwQ", "pass", "KL", "SHA", "config", "toml", "English", finished.name}
    left: set[str] = set()
    for text in Texts((finished / "report.zh.html").read_text(encoding="utf-8")).texts:
        words = re.findall(r"\b[A-Za-z][A-Za-z0-9]+\b", text, re.ASCII)
        # the digest
        left |= {word for word in words if not re.fullmatch("[0-9a-f]{12}", word)}
    assert left <= names | timed | terms


def test_errors_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    before = [outcome("linear", i, right=True) for i in range(3)]
    after = [*before[:2], before[2] | {"value": 0.0, "status": "error"}]
    (row,) = summary_table(read_run(write_run(tmp_path, [], before, after)), FAMILIES)
    assert row.sides[1] and row.sides[1].errors == 1
    assert row.gains[0][0] == 0.0


def test_the_terminal_table_shows_both_checkpoints(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary(finished, FAMILIES)
    lines = capsys.readouterr().out.splitlines()
    cells = " ".join(lines[1].split())
    assert cells == "arithmetic 25.0 ± 21.9 75.0 ± 21.9 +50.0 12 → 18"
    assert all(len(line) <= 80 for line in lines)


def test_samples_are_what_rl_put_right_by_gain_then_what_is_wrong(tmp_path: Path) -> None:
    def side(right: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        """Two samples of each problem, right or wrong."""
        return [outcome("linear", i, bool(r)) for i, pair in enumerate(right) for r in pair]

    before = side([(1, 1), (0, 1), (0, 0), (0, 0), (0, 0), (0, 1)])
    after = side([(1, 1), (1, 1), (0, 1), (1, 1), (1, 0), (1, 0)])
    page = write_report(write_run(tmp_path, [], before, after), FAMILIES).read_text()
    top, _, page = page.partition('id="before-and-after"')
    # 5 gained nothing
    assert re.findall(r"Question (\d) of linear", page) == ["3", "1", "4", "2"]
    assert (
        page.count("0 of 2 samples right") == 3 and page.count("2 of 2 samples right") == 2
    )
    # one of them before all else
    assert re.findall(r"Question (\d) of linear", top) == ["3"]
    assert re.search(r'class="thinking">thought 3</span>\s+answer 3</pre>', page)


@pytest.mark.parametrize("done", ["cold start", "evaluated", "stage 1"])
def test_an_unfinished_run_says_so(tmp_path: Path, done: str) -> None:
    log = full_log()
    log = {"cold start": log[:5], "evaluated": log[:31], "stage 1": log[:32]}[done]
    before = None if done == "cold start" else [outcome("linear", 0, right=False)]
    page = write_report(write_run(tmp_path, log, before), FAMILIES).read_text()
    assert "Unfinished run." in page
    assert f"{min(len(log), 30)} of 30 steps" in page
    assert f"{1 if done == 'stage 1' else 0} of 10 steps" in page
    assert ("Before and after" in page) == (before is not None)
    assert ("not evaluated" in page) == (before is not None)
    assert not (tmp_path / "plots" / "verdicts.png").exists()  # an area needs two steps


def test_steps_without_judged_completions_leave_gaps_not_zeros(tmp_path: Path) -> None:
    rng = random.Random(0)
    nothing: dict[str, Any] = {"reward": 0.0, "reward_by_kind": {}, "status": {}}
    log = [
        rl_record(0, rng, **nothing, thinking_tokens=0.0, thinking_by_kind={}),
        rl_record(1, rng, entropy=math.nan, grad_norm=math.inf),
    ]
    for field in ("entropy", "grad_norm", "lr"):  # no group was trained on
        del log[0][field]
    run = write_run(tmp_path, log)
    page = write_report(run, FAMILIES).read_text()
    drawn = {file.stem for file in (run / "plots").iterdir()}
    evaluation, sft = {"accuracy", "held_out_thinking"}, {"sft_loss", "sft_rate"}
    assert drawn == CHARTS - evaluation - sft - {"stage1_entropy", "stage1_grad_norm"}
    plotter = Plotter(tmp_path)
    assert rl_charts(plotter, log, {})[0] == rl_charts(plotter, log[1:], {})[0]  # reward
    assert "nan" not in page.lower()


def test_a_log_line_that_a_kill_cut_is_left_out_and_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path, [sft_record(0)])
    with (run / "log.jsonl").open("a") as file:
        file.write('{"stage": "sft", "st')
    assert len(read_run(run).log_lines("sft")) == 1
    assert "1 log line cut short" in write_report(run, FAMILIES).read_text()


def test_parameters_are_counted_in_the_saved_checkpoint(tmp_path: Path) -> None:
    run = write_run(tmp_path, [sft_record(0)])
    (run / "sft").mkdir()
    header = json.dumps(
        {"__metadata__": {}, "a": {"shape": [100, 12]}, "b": {"shape": [34]}}
    )
    data = len(header).to_bytes(8, "little") + header.encode() + bytes(9)
    (run / "sft" / "model.safetensors").write_bytes(data)
    assert "1,234 parameters" in write_report(run, FAMILIES).read_text()
    (run / "sft" / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(OpenQwQError, match=r"model\.safetensors is damaged"):
        write_report(run, FAMILIES)


def test_bad_directories_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        OpenQwQError, match=r"is not a run directory \(it has no config.toml\)"
    ):
        write_report(tmp_path, FAMILIES)
    run = write_run(tmp_path / "run")
    with pytest.raises(OpenQwQError, match="has no data yet"):
        write_report(run, FAMILIES)
    for damaged in ("{", "{}", '{"outcomes": [{"kind": 1}]}'):
        (run / "evaluation" / "sft.json").write_text(damaged)
        with pytest.raises(OpenQwQError, match=r"evaluation .*sft\.json is unreadable"):
            write_report(run, FAMILIES)
    write_run(run, [sft_record(0)], [])
    (run / "plots").write_text("in the way")
    with pytest.raises(OpenQwQError, match="cannot write the report of"):
        write_report(run, FAMILIES)


def test_the_moving_average_skips_gaps() -> None:
    nan = math.nan
    assert moving_average([1.0, 3.0, nan, 5.0], 1) == [2.0, 2.0, 4.0, 5.0]
    assert math.isnan(moving_average([1.0, nan, nan, nan], 1)[2])


def test_values_without_a_logarithm_are_drawn_on_a_linear_axis(tmp_path: Path) -> None:
    records = [{"step": i, "gap": 0.0} for i in range(3)]
    (chart,) = Plotter(tmp_path).curves("x", "X", "nats", records, {"gap": "ink"}, log=True)
    assert ">0</text>" in chart.svg


def drawn_values(svg: str) -> list[float]:
    """The numbers that stand at the upright axis of a chart."""
    ticks = re.findall(r"<g id=\"ytick_.*?>([^<>]+)</text>", svg, re.DOTALL)
    return [float(tick.replace("−", "-")) for tick in ticks]


@pytest.mark.parametrize(
    ("rewards", "low", "high"),
    [((-3.0, -2.6), -3.0, -2.6), ((0.2, 8.0), 0.0, 8.0), ((0.2, 0.4), 0.0, 1.0)],
)
def test_rewards_of_any_size_are_within_their_chart(
    tmp_path: Path, rewards: Sequence[float], low: float, high: float
) -> None:
    rng = random.Random(0)
    by_kind = [dict.fromkeys(KINDS, reward) for reward in rewards]
    log = [
        rl_record(step, rng, reward=reward, reward_by_kind=by_kind[step])
        for step, reward in enumerate(rewards)
    ]
    for chart in rl_charts(Plotter(tmp_path), log, {KINDS[0]: "kind-0"})[:2]:
        ticks = drawn_values(chart.svg)
        assert min(ticks) == pytest.approx(low, abs=0.1)
        assert max(ticks) == pytest.approx(high, abs=0.1)


def test_rewards_without_verdicts_have_a_chart_of_verdicts(tmp_path: Path) -> None:
    rng = random.Random(0)
    log = [rl_record(step, rng, status={"scored": 32}, errors=0) for step in range(2)]
    titles = [chart.title for chart in rl_charts(Plotter(tmp_path), log, {})]
    assert "Verdicts" in titles


def test_accuracies_that_are_means_of_rewards_are_within_their_chart(
    tmp_path: Path,
) -> None:
    rows = [IntervalRow("a", "ink", True, [(-300.0, 5.0)])]
    rows.append(IntervalRow("b", "ink", True, [(250.0, 5.0)]))
    (chart,) = Plotter(tmp_path).intervals("x", "X", "pass@1, %", rows, ["a"], 100)
    ticks = re.findall(r"<g id=\"xtick_.*?>([^<>]+)</text>", chart.svg, re.DOTALL)
    numbers = [float(tick.replace("−", "-")) for tick in ticks]
    assert (min(numbers), max(numbers)) == (-300, 200)


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_rows_of_zeros_or_of_nothing_can_be_drawn(tmp_path: Path, value: float) -> None:
    row = IntervalRow("code", "ink", True, [(value, math.nan), (math.nan, math.nan)])
    assert len(Plotter(tmp_path).intervals("x", "X", "tokens", [row], ["a", "b"])) == 1


def test_more_kinds_than_colours_differ_by_their_dashes(tmp_path: Path) -> None:
    names = [f"kind {i}" for i in range(len(KIND_ROLES) + 1)]
    roles = {name: KIND_ROLES[i % len(KIND_ROLES)] for i, name in enumerate(names)}
    records = [{"step": i, **dict.fromkeys(names, 1.0)} for i in range(2)]
    (chart,) = Plotter(tmp_path).curves("x", "X", "unit", records, roles)
    lines = re.findall(
        r'style="(fill: none; [^"]*stroke: var\(--kind-0\)[^"]*)"', chart.svg
    )
    assert sum("stroke-dasharray" in line for line in lines) * 2 == len(lines)


def test_drawing_leaves_matplotlib_as_it_was(tmp_path: Path) -> None:
    with matplotlib.rc_context({"font.size": 31.0, "svg.fonttype": "path"}):
        before = matplotlib.rcParams.copy()
        Plotter(tmp_path).curves("x", "X", "", [{"step": 0, "y": 1.0}], {"y": "ink"})
        assert matplotlib.rcParams == before


def test_every_role_has_its_own_colour() -> None:
    assert len(set(LIGHT.values())) == len(LIGHT)  # they are told apart by it in the SVG
