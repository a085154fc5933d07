"""Where data sets keep what a task needs: the names of columns, and the forms of their values."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from openqwq.data.rows import Row
from openqwq.tasks.conversations import THINKING_KEYS, split_thinking, without_nulls
from openqwq.tasks.hidden_tests import CONTESTS, contest_tests, read_tests
from openqwq.tasks.source import completion_of
from openqwq.tasks.templates import RowError, as_text, from_json, is_missing, lookup
from openqwq.types import CodeTests, Rule
from openqwq.verify.boxes import last_box

IDENTITIES = ("id", "unique_id", "task_id", "uid", "uuid", "key")
CHATS = ("messages", "conversations", "conversation")
QUESTIONS = ("prompt", "problem", "question", "query", "instruction")
REPLIES = ("completion", "response", "output")
CHOSEN = ("chosen", "preferred_output", "chosen_response", "response_j")
REJECTED = ("rejected", "non_preferred_output", "rejected_response", "response_k")
SYSTEMS = ("system", "system_prompt")
ANSWERS = (
    "reward_model.ground_truth",
    "answer",
    "final_answer",
    "expected_answer",
    "ground_truth",
    "correct_answer",
)
SOLUTIONS = ("solution", "canonical_solution", "reference_solution", "solutions")
TESTS = ("tests", "hidden_tests", "test_cases", "input_output", "test", "test_list")
TOOLS = ("tools", "functions")
GSM8K_END = "####"  # before the answer, at the end of a worked solution


def find_column(row: Row, names: Sequence[str]) -> str | None:
    """The first of `names` that the row has, in any case of letters, and that is not null."""
    spelt = {key.lower(): key for key in row}
    for name in names:
        column = name if "." in name else spelt.get(name, name)
        try:
            if not is_missing(lookup(row, column)):
                return column
        except KeyError:
            continue
    return None


def find_value(row: Row, names: Sequence[str]) -> Any:
    """The value of the first of `names` that the row has; None without one."""
    column = find_column(row, names)
    return None if column is None else lookup(row, column)


def is_object(answer: str) -> bool:
    """Whether an answer is JSON of an object or of several, which are not mathematics."""
    value = from_json(answer)
    if isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, Mapping)


def is_rating(label: Any) -> bool:
    """Whether a label says that a reply is good or bad, in any of the spellings of files."""
    return as_text(label).strip().lower() in ("true", "false", "0", "1")


def find_answer(row: Row) -> tuple[str, Any]:
    """The column with the right answer and its value; ("", None) without one.

    Ground truths that are hidden tests or rules are not answers.
    """
    column = find_column(row, ANSWERS)
    if column is None:
        return "", None
    value = lookup(row, column)
    parsed = from_json(value)
    if isinstance(parsed, Mapping):
        return "", None
    return column, value


def read_answer(value: Any, field: str, pattern: re.Pattern[str] | None) -> str:
    """An answer as text: what `pattern` captures last, or what follows GSM8K's `####`.

    Raises RowError for an empty one, several, and where the pattern finds nothing.
    """
    if isinstance(value, list | tuple):
        if len(value) != 1:
            raise RowError(
                field, f"there are {len(value)} answers: name one, or a verifier of yours"
            )
        value = value[0]
    text = as_text(value)
    if pattern is not None:
        found = [match[1] for match in pattern.finditer(text)]
        if not found:
            raise RowError(
                "answer_pattern",
                f"{pattern.pattern!r} finds nothing in {field} {text[-80:]!r}",
            )
        text = found[-1] or ""
    elif GSM8K_END in text:
        text = text.rpartition(GSM8K_END)[2].replace(",", "")
    if not text.strip():
        raise RowError(field, "the answer is empty: give it, or leave the row out")
    return text.strip()


def boxed_answer(row: Row) -> str | None:
    """The box at the end of a worked solution, as in MATH."""
    solution = find_value(row, SOLUTIONS)
    return last_box(solution) if isinstance(solution, str) else None


def find_solution(row: Row) -> tuple[str, Any]:
    """The column with a worked solution and its value; ("", None) without one."""
    column = find_column(row, SOLUTIONS)
    if column is not None:
        value = lookup(row, column)
        value = from_json(value)
        if isinstance(value, list | tuple):
            value = value[0] if value else None
        if isinstance(value, str) and value.strip():
            return column, value
    answer = find_column(row, ("answer",))
    if answer is not None and GSM8K_END in str(row[answer]):
        return answer, row[answer]
    return "", None


def thinking_column(row: Row) -> str:
    """The thinking in a column of its own, next to a reply or a solution; "" without one.

    Nemotron's `reasoning` says only "on" or "off".
    """
    value = find_value(row, THINKING_KEYS)
    if not isinstance(value, str) or value.strip().lower() in ("on", "off"):
        return ""
    return value.strip("\n")


def read_solution(value: Any, field: str, column: str = "") -> str:
    """A worked completion in the form of `Task.solution`, its thinking apart.

    `column` is the thinking that another column holds.
    """
    text = as_text(value)
    if not text.strip():
        raise RowError(field, "the solution is empty: give it, or leave the row out")
    thinking, rest = split_thinking(text, field)
    return completion_of(thinking or column, rest)


def as_program(solution: str, row: Row) -> str:
    """A reference program as a model would give it: whole and in a code block."""
    if "```" in solution:
        return solution
    prompt = row.get("prompt")
    if "canonical_solution" in row and isinstance(prompt, str) and solution[:1].isspace():
        solution = prompt + solution  # HumanEval keeps the body alone
    return f"```python\n{solution.rstrip()}\n```"


def find_tests(row: Row) -> CodeTests | None:
    """The hidden tests of a row; None without any."""
    column = find_column(row, TESTS)
    if column is not None:
        return read_tests(row[column], column, row)
    if find_column(row, CONTESTS) is not None:
        return contest_tests(row)
    truth_column = find_column(row, ("reward_model.ground_truth", "ground_truth"))
    if truth_column is not None:
        truth = lookup(row, truth_column)
        truth = from_json(truth)
        if isinstance(truth, Mapping) and {"inputs", "outputs"} <= set(truth):
            return read_tests(truth, truth_column, row)
    return None


def find_rules(row: Row) -> tuple[Rule, ...]:
    """IFEval's rules of a row, empty without any."""
    names = find_value(row, ("instruction_id_list",))
    if names is None:
        return ()
    return read_rules({"instruction_id_list": names, "kwargs": row.get("kwargs")}, "kwargs")


def read_rules(value: Any, field: str) -> tuple[Rule, ...]:
    """Rules as a list of ids and arguments, or as IFEval's two lists."""
    value = from_json(value)
    if isinstance(value, Mapping) and "instruction_id_list" in value:
        names = _list(value.get("instruction_id_list"))
        given = _list(value.get("kwargs")) or [{}] * len(names)
        if len(names) != len(given):
            raise RowError(
                field, f"there are {len(names)} rules and {len(given)} of arguments"
            )
        value = []
        for name, arguments in zip(names, given, strict=True):
            value.append({"id": name, "arguments": arguments})
    if not isinstance(value, list | tuple) or not value:
        raise RowError(field, f"it is {value!r:.80}: it must be a list of rules")

    rules: list[Rule] = []
    for each in value:
        if not isinstance(each, Mapping) or not isinstance(each.get("id"), str):
            raise RowError(
                field, f"a rule is {each!r:.80}: it must have an id and arguments"
            )
        arguments = from_json(each.get("arguments"))
        rules.append(Rule(each["id"], without_nulls(arguments or {})))
    return tuple(rules)


def _list(value: Any) -> list[Any]:
    value = from_json(value)
    return list(value) if isinstance(value, list | tuple) else []
