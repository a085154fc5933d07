"""Benchmark items are found in training data, and what all items share is no evidence."""

import gzip
import json
from pathlib import Path

import pytest

from openqwq.config import load_config
from openqwq.data.hub import DataLock
from openqwq.evaluation.benchmarks.data import Library
from openqwq.evaluation.benchmarks.mathematics import MATHEMATICS
from openqwq.evaluation.contamination import (
    REFUSED,
    BenchmarkIndex,
    file_texts,
    require_clean,
    search_texts,
)
from openqwq.tasks.tables import open_tables, training_texts
from openqwq.types import OpenQwQError, Task

ENDING = "Please reason step by step, and put your final answer within the box at the end."
QUESTION = (
    "A farmer keeps seventeen goats and twenty-nine hens behind the old red barn and sells four of"
    " each on Monday; how many legs remain on the farm?"
)
OTHERS = [
    f"Someone buys {n} lamps, {n} doors and {n} chairs for his cousin in town."
    for n in "789"
]


def index(*questions: str) -> BenchmarkIndex:
    return BenchmarkIndex(
        [
            Task(
                f"toy/{i}",
                "toy",
                ({"role": "user", "content": f"{text} {ENDING}"},),
                "math",
            )
            for i, text in enumerate(questions)
        ]
    )


def test_a_copied_item_is_found_whatever_its_case_marks_and_surroundings() -> None:
    copy = f"Q: {QUESTION.upper().replace(',', ' -')} A: It is 76."
    (found,) = search_texts(index(QUESTION, *OTHERS), ["nothing here", copy])
    assert (found.row, found.item, found.share) == (2, "toy/0", 1.0)
    with pytest.raises(OpenQwQError, match=r"train\.jsonl: 1 rows hold .*row 2 toy/0"):
        require_clean([found], "train.jsonl")


def test_half_a_question_is_reported_and_passes() -> None:
    (found,) = search_texts(index(QUESTION, *OTHERS), [QUESTION[:100]])
    assert 0.1 < found.share < 0.9
    require_clean([found], "train.jsonl")


def test_what_every_question_ends_with_is_no_overlap() -> None:
    assert search_texts(index(QUESTION, *OTHERS), [f"Another problem. {ENDING}"]) == []


def test_twelve_shared_words_are_not_enough() -> None:
    twelve = " ".join(QUESTION.split()[:11])  # twenty-nine is two
    assert search_texts(index(QUESTION, *OTHERS), [twelve]) == []


def test_short_questions_must_appear_whole_and_shorter_ones_are_no_evidence() -> None:
    short = index("How many primes lie below one hundred?", "What is 2 + 2?", *OTHERS)
    assert (
        search_texts(short, ["how many primes lie below one thousand", "what is 2 + 2?"])
        == []
    )
    (found,) = search_texts(short, ["tell me how many primes lie below one hundred"])
    assert found.item == "toy/0"


def test_every_string_of_a_row_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    row = {
        "messages": [{"role": "user", "content": "one"}],
        "meta": {"note": "two", "n": 3},
    }
    path.write_bytes(gzip.compress(json.dumps(row).encode()))
    assert list(file_texts(path)) == ["user one two"]
    path.write_bytes(b"not gzip")
    with pytest.raises(OpenQwQError, match=r"rows\.jsonl\.gz cannot be read"):
        list(file_texts(path))


def test_a_config_is_searched_problem_by_problem_of_every_source(tmp_path: Path) -> None:
    config = tmp_path / "own.toml"
    words = "options = { min_words = 4, max_words = 4 }"
    config.write_text(
        '[data.sums]\nsource = "addition"\noptions = { min_digits = 1, max_digits = 1 }\n'
        f'[data.words]\nsource = "instructions"\n{words}\n'
    )
    tables = open_tables(load_config([config]), DataLock())
    texts = list(training_texts(tables.values(), 20, "seed"))
    assert len(texts) == 40
    (found, *_) = search_texts(index(texts[25], *OTHERS), texts)
    assert (found.row, found.share) == (26, 1.0)


def test_five_old_aime_problems_are_in_math_500(shared_data: Path) -> None:
    """MATH took problems from AIME and reworded a few: exact comparison misses these."""
    library = Library(shared_data)
    tasks = [t for b in MATHEMATICS if b.name != "aime25" for t in b.load(library)]
    index = BenchmarkIndex(tasks)
    old = file_texts(shared_data / "math-rl-train" / "aime-1983-2023.jsonl.gz")
    found = {o.row: o.item for o in search_texts(index, old) if o.share >= REFUSED}
    assert found == {
        2: "math500/489",
        303: "math500/292",
        561: "math500/412",
        726: "math500/285",
        787: "math500/80",
    }
    # the other six have fewer words than are evidence
    own = search_texts(index, file_texts(shared_data / "math500" / "test.jsonl.gz"))
    with pytest.raises(OpenQwQError, match="494 rows hold benchmark items"):
        require_clean(own, "MATH-500")
