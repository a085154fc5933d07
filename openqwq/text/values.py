"""Values as models write them into calls, whose ends are found while the text still comes in."""

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from openqwq.types import ToolCall

IN_STRING = re.compile(r'["\\]')
PYTHON_NAMES = {"true": True, "false": False, "null": None}
PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)


class JsonEnd:
    """Finds where a JSON object ends, in a text that grows; it begins at `start`.

    `broken` is set where `stop`, a text that no JSON can hold outside of its strings, comes first.
    """

    def __init__(self, start: int, stop: re.Pattern[str] | None = None) -> None:
        self._at = start
        self._depth = 0
        self._in_string = False
        pattern = r'["{}\[\]]' if stop is None else rf'["{{}}\[\]]|(?P<stop>{stop.pattern})'
        self._outside = re.compile(pattern)
        self.broken = False
        self.end: int | None = None

    def feed(self, text: str) -> int | None:
        """Read on in `text`, the whole of it so far; the index behind the object once it ended."""
        while self.end is None and not self.broken:
            found = (IN_STRING if self._in_string else self._outside).search(text, self._at)
            if found is None:
                self._at = len(text)
                return None
            if found.group() == "\\":
                if found.end() == len(text):
                    self._at = found.start()  # what it escapes is still to come
                    return None
                self._at = found.end() + 1
                continue
            self._at = found.end()
            self._take(found)
        return self.end

    def _take(self, found: re.Match[str]) -> None:
        character = found.group()
        if self._in_string:
            self._in_string = False
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            if self._depth <= 0:
                self.end = found.end()
        else:
            self.broken = True


class RawStrings:
    """Escapes what models leave raw in the strings of JSON (line ends, tabs), piece by piece."""

    def __init__(self) -> None:
        self._in_string = False
        self._after_backslash = False

    def feed(self, text: str) -> str:
        """The text with its control characters escaped where they stand in a string."""
        return "".join(map(self._take, text))

    def _take(self, character: str) -> str:
        if self._in_string and character < " ":
            self._after_backslash = False
            return json.dumps(character)[1:-1]
        if self._after_backslash:
            self._after_backslash = False
        elif character == '"':
            self._in_string = not self._in_string
        elif character == "\\":
            self._after_backslash = self._in_string
        return character


class PythonEnd:
    """Finds where a Python list ends that begins at `start` of a text that grows."""

    def __init__(self, start: int) -> None:
        self._at = start
        self._depth = 0
        self._quote = ""

    def feed(self, text: str) -> int | None:
        """The index behind the list once it has ended."""
        while self._at < len(text):
            character = text[self._at]
            if self._quote and character == "\\":
                if self._at + 1 == len(text):
                    return None
                self._at += 2
                continue
            self._at += 1
            if self._quote:
                self._quote = "" if character == self._quote else self._quote
            elif character in "'\"":
                self._quote = character
            elif character in "([{":
                self._depth += 1
            elif character in ")]}":
                self._depth -= 1
                if self._depth <= 0:
                    return self._at
        return None


def json_call(text: str) -> ToolCall | None:
    """The call that a JSON object spells, or None.

    Arguments may be missing, an object, or JSON text of an object; they stand under `arguments` or
    `parameters`, name and arguments perhaps inside of `function`.
    """
    value = plain_json(text)
    if not isinstance(value, dict):
        return None
    function = value.get("function")
    if isinstance(function, dict):
        value = function
    elif isinstance(function, str) and "name" not in value:
        value = {**value, "name": function}
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters"))
    if arguments is None or arguments == "":
        arguments = {}
    elif isinstance(arguments, str):
        arguments = plain_json(arguments)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return ToolCall(name=name, arguments=arguments)


def plain_json(text: str) -> Any:
    """The value of JSON that can be written back as JSON in UTF-8 (no NaN, no lone surrogates).

    Its strings may hold raw line ends: models write code so.
    """
    try:
        value = json.loads(text, strict=False)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    return value


def python_calls(text: str) -> list[ToolCall] | None:
    """The calls of a Python list such as `[add(x=1, y="a"), now()]`, or None if it is not one."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        elements = tree.elts if isinstance(tree, ast.List) else [tree]
        calls = [_python_call(element) for element in elements]
        json.dumps(calls, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
    return calls or None


def _python_call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("not a call with named arguments")
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("arguments without a name")
        arguments[keyword.arg] = _python_value(keyword.value)
    return ToolCall(name=ast.unparse(node.func), arguments=arguments)


def _python_value(node: ast.expr) -> Any:
    match node:
        case ast.Name(id=name) if name in PYTHON_NAMES:
            return PYTHON_NAMES[name]
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_python_value(element) for element in elements]
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return {
                ast.literal_eval(key or node): _python_value(value) for key, value in pairs
            }
    return ast.literal_eval(node)


def parameters_call(name: str, body: str, schema: Mapping[str, Any]) -> ToolCall:
    """The call whose parameters stand in tags, each read by its type in the tool's schema.

    Where the schema does not tell, what is JSON is read as JSON.
    """
    types = schema.get("properties") or {}
    arguments: dict[str, Any] = {}
    for key, text in PARAMETER.findall(body):
        declared = types.get(key)
        kind = declared.get("type") if isinstance(declared, dict) else None
        value = None if kind == "string" else plain_json(text)
        is_null = text.strip() == "null" and kind != "string"
        arguments[key] = text if value is None and not is_null else value
    return ToolCall(name=name, arguments=arguments)
