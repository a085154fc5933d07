"""The tables of a config: rows, generators and a user's own sources, tried before a run."""

import json
from pathlib import Path

import pytest

from openqwq.config import load_config
from openqwq.data.hub import DataLock
from openqwq.tasks.table import DataTable
from openqwq.tasks.tables import open_tables, training_texts
from openqwq.types import OpenQwQError

EXAMPLES = Path(__file__).parents[2] / "examples" / "environments"
STAGE = '[[stages]]\nname = "one"\nkind = "sft"\nsteps = 1\ndata = { %s = 1 }\n'


def opened(tmp_path: Path, text: str) -> dict[str, DataTable]:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return open_tables(load_config([path]), DataLock())


def write_rows(path: Path, count: int) -> None:
    rows = [
        {"question": f"{n} + 1?", "answer": n + 1, "solution": "Count."}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_rows_and_generators_stand_side_by_side_under_their_own_names(
    tmp_path: Path,
) -> None:
    write_rows(tmp_path / "own.jsonl", 20)
    tables = opened(
        tmp_path,
        '[data.own]\nrows = "own.jsonl"\nheld_out = 0.3\n'
        '[data.sums]\nsource = "addition"\noptions = { min_digits = 1, max_digits = 2 }\n'
        'system = "Be brief."\n' + STAGE % "own",
    )
    assert tables["own"].size is not None and tables["sums"].size is None
    task = tables["sums"].draw(0, "seed")
    assert task.kind == "sums" and task.id.startswith("sums:")
    assert task.messages[0] == {"role": "system", "content": "Be brief."}
    assert not {t.id for t in tables["own"].held_out(99, 0)} & {
        tables["own"].draw(number, "seed").id for number in range(20)
    }


def test_a_table_in_no_stage_is_there_to_be_evaluated(tmp_path: Path) -> None:
    write_rows(tmp_path / "own.jsonl", 5)
    config = '[data.own]\nrows = "own.jsonl"\n'
    assert len(opened(tmp_path, config)["own"].held_out(99, 0)) == 5
    staged = opened(tmp_path, config + STAGE % "own")["own"]
    assert (staged.size, staged.held_out(99, 0)) == (5, [])


def test_the_calculators_problems_can_be_asked_without_it(tmp_path: Path) -> None:
    options = 'source = "calculator"\noptions = { min_digits = 4, max_digits = 5 }\n'
    tables = opened(
        tmp_path, f'[data.with]\n{options}[data.without]\n{options}environment = "none"\n'
    )
    with_tool, without = (tables[name].draw(0, "seed") for name in ("with", "without"))
    assert (with_tool.environment, with_tool.verifier) == ("calculator", "math")
    assert with_tool.tools and not without.tools
    assert without.environment == "" and without.messages == with_tool.messages


def test_a_source_and_an_environment_of_ones_own_are_named_by_file(tmp_path: Path) -> None:
    tables = opened(
        tmp_path,
        f'[data.way-out]\nsource = "{EXAMPLES}/maze.py:maze"\n'
        "options = { min_rooms = 2, max_rooms = 3 }\n"
        f'environment = "{EXAMPLES}/maze.py:MazeEnvironment"\n',
    )
    task = tables["way-out"].draw(0, "seed")
    assert task.environment.endswith("maze.py:MazeEnvironment")
    assert task.reference is not None and task.solution


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(): return 5", r"returned 5: return an openqwq\.tasks\.source\.Source"),
        ("def f(): raise KeyError('x')", r"refuses the options .*KeyError: 'x'"),
        (
            "from openqwq.tasks.source import Source\n"
            "def draw(rng): return 1 / 0\n"
            "def f(): return Source('own', 'math', draw)",
            r"cannot be drawn from: ZeroDivisionError",
        ),
        ("def g(): pass", "has no 'f'"),
    ],
)
def test_a_source_of_ones_own_that_fails_is_named_before_the_run(
    tmp_path: Path, source: str, said: str
) -> None:
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(OpenQwQError, match=said):
        opened(tmp_path, '[data.own]\nsource = "mine.py:f"\n')


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('source = "additoin"', r"unknown source 'additoin': did you mean 'addition'\?"),
        ('source = "addition"\noptions = { digits = 2 }', "refuses the options .*digits"),
        ('source = "addition"\nheld_out = 0.5', r"data\.own\.held_out is for rows"),
    ],
)
def test_what_a_generator_cannot_do_is_named(
    tmp_path: Path, settings: str, said: str
) -> None:
    with pytest.raises(OpenQwQError, match=said):
        opened(tmp_path, f"[data.own]\n{settings}\n")


def test_training_texts_hold_prompts_solutions_and_replies_but_nothing_held_out(
    tmp_path: Path,
) -> None:
    write_rows(tmp_path / "own.jsonl", 30)
    tables = opened(
        tmp_path, '[data.own]\nrows = "own.jsonl"\nheld_out = 0.3\n' + STAGE % "own"
    )
    texts = list(training_texts(tables.values(), 100, "seed"))
    held_out = {task.messages[-1]["content"] for task in tables["own"].held_out(99, 0)}
    assert len(texts) == tables["own"].size
    assert all("Count." in text for text in texts)
    assert not any(text.startswith(question) for text in texts for question in held_out)
