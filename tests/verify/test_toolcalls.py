"""Tool calls are judged by BFCL's rules: its ground truths pass and corruptions of them fail."""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from set_rows import rows

from openqwq.types import OpenQwQError, Task, ToolCall
from openqwq.verify.toolcalls import (
    Language,
    RightCalls,
    ToolCallVerifier,
    check_calls,
    extract_calls,
)

CATEGORIES = [
    *("simple_python", "simple_java", "simple_javascript", "multiple", "parallel"),
    *("parallel_multiple", "live_simple", "live_multiple", "live_parallel"),
    *("live_parallel_multiple",),
]
Row = dict[str, Any]


def language_of(category: str) -> Language:
    languages: dict[str, Language] = {
        "simple_java": "java",
        "simple_javascript": "javascript",
    }
    return languages.get(category, "python")


def value_of(option: Any) -> Any:
    """A value for an accepted one: within an object, accepted values are lists of alternatives."""
    if isinstance(option, dict):
        lists = {
            key: [each] if isinstance(each, str) else each for key, each in option.items()
        }
        return {
            key: each[0] for key, each in lists.items() if "" not in each or each == [""]
        }
    return [value_of(each) for each in option] if isinstance(option, list) else option


def source_of(value: Any, declared: str, language: Language, nested: bool = False) -> Any:
    """Java or JavaScript source of a JSON value; texts that are not nested are source already."""
    if language == "python" or (isinstance(value, str) and not nested):
        return value
    if isinstance(value, dict):
        items = [
            (json.dumps(key), source_of(v, "", language, True)) for key, v in value.items()
        ]
        if language == "javascript":
            return "{" + ", ".join(f"{key}: {item}" for key, item in items) + "}"
        puts = " ".join(f"put({key}, {item});" for key, item in items)
        return "new HashMap<String, Object>() {{ " + puts + " }}"
    if isinstance(value, list):
        inside = ", ".join(source_of(each, "", language, True) for each in value)
        if language == "javascript":
            return f"[{inside}]"
        array = declared == "Array"
        return (
            f"new String[]{{{inside}}}"
            if array
            else f"new ArrayList<>(Arrays.asList({inside}))"
        )
    return json.dumps(value) + ("L" if declared == "long" else "")


def right_calls(row: Row, language: Language, choice: int = 0) -> list[ToolCall]:
    """The ground truth as calls, with the accepted value number `choice` (the last if fewer)."""
    documents = {document["name"]: document for document in row["function"]}
    calls = []
    for entry in row["ground_truth"]:
        ((name, accepted),) = entry.items()
        arguments = {}
        for key, options in accepted.items():
            values = [option for option in options if option != ""]
            declared = (
                documents[name]["parameters"]["properties"].get(key, {}).get("type", "")
            )
            if values:
                value = value_of(values[min(choice, len(values) - 1)])
                arguments[key] = source_of(value, declared, language)
            elif key in documents[name]["parameters"]["required"]:
                arguments[key] = ""
        calls.append(ToolCall(name=name, arguments=arguments))
    return calls


def corruptions(row: Row, calls: list[ToolCall]) -> Iterator[tuple[str, list[ToolCall]]]:
    """The right calls with one thing wrong at a time, and what it is."""
    yield "missing call", calls[:-1]
    yield "extra call", [*calls, calls[0]]
    for index, call in enumerate(calls):
        accepted = row["ground_truth"][index][call["name"]]

        def with_arguments(arguments: dict[str, Any], index: int = index) -> list[ToolCall]:
            changed = deepcopy(calls)
            changed[index]["arguments"] = arguments
            return changed

        renamed = deepcopy(calls)
        renamed[index]["name"] += "_2"
        yield "wrong function", renamed
        yield "extra argument", with_arguments({**call["arguments"], "no_such_argument": 1})
        for key, value in call["arguments"].items():
            rest = {k: v for k, v in call["arguments"].items() if k != key}
            if "" not in accepted[key]:
                yield f"missing {key}", with_arguments(rest)
            for kind, wrong in wrong_values(value):
                if wrong not in accepted[key]:  # of a flag, both values may be accepted
                    yield f"wrong {kind} of {key}", with_arguments({**rest, key: wrong})


def wrong_values(value: Any) -> Iterator[tuple[str, Any]]:
    """Values of another type, and another value of the same type."""
    yield "type", {"unexpected": value}
    yield "type", str(value) + "?" if not isinstance(value, str) else 987654
    match value:
        case bool():
            yield "value", not value
        case int() | float():
            yield "value", value + 987654
        case str():
            yield "value", value + " wrong"
        case list():
            yield "value", [*value, *(value[:1] or ["wrong"])]
        case dict():
            yield "value", {**value, "unexpected": 1}


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_ground_truth_passes_with_each_accepted_value(
    data_sets: Path, category: str
) -> None:
    language = language_of(category)
    for row in rows(data_sets, f"bfcl-v4/{category}"):
        for choice in range(4):
            calls = right_calls(row, language, choice)
            verdict = check_calls(
                row["function"], row["ground_truth"], calls[::-1], language
            )
            assert verdict == (True, ""), row["id"]


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_corruption_of_a_ground_truth_fails(data_sets: Path, category: str) -> None:
    language = language_of(category)
    for row in rows(data_sets, f"bfcl-v4/{category}"):
        for kind, calls in corruptions(row, right_calls(row, language)):
            ok, reason = check_calls(row["function"], row["ground_truth"], calls, language)
            assert not ok, (row["id"], kind)
            assert reason


@pytest.mark.parametrize("category", ["irrelevance", "live_irrelevance", "live_relevance"])
def test_where_no_call_is_right_any_call_fails_and_the_reverse(
    data_sets: Path, category: str
) -> None:
    relevant = category == "live_relevance"
    ground_truth: list[Any] | None = None if relevant else []
    for row in rows(data_sets, f"bfcl-v4/{category}"):
        names = [function["name"] for function in row["function"]] or ["none is offered"]
        call = ToolCall(name=names[0], arguments={})
        assert check_calls(row["function"], ground_truth, [call]).ok is relevant
        assert check_calls(row["function"], ground_truth, []).ok is not relevant
        unknown = ToolCall(name="no such function", arguments={})
        assert not check_calls(row["function"], ground_truth, [unknown]).ok


def document(**types: Any) -> Row:
    """The document of a function `f` whose arguments have these types; none is required."""
    properties = {
        key: t if isinstance(t, dict) else {"type": t} for key, t in types.items()
    }
    return {"name": "f", "parameters": {"type": "dict", "properties": properties}}


def accepts(declared: Any, option: Any, value: Any, language: Language = "python") -> bool:
    call = ToolCall(name="f", arguments={"x": value})
    return check_calls(
        [document(x=declared)], [{"f": {"x": [option]}}], [call], language
    ).ok


FLOATS = {"type": "array", "items": {"type": "float"}}
OBJECTS = {"type": "array", "items": {"type": "dict"}}


@pytest.mark.parametrize(
    ("declared", "option", "right", "wrong"),
    [
        ("string", "April 1, 2024", "april 1 2024", "April 2, 2024"),
        ("string", "it's", 'IT"S', "its"),
        ("string", "5", "5", 5),
        ("string", "", "", " x"),
        ("integer", 5, 5, 5.0),
        ("integer", 1, 1, True),
        ("integer", 5, 5, ""),
        ("float", 5.0, 5, "5.0"),
        ("float", 5.0, 5.0, 10**400),
        ("boolean", True, True, 1),
        ("integer", "LIMIT", "LIMIT", "limit"),  # a variable, spelt exactly
        ("tuple", [1.5, 2.0], [1.5, 2.0], [2.0, 1.5]),
        (FLOATS, [1.0, 2.0], [1.0, 2.0], [1, 2]),
        (FLOATS, [1.0, 2.0], [1.0, 2.0], [1.0]),
        ("dict", {"a": ["x y", "z"], "b": ["", 2]}, {"a": "XY"}, {"b": 2}),
        ("dict", {"a": ["x"]}, {"a": "x"}, {"a": "x", "c": 1}),
        ("dict", {"a": [1]}, {"a": 1}, {"a": True}),
        ("dict", {"a": "xyz"}, {"a": "xyz"}, {"a": "x"}),
        ("dict", {"a": [{"b": [1, 2]}]}, {"a": {"b": [1, 2]}}, {"a": {"b": [2, 1]}}),
        (OBJECTS, [{"a": [1]}, {"a": [2]}], [{"a": 1}, {"a": 2}], [{"a": 2}, {"a": 1}]),
        (OBJECTS, [{"a": [1]}], [{"a": 1}], [1]),
    ],
)
def test_values_are_compared_as_bfcl_documents(
    declared: Any, option: Any, right: Any, wrong: Any
) -> None:
    assert accepts(declared, option, right)
    assert not accepts(declared, option, wrong)


def test_an_argument_may_be_left_out_if_its_values_say_so_and_it_is_not_required() -> None:
    optional, call = {"f": {"x": [1, ""]}}, ToolCall(name="f", arguments={})
    schema = document(x="integer")
    assert check_calls([schema], [optional], [call]).ok
    schema["parameters"]["required"] = ["x"]
    assert not check_calls([schema], [optional], [call]).ok
    assert not accepts("integer", "", "")  # left out is not the same as empty


def test_only_a_javascript_string_is_written_in_quotes() -> None:
    assert accepts("String", "a", "'a'", "javascript")
    assert not accepts("any", "a", "'a'", "javascript")
    assert not accepts("String", "a", '"a"', "java")


@pytest.mark.parametrize(
    ("language", "declared", "option", "source"),
    [
        ("java", "integer", -5, "-5"),
        ("java", "long", 5, "5L"),
        ("java", "float", 3.5, "3.5f"),
        ("java", "double", 300.0, "3e2"),
        ("java", "boolean", True, "true"),
        ("java", "any", "new Point(1, 2)", "new Point(1, 2)"),
        ("java", "Array", [1, 2], "new int[] {1, 2}"),
        ("java", "ArrayList", [], "new ArrayList<>()"),
        (
            "java",
            "ArrayList",
            ["a, (b)", "c"],
            'new ArrayList<>() {{ add("a, (b)"); add("c"); }}',
        ),
        (
            "java",
            "ArrayList",
            ["a", True],
            'new ArrayList<Object>(Arrays.asList("a", true))',
        ),
        ("java", "HashMap", {}, "new HashMap<>()"),
        (
            "java",
            "HashMap",
            {"k": [1]},
            'new HashMap<String, Integer>() {{ put("k", 1); }}',
        ),
        ("java", "HashMap", "someMap", "someMap"),
        ("javascript", "String", "it", "'it'"),
        ("javascript", "Bigint", 5, "5n"),
        ("javascript", "float", 5.0, "5"),
        ("javascript", "array", [[1, 2], [3]], "new Array([1, 2], [3])"),
        ("javascript", "array", ["a", "b"], "['a', \"b\"]"),
        ("javascript", "dict", {"a": ["x"], "b": [[True]]}, "{a: 'x', 'b': [true]}"),
    ],
)
def test_java_and_javascript_values_are_read_from_source_text(
    language: Language, declared: str, option: Any, source: str
) -> None:
    assert accepts(declared, option, source, language)
    assert not accepts(declared, option, source + " wrong", language)
    assert not accepts(declared, option, 5, language)


def test_parallel_calls_match_in_any_order_but_each_only_once() -> None:
    truth = [{"f": {"x": [1]}}, {"f": {"x": [2]}}]
    calls = [ToolCall(name="f", arguments={"x": x}) for x in (2, 1)]
    assert check_calls([document(x="integer")], truth, calls).ok
    assert not check_calls([document(x="integer")], truth, calls[:1] * 2).ok
    overlapping = [{"f": {"x": [1, 2]}}, {"f": {"x": [2]}}]
    assert check_calls([document(x="integer")], overlapping, calls).ok


@pytest.mark.parametrize(
    ("functions", "ground_truth"),
    [
        ([document(x="integer")], [{"g": {}}]),
        ([document(x="integer")], [{"f": {}, "g": {}}]),
        ([document(x="whole number")], [{"f": {"x": [1]}}]),
    ],
)
def test_a_broken_ground_truth_is_an_error_that_names_it(
    functions: list[Row], ground_truth: list[Row]
) -> None:
    with pytest.raises(OpenQwQError, match=r"ground truth|whole number"):
        check_calls(functions, ground_truth, [ToolCall(name="f", arguments={"x": 1})])


CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'


def task(answer: str | None, wrapped: bool = False) -> Task:
    tool = document(x="integer")
    tools = ({"type": "function", "function": tool} if wrapped else tool,)
    right = None if answer is None else RightCalls.read(answer)
    return Task("one", "tools", (), "tool_calls", reference=right, tools=tools)


@pytest.mark.parametrize(
    ("answer", "completion", "status"),
    [
        ('[{"f": {"x": [1]}}]', f"Let me see.</think>\n\n{CALL}", "correct"),
        ('[{"f": {"x": [2]}}]', f"</think>{CALL}", "wrong"),
        ('[{"f": {"x": [1]}}]', f"{CALL}</think>f(1)", "wrong"),
        ("[]", f"{CALL}</think>No tool fits.", "correct"),
        ("[]", f"</think>{CALL}", "wrong"),
        ("null", f"</think>{CALL}", "correct"),
        ("null", "</think>No tool fits.", "wrong"),
        ('[{"f": {"x": [1]}}]', CALL, "truncated"),
        (None, f"</think>{CALL}", "error"),
        ('[{"g": {}}]', f"</think>{CALL}", "error"),
    ],
)
async def test_only_calls_after_the_thinking_count(
    answer: str | None, completion: str, status: str
) -> None:
    for wrapped in (False, True):
        score = await ToolCallVerifier().score(task(answer, wrapped), completion)
        assert (score.status, score.value) == (status, float(status == "correct"))


@pytest.mark.parametrize(
    "block",
    [
        "{'name': 'f'}",
        '{"name": "f", "arguments": "x"}',
        '{"name": "f", "arguments": {"x": 1}',
        '{"name": "f", "arguments": {}} and more',
        "[" * 100_000,
        "9" * 10_000,
        " " * 100_000,
    ],
)
async def test_a_malformed_call_is_wrong_with_a_reason(block: str) -> None:
    text = f"<tool_call>{block}</tool_call>"
    for answer in ("[]", '[{"f": {"x": [1]}}]'):
        score = await ToolCallVerifier(thinking=False).score(task(answer), text)
        assert score.status == "wrong"
        assert "malformed" in score.detail
    unclosed = await ToolCallVerifier(thinking=False).score(task("[]"), CALL[:-12])
    assert unclosed.status == "wrong"


def test_a_text_that_holds_the_tags_is_an_argument_like_any_other() -> None:
    arguments = {"x": "</tool_call><tool_call>"}
    call = json.dumps({"name": "f", "arguments": arguments})
    found = extract_calls(f"<tool_call>{call}</tool_call> and {CALL}")
    assert [each["arguments"] for each in found] == [arguments, {"x": 1}]


def test_a_function_may_leave_its_parameters_out() -> None:
    documents = [{"name": "now"}, {"name": "f", "parameters": {"type": "object"}}]
    for name in ("now", "f"):
        call = ToolCall(name=name, arguments={})
        assert check_calls(documents, [{name: {}}], [call]).ok
    call = ToolCall(name="f", arguments={"x": 1})
    assert check_calls(documents, [{"f": {"x": [1]}}], [call]).ok
