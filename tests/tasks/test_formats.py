"""Formats that need no settings: what each file in `tests/data/formats` means."""

import csv
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from openqwq.config import DataConfig
from openqwq.data.hub import DataLock
from openqwq.sandbox.local import LocalSandbox
from openqwq.tasks.formats import RowReader
from openqwq.tasks.rows import RowTable, open_rows
from openqwq.tasks.templates import RowError
from openqwq.types import CodeTests, Message, OpenQwQError, Task, TestCase, Verifier
from openqwq.verify.code import CodeVerifier
from openqwq.verify.instructions import InstructionVerifier
from openqwq.verify.math import MathVerifier

FORMATS = Path(__file__).parents[1] / "data" / "formats"
SYSTEM = Message(role="system", content="Be brief.")


def opened(form: str, **settings: Any) -> RowTable:
    config = DataConfig(rows=str(FORMATS / f"{form}.jsonl"), **settings)
    return open_rows("own", config, DataLock())


def tasks(form: str, **settings: Any) -> list[Task]:
    return [row.task for row in opened(form, **settings).rows]


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str, thinking: str = "") -> Message:
    message = Message(role="assistant", content=text)
    if thinking:
        message["reasoning_content"] = thinking
    return message


def test_thinking_is_the_same_wherever_a_conversation_keeps_it() -> None:
    for form in ("messages-reasoning", "messages-inline"):
        first, second = tasks(form)
        assert first.messages[-1] == user("2 + 3?")
        assert first.demonstration == (assistant("5", "2 and 3 make 5."),)
        assert second.demonstration[0] == assistant("8", "Twice 4.")
        assert first.verifier == ""
    assert tasks("messages-inline")[1].demonstration[1:] == (
        user("And 1 more?"),
        assistant("9"),
    )
    assert tasks("messages-reasoning")[0].messages[0] == SYSTEM


@pytest.mark.parametrize("form", ["messages-prompt-only", "prompt-chat"])
def test_a_prompt_may_be_a_chat(form: str) -> None:
    (task,) = tasks(form)
    assert task.messages == (SYSTEM, user("2 + 3?"))
    assert (task.answer, task.verifier, task.demonstration) == ("5", "math", ())


@pytest.mark.parametrize("form", ["prompt-text", "verl-math"])
def test_a_prompt_with_an_answer_is_judged_as_mathematics(form: str) -> None:
    found = tasks(form)
    assert [task.messages for task in found] == [(user("2 + 3?"),), (user("4 + 4?"),)]
    assert [task.answer for task in found] == ["5", "8"]
    assert {task.verifier for task in found} == {"math"}
    assert [task.id for task in found] == ["own:1", "own:2"]


def test_a_completion_is_there_to_be_imitated() -> None:
    (text,) = tasks("trl-completion-text")
    assert (text.messages, text.demonstration) == (
        (user("The sky is"),),
        (assistant(" blue."),),
    )
    (chat,) = tasks("trl-completion-chat")
    assert chat.demonstration == (assistant("It is blue."),)
    (alpaca,) = tasks("alpaca")
    assert alpaca.messages == (user("Add the numbers.\n\n2 and 3"),)
    assert alpaca.demonstration == (assistant("5"),)


@pytest.mark.parametrize(
    ("form", "prompt", "chosen", "rejected"),
    [
        ("trl-preference-text", "The sky is", " blue.", " green."),
        ("trl-preference-implicit-text", "The sky is", "blue.", "green."),
        ("trl-preference-chat", "What colour is the sky?", "It is blue.", "It is green."),
        (
            "trl-preference-implicit-chat",
            "What colour is the sky?",
            "It is blue.",
            "It is green.",
        ),
        (
            "preference-repeats-prompt",
            "What colour is the sky?",
            "It is blue.",
            "It is green.",
        ),
        ("openai-preference", "What colour is the sky?", "It is blue.", "It is green."),
    ],
)
def test_a_preference_is_a_pair_and_its_prompt_a_task(
    form: str, prompt: str, chosen: str, rejected: str
) -> None:
    table = opened(form)
    (pair,) = table.pairs
    assert pair.chosen == (user(prompt), assistant(chosen))
    assert pair.rejected == (user(prompt), assistant(rejected))
    (row,) = table.rows
    assert (row.task.messages, row.task.verifier) == ((user(prompt),), "")


def test_preferences_in_columns_of_any_name_are_read_by_templates(tmp_path: Path) -> None:
    row = {"ask": "What colour is the sky?", "picks": {"good": "Blue.", "bad": "Green."}}
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(row) + "\n")
    config = DataConfig(
        rows=str(path), prompt="{ask}", chosen="{picks.good}", rejected="{picks.bad}"
    )
    (pair,) = open_rows("own", config, DataLock()).pairs
    asked = user("What colour is the sky?")
    assert pair.chosen == (asked, assistant("Blue."))
    assert pair.rejected == (asked, assistant("Green."))


def test_a_dialogue_in_one_text_is_read_turn_by_turn() -> None:
    (pair,) = opened("preference-dialogue").pairs
    turns = [user("What colour is the sky?"), assistant("Which sky?"), user("Ours.")]
    assert pair.chosen == (*turns, assistant("Blue."))
    assert pair.rejected == (*turns, assistant("Green."))


def test_openais_tool_calls_become_objects_and_tools_are_kept() -> None:
    (task,) = tasks("openai-tools")
    call, result, last = task.demonstration
    assert call["content"] == ""
    assert call["tool_calls"] == [{"name": "add", "arguments": {"a": 2, "b": 3}}]
    assert result == Message(role="tool", content="5") and last == assistant("It is 5.")
    assert task.tools[0]["function"]["name"] == "add"

    (shared,) = tasks("sharegpt-tools")
    assert shared.demonstration == task.demonstration
    assert shared.tools == task.tools


def test_openais_weight_0_marks_a_turn_that_is_not_imitated() -> None:
    (task,) = tasks("openai-weight")
    wrong, _, right = task.demonstration
    assert wrong.get("weight") == 0
    assert "weight" not in right


def test_sharegpts_speakers_and_system_prompt_are_roles() -> None:
    (task,) = tasks("sharegpt")
    assert task.id == "own:s-1"
    assert task.messages == (SYSTEM, user("2 + 3?"))
    assert task.demonstration == (
        assistant("5", "2 and 3"),
        user("And 1 more?"),
        assistant("6"),
    )


def test_worked_solutions_give_the_answer_that_they_end_with() -> None:
    assert [task.answer for task in tasks("gsm8k")] == ["5", "2000"]
    (task,) = tasks("math")
    assert task.answer == "\\frac{1}{2}"
    assert (task.solution or "").startswith("</think>\n\nIt is")
    (aime,) = tasks("aime")
    assert (aime.id, aime.answer) == ("own:2099-I-1", "5")


def test_ifevals_rules_lose_the_nulls_of_other_rules() -> None:
    (task,) = tasks("ifeval")
    assert task.verifier == "instructions"
    assert [(rule.id, rule.arguments) for rule in task.rules] == [
        ("punctuation:no_comma", {}),
        ("length_constraints:number_words", {"relation": "at least", "num_words": 3}),
    ]


SUMS = (TestCase("2 3\n", "5\n"), TestCase("4 4\n", "8\n"))
CALLS = (TestCase([2, 3], 5), TestCase([4, 4], 8))


@pytest.mark.parametrize(
    ("form", "tests"),
    [
        ("tests-stdin", CodeTests("stdin", SUMS)),
        ("verl-code", CodeTests("stdin", SUMS)),
        ("code-contests", CodeTests("stdin", SUMS)),
        ("apps-stdin", CodeTests("stdin", SUMS[:1])),
        ("tests-call", CodeTests("call", CALLS, "add")),
        ("apps-call", CodeTests("call", CALLS, "Solution.add")),
        ("tests-own", CodeTests("call", CALLS[:1], "add", float_tolerance=1e-6)),
    ],
)
def test_hidden_tests_of_every_form_are_read(form: str, tests: CodeTests) -> None:
    (task,) = tasks(form)
    assert task.tests == tests
    assert task.verifier == "code"


PROGRAMS = {
    "tests-call": "def add(a, b):\n    return a + b",
    "tests-own": "def add(a, b):\n    return a + b",
    "tests-script": "def add(a, b):\n    return a + b",
    "tests-stdin": "print(sum(map(int, input().split())))",
    "verl-code": "print(sum(map(int, input().split())))",
    "code-contests": "print(sum(map(int, input().split())))",
}


async def test_right_programs_pass_and_wrong_ones_fail_the_tests_of_every_format(
    sandbox: LocalSandbox,
) -> None:
    verifier = CodeVerifier(sandbox)
    solved = ["apps-stdin", "apps-call", "leetcode", "humaneval", "mbpp"]
    for form in [*PROGRAMS, *solved]:
        (task,) = tasks(form)
        solution = task.solution or f"</think>\n\n```python\n{PROGRAMS[form]}\n```"
        score = await verifier.score(task, solution)
        assert score.status == "correct", (form, score)
        for right, wrong in ((" + ", " - "), ("sum(", "max("), ("ceil", "floor")):
            solution = solution.replace(right, wrong)
        score = await verifier.score(task, solution)
        assert score.status == "wrong", (form, score)


@pytest.fixture(scope="module")
def judges() -> Iterator[dict[str, Verifier]]:
    with closing(MathVerifier(workers=1)) as mathematics:
        yield {"math": mathematics, "instructions": InstructionVerifier()}


@pytest.mark.parametrize("form", ["gsm8k", "math", "aime", "verl-math"])
async def test_the_answer_that_a_format_gives_is_right_to_its_verifier(
    judges: dict[str, Verifier], form: str
) -> None:
    for task in tasks(form):
        score = await judges[task.verifier].score(
            task, f"</think>\n\n\\boxed{{{task.answer}}}"
        )
        assert score.status == "correct"


def test_the_whole_row_reaches_your_own_python() -> None:
    assert tasks("verl-math")[1].row["extra_info"]["index"] == 1


def written(tmp_path: Path, *rows: dict[str, Any]) -> DataConfig:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(rows=str(path))


ASKED = [{"role": "user", "content": "2 + 3?"}]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"a": 1, "b": 2},
            r"prompt: nothing says what to ask: .* 'a', 'b'; .*own\.prompt",
        ),
        ({"prompt": " "}, "prompt: the prompt is empty"),
        ({"Question": None, "answer": "5"}, "Question: it is null"),
        (
            {"prompt": "Say it.", "chosen": "yes", "rejected": None},
            "rejected: it is null",
        ),
        (
            {"messages": [*ASKED, {"role": "assistant", "content": " "}]},
            r"messages\.1: the reply is empty",
        ),
        (
            {"prompt": "Write f.", "tests": "assert f(1) == "},
            "tests: they are not Python",
        ),
        ({"prompt": []}, r"prompt: it is \[\]: it must be a list of turns"),
        ({"prompt": "2 + 3?", "answer": " "}, "answer: the answer is empty"),
        ({"prompt": "2 + 3?", "answer": ["5", "five"]}, "answer: there are 2 answers"),
        (
            {"messages": [{"role": "boss", "content": ""}]},
            r"messages\.0: the role is 'boss'",
        ),
        ({"messages": [{"role": "user", "content": 5}]}, r"messages\.0: the content is 5"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            r"messages\.0: a part is .*only text",
        ),
        (
            {"messages": [{"role": "assistant", "content": "5"}]},
            "begins with the assistant",
        ),
        (
            {"messages": [*ASKED, {"role": "assistant", "content": "<think>hm"}]},
            r"messages\.1: <think> is never closed",
        ),
        (
            {
                "messages": [
                    *ASKED,
                    {"role": "assistant", "content": "", "tool_calls": ["add"]},
                ]
            },
            r"messages\.1: a call is 'add'",
        ),
        (
            {"messages": [*ASKED, {"role": "assistant", "content": "5", "weight": 0.5}]},
            r"messages\.1: the weight is 0\.5",
        ),
        ({"messages": ASKED, "tools": [{"name": 1}]}, "tools: a tool is"),
        ({"prompt": "2 + 3?", "completion": ""}, "completion: the completion is empty"),
        ({"prompt": "2 + 3?", "completion": "6", "label": False}, "label: single ratings"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected are equal"),
        (
            {
                "chosen": [*ASKED, {"role": "assistant", "content": "5"}],
                "rejected": [
                    {"role": "user", "content": "?"},
                    {"role": "gpt", "content": "5"},
                ],
            },
            "rejected: chosen and rejected answer different chats",
        ),
        (
            {
                "prompt": "4 + 4?",
                "chosen": [*ASKED, {"role": "assistant", "content": "5"}],
                "rejected": [*ASKED, {"role": "assistant", "content": "6"}],
            },
            "chosen: it begins with another prompt than the row's",
        ),
        (
            {"prompt": "a", "chosen": "b", "rejected": [{"role": "gpt", "content": "c"}]},
            "rejected: chosen and rejected must both be texts",
        ),
        (
            {"prompt": "a", "chosen": "b", "rejected": ""},
            "rejected: its last turn is empty",
        ),
        (
            {"chosen": ASKED, "rejected": ASKED},
            "chosen: it ends with a user turn: end with the assistant's",
        ),
        ({"prompt": "Write f.", "tests": []}, "tests: there are no tests"),
        ({"prompt": "Write f.", "tests": [1]}, r"tests\.0: it is 1: a test has an input"),
        (
            {"prompt": "Write f.", "tests": [{"in": 1}]},
            r"tests\.0: a test has in: .*one of input",
        ),
        (
            {"prompt": "Write f.", "input_output": {"inputs": ["1"], "outputs": []}},
            "input_output: it has 1 inputs and 0 outputs",
        ),
        (
            {"prompt": "Write f.", "tests": "x = 1"},
            "tests: nothing says which function is tested",
        ),
        (
            {"prompt": "Write f.", "tests": {"form": "shell", "cases": []}},
            r"tests\.form: it is 'shell': it must be one of stdin, call, script",
        ),
        (
            {"prompt": "Say it.", "instruction_id_list": ["a:b", "c:d"], "kwargs": [{}]},
            "kwargs: there are 2 rules and 1 of arguments",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_field_and_remedy(
    tmp_path: Path, row: dict[str, Any], said: str
) -> None:
    with pytest.raises(OpenQwQError, match=rf"data\.own: rows\.jsonl row 1, .*{said}"):
        open_rows("own", written(tmp_path, row), DataLock())


@pytest.mark.parametrize(
    "path", sorted(FORMATS.glob("*.jsonl")), ids=lambda path: path.stem
)
def test_a_format_means_the_same_in_parquet_and_with_json_in_the_cells_of_a_table(
    tmp_path: Path, path: Path
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [json.loads(line) for line in path.read_text().splitlines()]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            cells = {k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}
            writer.writerow(cells)

    expected = [
        replace(row, task=replace(row.task, row={})) for row in opened(path.stem).rows
    ]
    for name in ("rows.parquet", "rows.csv"):
        table = open_rows("own", DataConfig(rows=str(tmp_path / name)), DataLock())
        for row, wanted in zip(table.rows, expected, strict=True):
            assert replace(row.task, row={}) == wanted.task, name
            assert row.pair == wanted.pair, name
            assert row.problem == wanted.problem, name


def test_thinking_may_be_a_part_of_the_content() -> None:
    parts = [
        {"type": "thinking", "thinking": "two and three"},
        {"type": "text", "text": "5"},
    ]
    turns = [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": parts}]
    reader = RowReader("own", DataConfig(rows="rows.jsonl"))
    (reply,) = reader.read({"messages": turns}).demonstration
    assert (reply["content"], reply["reasoning_content"]) == ("5", "two and three")


def test_nan_is_an_empty_cell() -> None:
    reader = RowReader("own", DataConfig(rows="rows.jsonl"))
    assert reader.read({"question": "2 + 3?", "answer": float("nan")}).answer is None


@pytest.mark.parametrize(
    "text",
    ['[{"name": "Ann"}]', "[]", '{"from": "Paris", "value": 3}', '[{"role": "cook"}]'],
)
def test_a_reply_that_happens_to_be_json_is_imitated_as_it_is(text: str) -> None:
    reader = RowReader("own", DataConfig())
    reading = reader.read({"prompt": "Answer in JSON.", "completion": text})
    assert reading.demonstration == (assistant(text),)


def test_turns_kept_as_json_text_are_turns() -> None:
    reader = RowReader("own", DataConfig())
    text = json.dumps([{"from": "gpt", "value": "5"}])
    reading = reader.read({"prompt": "2 + 3?", "completion": text})
    assert reading.demonstration == (assistant("5"),)


def test_a_turn_in_an_unknown_role_is_named_in_json_text_too() -> None:
    reader = RowReader("own", DataConfig())
    turns = [{"role": "user", "content": "2 + 3?"}, {"role": "critic", "content": "5"}]
    with pytest.raises(RowError, match="critic"):
        reader.read({"prompt": json.dumps(turns), "answer": "5"})
