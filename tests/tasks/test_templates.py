"""Templates: columns in, everything else as written."""

import pytest

from openqwq.tasks.templates import RowError, Template, from_json
from openqwq.types import OpenQwQError

ROW = {
    "question": "2 + 3?",
    "n": 5,
    "deep": {"list": [{"a": "x"}], "b.c": 1},
    "packed": '{"ground_truth": "5"}',
    "tests": [{"input": "1"}],
    "Problem Statement": "why",
    "a.b": "exact",
    "null": None,
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{question}", "2 + 3?"),
        ("Q: {question}\n{n}", "Q: 2 + 3?\n5"),
        ("in \\boxed{}.", "in \\boxed{}."),
        ("\\boxed{{{n}}}", "\\boxed{5}"),
        ("{{n}} is {n}", "{n} is 5"),
        ("{deep.list.0.a}", "x"),
        ("{packed.ground_truth}", "5"),
        ("{a.b}", "exact"),
        ("{Problem Statement}", "why"),
        ("tests: {tests}", 'tests: [{"input": "1"}]'),
        ("", ""),
    ],
)
def test_columns_are_put_in_and_the_rest_stays_as_written(template: str, text: str) -> None:
    assert Template(template, "data.x.prompt").fill(ROW) == text


def test_a_text_of_thousands_of_brackets_is_a_text() -> None:
    text = "[" * 100_000
    assert from_json(text) == text


def test_a_lone_column_passes_its_value_on_as_it_is() -> None:
    assert Template("{tests}", "data.x.tests").fill(ROW) is ROW["tests"]


@pytest.mark.parametrize("text", ["{question", "x } y", "\\frac{1}{", "{{}"])
def test_a_brace_without_its_partner_is_an_error_that_says_where(text: str) -> None:
    with pytest.raises(OpenQwQError, match=r"data\.x\.prompt has a single '[{}]' after"):
        Template(text, "data.x.prompt")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{qestion}", r"no column 'qestion': did you mean \{question\}\?"),
        ("\\boxed{answer}", r"no column 'answer': .*write \{\{ and \}\}"),
        ("{deep.list.7}", r"no column 'deep\.list\.7'"),
        ("{null}", "the column 'null' is null"),
    ],
)
def test_a_column_that_a_row_lacks_is_named_with_the_nearest(
    template: str, said: str
) -> None:
    with pytest.raises(RowError, match=rf"data\.x\.prompt: .*{said}"):
        Template(template, "data.x.prompt").fill(ROW)
