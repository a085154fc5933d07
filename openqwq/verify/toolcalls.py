"""Judges tool calls by the AST rules of the Berkeley Function Calling Leaderboard (BFCL v4)."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from openqwq.types import OpenQwQError, Score, Task, ToolCall
from openqwq.verify.answer import final_answer

Language = Literal["python", "java", "javascript"]
TOOL_CALLS = "tool_calls_"  # the judges' names, before the language
# {function: {argument: [accepted values]}}
_Call = Mapping[str, Mapping[str, Sequence[Any]]]

_TYPES: dict[str, type] = {
    **dict.fromkeys(("string", "String", "char", "any"), str),
    **dict.fromkeys(("integer", "byte", "short", "long", "Bigint"), int),
    **dict.fromkeys(("float", "double", "number"), float),
    **dict.fromkeys(("boolean", "Boolean"), bool),
    **dict.fromkeys(("array", "tuple", "Array", "ArrayList"), list),
    **dict.fromkeys(("dict", "object", "HashMap"), dict),
}
_END_TAG = "</tool_call>"
_LIST = re.compile(
    r"new\s+(?:ArrayList<\w*>\s*\(Arrays\.asList\((.*)\)\)|\w+\[\]\s*\{(.*)\}|Array\((.*)\))",
    re.S,
)
_FILLED = re.compile(r"new\s+(ArrayList|HashMap)<[^>]*>\s*\(\)\s*(?:\{(.*)\})?", re.S)
_FILLING = re.compile(r"(?:add|put)\(((?:\"[^\"]*\"|[^()\"])*)\)")
_TOKEN = re.compile(r"\"[^\"]*\"|'[^']*'|[^\s\"'\[\]{}(),:]+")


class CallVerdict(NamedTuple):
    """Whether the calls are right, and if not, why."""

    ok: bool
    reason: str = ""


@dataclass(frozen=True)
class RightCalls:
    """The ground truth that `check_calls` takes."""

    calls: Sequence[_Call] | None

    @classmethod
    def read(cls, text: str) -> "RightCalls":
        """From JSON text, as rows keep it; ValueError if it is not that."""
        return cls(json.loads(text))


class ToolCallVerifier:
    """Value 1 if the Hermes `<tool_call>` blocks after the thinking are the right calls, else 0.

    `task.tools` are BFCL function documents, bare or as `{"type": "function", "function": ...}`;
    `task.reference` are the `RightCalls`. A malformed block is `wrong`. Status `truncated`: the
    thinking never ended; `error`: the task is at fault.
    """

    def __init__(self, language: Language = "python", thinking: bool = True) -> None:
        self._language: Language = language
        self._thinking = thinking

    async def score(self, task: Task, completion: str) -> Score:
        """Judge the answer's calls; the class says what a status means."""
        if not isinstance(task.reference, RightCalls):
            return Score(0.0, "error", detail=f"task {task.id!r} says no right calls")
        answer = final_answer(completion, self._thinking)
        if answer is None:
            return Score(0.0, "truncated", detail="no </think>")
        functions = [tool.get("function", tool) for tool in task.tools]
        try:
            calls = extract_calls(answer)
            ok, reason = check_calls(functions, task.reference.calls, calls, self._language)
        except OpenQwQError as error:
            return Score(0.0, "error", detail=f"task {task.id!r}: {error}")
        except (ValueError, RecursionError) as error:  # nested too deeply
            return Score(0.0, "wrong", detail=f"malformed tool call: {error}")
        if not ok:
            return Score(0.0, "wrong", detail=reason)
        return Score(1.0, "correct")


def extract_calls(answer: str) -> list[ToolCall]:
    """The calls that Hermes blocks in `answer` spell; ValueError or RecursionError if malformed."""
    calls: list[ToolCall] = []
    _, tag, rest = answer.partition("<tool_call>")
    while tag:
        value, end = json.JSONDecoder().raw_decode(rest.lstrip())
        rest = rest.lstrip()[end:].lstrip()
        match value:
            case {"name": str(name), "arguments": dict(arguments)} if rest.startswith(
                _END_TAG
            ):
                calls.append(ToolCall(name=name, arguments=arguments))
            case _:
                raise ValueError(f"not a name, arguments and {_END_TAG}: {value!r:.200}")
        _, tag, rest = rest.partition("<tool_call>")
    return calls


def check_calls(
    functions: Sequence[Mapping[str, Any]],
    ground_truth: Sequence[_Call] | None,
    calls: Sequence[ToolCall],
    language: Language = "python",
) -> CallVerdict:
    """Whether `calls` are those of `ground_truth`, in any order.

    `ground_truth` is BFCL's: each right call as {function: {argument: [accepted values]}}, where
    "" among the values lets the argument be left out. [] (irrelevance): no call is right. None
    (relevance): any call of an offered function is. Java's and JavaScript's argument values are
    source text. Raises OpenQwQError for a ground truth or document that is not of BFCL's form.
    """
    schemas = _schemas(functions)
    require_right_calls(functions, ground_truth)
    if ground_truth is None:
        if any(call["name"] in schemas for call in calls):
            return CallVerdict(True)
        return CallVerdict(False, "no call of an offered function")
    if len(calls) != len(ground_truth):
        return CallVerdict(False, f"{len(calls)} calls where {len(ground_truth)} are right")

    table: list[list[str]] = []  # of each right call, what is wrong with each given one
    for entry in ground_truth:
        (name,) = entry
        table.append([_fault(call, entry, schemas[name], language) for call in calls])
    table.sort(key=lambda faults: faults.count(""))  # the pickiest chooses first

    unused = set(range(len(calls)))
    for faults in table:
        found = [index for index in unused if not faults[index]]
        if not found:
            return CallVerdict(
                False, "; ".join(filter(None, faults)) or "one call given twice"
            )
        unused.remove(found[0])
    return CallVerdict(True)


def require_right_calls(functions: Sequence[Mapping[str, Any]], calls: Any) -> None:
    """Raise OpenQwQError for a ground truth that no call of these functions could match."""
    if calls is None:
        return
    if not isinstance(calls, list | tuple):
        raise OpenQwQError(f"ground truth {calls!r:.200} is not a list of calls")
    schemas = _schemas(functions)
    for entry in calls:
        whole = (
            isinstance(entry, Mapping) and len(entry) == 1 and set(entry) <= set(schemas)
        )
        accepted = next(iter(entry.values())) if whole else None
        if not isinstance(accepted, Mapping) or not all(
            isinstance(values, list | tuple) for values in accepted.values()
        ):
            raise OpenQwQError(
                f"ground truth {entry!r:.200} is not {{function: {{argument: [values]}}}} with one "
                f"of: {', '.join(schemas) or 'no functions'}"
            )


def _schemas(functions: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The parameters of each function; one without any may leave them out."""
    return {function["name"]: function.get("parameters") or {} for function in functions}


def _fault(
    call: ToolCall, right: _Call, schema: Mapping[str, Any], language: Language
) -> str:
    """What is wrong with `call`, "" if nothing is."""
    ((name, accepted),) = right.items()
    arguments = call["arguments"]
    if call["name"] != name:
        return f"calls {call['name']!r}, not {name!r}"
    for key, options in accepted.items():
        may_lack = "" in options and key not in schema.get("required", ())
        if key not in arguments and not may_lack:
            return f"{name} lacks {key!r}"
    for key, given in arguments.items():
        if key not in accepted:
            return f"{name} has the unexpected argument {key!r}"
        argument = schema.get("properties", {}).get(key, {})
        value = _given_value(given, argument, language)
        if not any(_fits(value, option, argument) for option in accepted[key]):
            return f"{name}: {key} is {given!r:.200}, right is one of {accepted[key]!r}"
    return ""


def _given_value(given: Any, schema: Mapping[str, Any], language: Language) -> Any:
    """An argument as Python's value; a whole number stands for a float where one is declared."""
    declared = _python_type(schema)
    value = given
    if language != "python":
        value = _from_source(given, schema, language) if isinstance(given, str) else None
    if type(value) is int and declared is float and abs(value) < 2**53:
        return float(value)
    return value


def _python_type(schema: Mapping[str, Any]) -> type | None:
    """The type of a value that `schema` describes; None for an empty schema."""
    name = schema.get("type")
    if name is None:
        return None
    if name not in _TYPES:
        raise OpenQwQError(f"argument type {name!r}: use one of {', '.join(_TYPES)}")
    return _TYPES[name]


def _fits(value: Any, option: Any, schema: Mapping[str, Any]) -> bool:
    """Whether `value` is the accepted `option` and of its type or of the declared one."""
    declared = _python_type(schema) or type(option)
    if type(value) not in (declared, type(option)):
        return False
    if isinstance(option, str) and declared is not str:
        return bool(option and value == option)  # a variable's name, spelt exactly
    if declared is dict and isinstance(option, dict):
        return _fits_object(value, option)
    if declared is list and isinstance(option, list):
        nested = schema.get("items", {})
        if len(value) != len(option):
            return False
        return all(
            _fits(item, each, nested) for item, each in zip(value, option, strict=True)
        )
    return bool(_plain(value) == _plain(option))


def _fits_object(value: Mapping[str, Any], option: Mapping[str, Any]) -> bool:
    """Whether each key's value is one of its alternatives, of which "" lets it be left out."""
    for key, alternatives in option.items():
        if key not in value and "" not in _listed(alternatives):
            return False
    return all(
        _plain(item) in _plain(_listed(option.get(key, []))) for key, item in value.items()
    )


def _listed(alternatives: Any) -> Any:
    """One ground truth has a bare text where BFCL's form is a list of alternatives."""
    return [alternatives] if isinstance(alternatives, str) else alternatives


def _plain(value: Any) -> Any:
    """`value` with texts reduced to what BFCL compares, and booleans told from numbers."""
    match value:
        case str():
            return re.sub(r"[ ,./\-_*^]", "", value).lower().replace("'", '"')
        case bool():
            return (value,)
        case list():
            return [_plain(each) for each in value]
        case dict():
            return {key: _plain(each) for key, each in value.items()}
    return value


def _from_source(text: str, schema: Mapping[str, Any], language: Language) -> Any:
    """The value of the declared type that Java or JavaScript source spells, else `text` itself."""
    wanted = _python_type(schema)
    if wanted is str:
        if language == "javascript" and schema["type"] == "String":
            # only these are in quotes
            quoted = re.fullmatch(r"([\"'])(.*)\1", text, re.DOTALL)
            if quoted:
                return quoted[2]
        return text
    try:
        value = json.loads(_TOKEN.sub(_json_token, _as_brackets(text.strip())))
    except (ValueError, RecursionError):
        return text
    if type(value) is wanted or (wanted is float and type(value) is int):
        return value
    return text


def _as_brackets(source: str) -> str:
    """The source of a collection that is made by a constructor, in JSON's brackets."""
    listed = _LIST.fullmatch(source)
    if listed:
        return f"[{listed[1] or listed[2] or listed[3] or ''}]"
    filled = _FILLED.fullmatch(source)
    if not filled:
        return source
    items = _FILLING.findall(filled[2] or "")
    if filled[1] == "ArrayList":
        return f"[{','.join(items)}]"
    pairs = [item.replace(",", ":", 1) for item in items]
    return "{" + ",".join(pairs) + "}"


def _json_token(match: re.Match[str]) -> str:
    """JSON for a token of Java or JavaScript source: numbers lose suffixes, names become texts."""
    token = match[0]
    if token in ("true", "false"):
        return token
    number = re.fullmatch(r"(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)[lLfFn]?", token)
    if number:
        return number[1]
    if token[0] in "\"'":
        token = token[1:-1]
    return json.dumps(token)
