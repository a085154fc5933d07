"""Tool calls are judged by BFCL's rules: its ground truths pass and corruptions of them fail."""

import gzip
import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from openqwq.types import OpenQwQError, Task, ToolCall
from openqwq.verify.toolcalls import Language, ToolCallVerifier, check_calls, extract_calls

CATEGORIES = [
    *("simple_python", "simple_java", "simple_javascript", "multiple", "parallel"),
    *("parallel_multiple", "live_simple", "live_multiple", "live_parallel"),
    *("live_parallel_multiple",),
]
Row = dict[str, Any]


def rows(data: Path, category: str) -> list[Row]:
    with gzip.open(data / "bfcl-v4" / f"{category}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def language_of(category: str) -> Language:
    return {"simple_java": "java", "simple_javascript": "javascript"}.get(category, "python")  # type: ignore[return-value]


def value_of(option: Any) -> Any:
    """A value for an accepted one: within an object, accepted values are lists of alternatives."""
    if isinstance(option, dict):
        chosen = {key: each if isinstance(each, str) else each[0] for key, each in option.items()}
        left_out = {key for key, each in option.items() if "" in list([each] if isinstance(each, str) else each) and each != [""]}
        return {key: value for key, value in chosen.items() if key not in left_out}
    return [value_of(each) for each in option] if isinstance(option, list) else option


def source_of(value: Any, declared: str, language: Language) -> Any:
    """Java or JavaScript source of a JSON value."""
    if language == "python" or (isinstance(value, str) and declared != "nested"):
        return value
    if isinstance(value, bool | str):
        return json.dumps(value)
    if isinstance(value, dict):
        pairs = [(json.dumps(k), source_of(v, "nested", language)) for k, v in value.items()]
        if language == "javascript":
            return "{" + ", ".join(f"{key}: {item}" for key, item in pairs) + "}"
        puts = " ".join(f"put({key}, {item});" for key, item in pairs)
        return "new HashMap<String, Object>() {{ " + puts + " }}"
    if isinstance(value, list):
        items = ", ".join(source_of(each, "nested", language) for each in value)
        if language == "javascript":
            return f"[{items}]"
        java = {"Array": "new String[]{%s}", "ArrayList": "new ArrayList<>(Arrays.asList(%s))"}
        return java[declared] % items if declared in java else f"Arrays.asList({items})"
    return f"{value}{'L' if declared == 'long' else 'f' if declared == 'float' and language == 'java' else ''}"


def right_calls(row: Row, language: Language, choice: int = 0) -> list[ToolCall]:
    """The ground truth as calls, with the accepted value number `choice` (the last if fewer)."""
    documents = {document["name"]: document for document in row["function"]}
    calls = []
    for entry in row["ground_truth"]:
        ((name, accepted),) = entry.items()
        arguments = {}
        for key, options in accepted.items():
            values = [option for option in options if option != ""]
            declared = documents[name]["parameters"]["properties"].get(key, {}).get("type", "")
            if values:
                value = value_of(values[min(choice, len(values) - 1)])
                arguments[key] = source_of(value, declared, language)
            elif key in documents[name]["parameters"]["required"]:
                arguments[key] = ""
        calls.append(ToolCall(name=name, arguments=arguments))
    return calls


def corruptions(row: Row, calls: list[ToolCall]) -> Iterator[tuple[str, list[ToolCall]]]:
    """Every way of making one call of the right ones wrong, with what was done."""
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
                yield f"wrong {kind} of {key}", with_arguments({**rest, key: wrong})


def wrong_values(value: Any) -> Iterator[tuple[str, Any]]:
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
