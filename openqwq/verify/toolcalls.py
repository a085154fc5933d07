"""Judges tool calls by the AST rules of the Berkeley Function Calling Leaderboard (BFCL v4)."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from openqwq.types import OpenQwQError, Score, Task, ToolCall
from openqwq.verify.answer import final_answer

Language = Literal["python", "java", "javascript"]
_Call = Mapping[str, Mapping[str, Sequence[Any]]]  # {function: {argument: [accepted values]}}

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
    r"new\s+(?:ArrayList<\w*>\s*\(Arrays\.asList\((.*)\)\)|\w+\[\]\s*\{(.*)\}|Array\((.*)\))", re.S
)
_FILLED = re.compile(r"new\s+(ArrayList|HashMap)<[^>]*>\s*\(\)\s*(?:\{(.*)\})?", re.S)
_FILLING = re.compile(r"(?:add|put)\(((?:\"[^\"]*\"|[^()\"])*)\)")
_TOKEN = re.compile(r"\"[^\"]*\"|'[^']*'|[^\s\"'\[\]{}(),:]+")


class Verdict(NamedTuple):
    """Whether the calls are right, and if not, why."""

    ok: bool
    reason: str = ""


class ToolCallVerifier:
    """Value 1 if the Hermes `<tool_call>` blocks after the thinking are the right calls, else 0.

    `task.tools` are BFCL function documents, bare or as `{"type": "function", "function": ...}`;
    `task.answer` is the JSON text of the `ground_truth` that `check_calls` takes. A malformed block
    is `wrong`. Status `truncated`: the thinking never ended; `error`: the task is at fault.
    """

    def __init__(self, language: Language = "python", thinking: bool = True) -> None:
        self._language, self._thinking = language, thinking

    async def score(self, task: Task, completion: str) -> Score:
        """Judge the answer's calls; the class says what a status means."""
        answer = final_answer(completion, self._thinking)
        functions = [tool.get("function", tool) for tool in task.tools]
        try:
            ground_truth = json.loads(task.answer or "")
        except ValueError as error:
            return Score(0.0, "error", detail=f"ground truth of task {task.id!r}: {error}")
        if answer is None:
            return Score(0.0, "truncated", detail="no </think>")
        try:
            calls = extract_calls(answer)
            ok, reason = check_calls(functions, ground_truth, calls, self._language)
        except OpenQwQError as error:
            return Score(0.0, "error", detail=f"task {task.id!r}: {error}")
        except (ValueError, RecursionError) as error:  # nested too deeply
            return Score(0.0, "wrong", detail=f"malformed tool call: {error}")
        return Score(float(ok), "correct" if ok else "wrong", {}, reason)


def extract_calls(answer: str) -> list[ToolCall]:
    """The calls that Hermes blocks in `answer` spell; ValueError or RecursionError if malformed."""
    calls: list[ToolCall] = []
    _, tag, rest = answer.partition("<tool_call>")
    while tag:
        value, end = json.JSONDecoder().raw_decode(rest.lstrip())
        rest = rest.lstrip()[end:].lstrip()
        match value:
            case {"name": str(name), "arguments": dict(arguments)} if rest.startswith(_END_TAG):
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
) -> Verdict:
    """Whether `calls` are those of `ground_truth`, in any order.

    `ground_truth` is BFCL's: each right call as {function: {argument: [accepted values]}}, where
    "" among the values lets the argument be left out. [] (irrelevance): no call is right. None
    (relevance): any call of an offered function is. Java's and JavaScript's argument values are
    source text. Raises OpenQwQError for a ground truth or document that is not of BFCL's form.
    """
    schemas = {function["name"]: function["parameters"] for function in functions}
    if ground_truth is None:
        offered = any(call["name"] in schemas for call in calls)
        return Verdict(offered, "" if offered else "no call of an offered function")
    if len(calls) != len(ground_truth):
        return Verdict(False, f"{len(calls)} calls where {len(ground_truth)} are right")
    table = []
    for entry in ground_truth:
        name, *others = entry
        if name not in schemas or others:
            raise OpenQwQError(f"ground truth {entry!r} is not one call of: {', '.join(schemas)}")
        table.append([_fault(call, entry, schemas[name], language) for call in calls])
    unused = set(range(len(calls)))
    for faults in sorted(table, key=lambda faults: faults.count("")):  # the pickiest chooses first
        found = [index for index in unused if not faults[index]]
        if not found:
            return Verdict(False, "; ".join(filter(None, faults)) or "one call given twice")
        unused.remove(found[0])
    return Verdict(True)


def _fault(call: ToolCall, right: _Call, schema: Mapping[str, Any], language: Language) -> str:
    """What is wrong with `call`, "" if nothing is."""
    ((name, accepted),) = right.items()
    arguments = call["arguments"]
    if call["name"] != name:
        return f"calls {call['name']!r}, not {name!r}"
    for key, options in accepted.items():
        may_lack = "" in options and key not in schema.get("required", ())
        if key not in arguments and not may_lack:
            return f"{name} lacks {key!r}"
    for key, value in arguments.items():
        if key not in accepted:
            return f"{name} has the unexpected argument {key!r}"
        argument = schema["properties"].get(key, {})
        declared = _python_type(argument)
        if language != "python":
            value = _from_source(value, argument, language) if isinstance(value, str) else None
        if type(value) is int and declared is float and abs(value) < 2**53:
            value = float(value)
        if not any(_fits(value, option, argument) for option in accepted[key]):
            return f"{name}: {key} is {arguments[key]!r:.200}, right is one of {accepted[key]!r}"
    return ""


def _python_type(schema: Mapping[str, Any]) -> type | None:
    """The type of a value that `schema` describes; None for an empty schema."""
    name = schema.get("type")
    if name is not None and name not in _TYPES:
        raise OpenQwQError(f"argument type {name!r}: use one of {', '.join(_TYPES)}")
    return _TYPES[name] if name else None


def _fits(value: Any, option: Any, schema: Mapping[str, Any]) -> bool:
    """Whether `value` is the accepted `option` and of its type or of the declared one."""
    declared = _python_type(schema) or type(option)
    if type(value) not in (declared, type(option)):
        return False
    if isinstance(option, str) and declared is not str:
        return bool(option and value == option)  # a variable's name, spelt exactly
    if declared is dict and isinstance(option, dict):
        # One ground truth has a bare text where BFCL's form is a list of alternatives.
        accepted = {key: [each] if isinstance(each, str) else each for key, each in option.items()}
        return all(key in value or "" in options for key, options in accepted.items()) and all(
            _plain(item) in _plain(accepted.get(key, [])) for key, item in value.items()
        )
    if declared is list and isinstance(option, list):
        nested = schema.get("items", {})
        return len(value) == len(option) and all(
            _fits(item, each, nested) for item, each in zip(value, option, strict=True)
        )
    return bool(_plain(value) == _plain(option))


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
    if wanted is str:  # only JavaScript's String is written in quotes
        quotable = language == "javascript" and schema["type"] == "String"
        quoted = re.fullmatch(r"([\"'])(.*)\1", text, re.DOTALL) if quotable else None
        return quoted[2] if quoted else text
    source = text.strip()
    if match := _LIST.fullmatch(source):
        source = f"[{match[1] or match[2] or match[3] or ''}]"
    elif match := _FILLED.fullmatch(source):
        items = _FILLING.findall(match[2] or "")
        pairs = ",".join(item.replace(",", ":", 1) for item in items)
        source = f"[{','.join(items)}]" if match[1] == "ArrayList" else "{" + pairs + "}"
    try:
        value = json.loads(_TOKEN.sub(_json_token, source))
    except (ValueError, RecursionError):
        return text
    return value if type(value) is wanted or (wanted is float and type(value) is int) else text


def _json_token(match: re.Match[str]) -> str:
    """JSON for a token of Java or JavaScript source: numbers lose suffixes, names become texts."""
    token = match[0]
    number = re.fullmatch(r"(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)[lLfFn]?", token)
    if number or token in ("true", "false"):
        return number[1] if number else token
    return json.dumps(token[1:-1] if token[0] in "\"'" else token)
