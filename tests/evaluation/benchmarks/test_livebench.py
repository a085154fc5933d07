"""LiveBench: each task's rule on answers that deserve all, part, or nothing."""

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from openqwq.config import SandboxConfig
from openqwq.evaluation.benchmarks.data import Library
from openqwq.evaluation.benchmarks.livebench import (
    CATEGORIES,
    JUDGES,
    edit_distance,
    headline,
    load,
)
from openqwq.evaluation.benchmarks.tables import read_table, same_table
from openqwq.evaluation.results import Record
from openqwq.train.judges import open_judges
from openqwq.types import OpenQwQError, Task

CONNECTIONS = "a,b,c,d,e,f,g,h"
PLOT = "He wakes. He runs. He falls. He sleeps."


@pytest.mark.parametrize(
    ("task", "answer", "truth", "value"),
    [
        ("math_comp", "I pick C: CCCCC", "C", 1),
        ("math_comp", "I pick C: CCCCC", "D", 0),
        ("math_comp", "\\boxed{B}", "B", 1),
        ("math_comp", "Sum 100, so 042", "42", 1),
        ("math_comp", "1042", "42", 0),
        ("olympiad", "Answer: 3,1,2", "3,1,2", 1),
        ("olympiad", "**Answer:** 3,2,1", "3,1,2", 1 / 3),
        ("olympiad", "Answer: none", "3,1,2", 0),
        ("web_of_lies_v2", "So **yes, no, yes**", "yes, no, yes", 1),
        ("web_of_lies_v2", "So **yes, no, no**", "yes, no, yes", 0),
        ("house_traversal", "**Ann, Bob**", "Ann, Bob", 1),
        ("house_traversal", "**Bob, Ann**", "Ann, Bob", 0),
        ("spatial", "There are **three**", "3", 1),
        ("spatial", "**square** then **circle**", "square", 0),
        ("zebra_puzzle", "<solution>cat, red</solution>", "cat, red", 1),
        ("zebra_puzzle", "<solution>cat, blue</solution>", "cat, red", 0.25),
        ("zebra_puzzle", "***cat***", "cat", 1),
        ("zebra_puzzle", "no idea", "cat, red", 0),
        ("connections", "<solution>d, c, b, a, h, g, f, e</solution>", CONNECTIONS, 1),
        ("connections", "<solution>a, b, c, d</solution>", CONNECTIONS, 0.5),
        ("connections", "<solution>a, b, c, e, d, f, g, h</solution>", CONNECTIONS, 0),
        ("plot_unscrambling", f"<PLOT_SUMMARY>{PLOT}</PLOT_SUMMARY>", PLOT, 1),
        ("plot_unscrambling", "He wakes. He falls. He runs. He sleeps.", PLOT, 0.5),
        ("typos", "Here:\nthe  right words", "the right words", 1),
        ("typos", "<solution>wrong</solution> the right words", "the right words", 0),
        ("cta", "Artist-Name.", "artist name", 1),
        ("cta", "The type is \\boxed{city}", "city", 1),
        ("cta", "The type is city", "city", 0),
        ("tablejoin", "```python\n{'a': 'x', 'b': 'y'}\n```", "{'a': 'x', 'b': 'y'}", 1),
        ("tablejoin", "{'a': 'x', 'c': 'z'}", "{'a': 'x', 'b': 'y'}", 0.5),
        ("tablejoin", "__import__('os').abort()", "{'a': 'x'}", 0),
    ],
)
def test_a_rule_gives_what_an_answer_deserves(
    task: str, answer: str, truth: str, value: float
) -> None:
    assert JUDGES[task](answer, truth) == pytest.approx(value)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("csv", "n,name\n1,Ann\n2.5,Bob"),
        ("tsv", "name\tn\nAnn\t1.0\nBob\t2.5"),
        ("jsonl", '{"n": 1, "name": "Ann"}\n{"n": 2.5, "name": "Bob"}'),
        ("json", '{"0": {"n": 1, "name": "Ann"}, "1": {"n": 2.5, "name": "Bob"}}'),
        ("json", '[{"n": 1, "name": "Ann"}, {"n": 2.5, "name": "Bob"}]'),
        ("markdown", "| n | name |\n|:--|---|\n| 1 | Ann |\n| 2.5 | Bob |"),
        ("html", "<table><tr><th>n</th><th>name</th></tr><tr><td>1</td><td>Ann</td></tr>"
         "<tr><td>2.5</td><td>Bob</td></tr></table>"),
    ],
)  # fmt: skip
def test_a_table_is_the_same_in_every_form(form: str, text: str) -> None:
    wanted = [{"n": "1", "name": "Ann"}, {"n": "2.5", "name": "Bob"}]
    assert same_table(read_table(text, form), wanted)
    assert not same_table(read_table(text.replace("Bob", "Rob"), form), wanted)
    assert not same_table(wanted[:1], wanted)


def test_edit_distance_is_levenshteins() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3


def rows() -> dict[str, list[dict[str, Any]]]:
    dates = {"livebench_release_date": "2024-08-31", "livebench_removal_date": ""}

    def row(task: str, name: str, truth: str = "", **more: Any) -> dict[str, Any]:
        turns = [more.pop("question", "Do it.")]
        return (
            dates
            | {"task": task, "question_id": name, "turns": turns, "ground_truth": truth}
            | more
        )

    tests = {
        "public_test_cases": '[{"input": "1", "output": "2"}]',
        "private_test_cases": '[{"input": "5", "output": "6"}]',
    }
    return {
        "coding": [
            row("LCB_generation", "c1", **tests),
            row("coding_completion", "c2", partial_solution="n = int(input())", **tests),
        ],
        "data_analysis": [
            row("tablereformat", "d1", '{"a":1}', question="from CSV format to JSONL format."),
            row("tablereformat", "old", "", livebench_removal_date="2024-11-25"),
        ],
        "instruction_following": [
            row(
                "summarize", "i1",
                instruction_id_list=["punctuation:no_comma", "change_case:english_lowercase"],
                kwargs=[{"x": None}, {}],
            )
        ],
        "language": [row("typos", "l1", "fine")],
        "math": [row("AMPS_Hard", "m1", "x^2+1")],
        "reasoning": [row("spatial", "r1", "3", livebench_release_date="2024-11-25")],
    }  # fmt: skip


@pytest.fixture
def tasks(tmp_path: Path) -> dict[str, Task]:
    (tmp_path / "livebench").mkdir()
    for category, lines in rows().items():
        path = tmp_path / "livebench" / f"{category}.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)))
    assert {*rows()} == {*CATEGORIES}
    return {task.id.partition("/")[2]: task for task in load(Library(tmp_path))}


def test_withdrawn_questions_are_left_out(tasks: dict[str, Task]) -> None:
    assert sorted(tasks) == ["c1", "c2", "d1", "i1", "l1", "m1", "r1"]


async def test_every_category_has_its_judge(tasks: dict[str, Task]) -> None:
    answers = {
        "c1": ("```python\nprint(int(input()) + 1)\n```", 1.0),
        "c2": ("```python\nprint(n + 1)\n```", 1.0),
        "d1": ('```jsonl\n{"a": 1}\n```', 1.0),
        "i1": ("all small, with a comma", 0.25),
        "l1": ("all is fine", 1.0),
        "m1": ("\\boxed{1+x^2}", 1.0),
        "r1": ("**four**", 0.0),
    }
    async with AsyncExitStack() as stack:
        judges = await open_judges(
            stack, {t.verifier for t in tasks.values()}, SandboxConfig()
        )
        for name, (answer, value) in answers.items():
            found = await judges["livebench"].score(tasks[name], f"</think>{answer}")
            assert found.value == pytest.approx(value), (name, found)
            assert (found.status == "correct") == (value == 1)


async def test_a_rule_that_is_unknown_is_no_verdict(
    tasks: dict[str, Task], tmp_path: Path
) -> None:
    path = tmp_path / "livebench" / "language.jsonl"
    path.write_text(path.read_text().replace('"typos"', '"riddles"'))
    with pytest.raises(OpenQwQError, match="'riddles' of 2024-11-25 has no rule here"):
        load(Library(tmp_path))


def test_the_overall_is_the_mean_of_category_means() -> None:
    def records(kind: str, *values: float) -> list[Record]:
        return [Record(f"{kind}{i}", kind, 0, 0, [], value=v) for i, v in enumerate(values)]

    every = [
        *records("math/olympiad", 1, 1, 1),
        *records("math/AMPS_Hard", 0),
        *records("language/typos", 1),
    ]
    assert headline(every).value == pytest.approx(0.75)
