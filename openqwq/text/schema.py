"""From a Python function to what a chat template shows a model: name, purpose, JSON schema."""

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from openqwq.types import OpenQwQError

_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean"}


def specification(function: Callable[..., Any]) -> dict[str, Any]:
    """The tool that `function` is: its name, its docstring, and a schema from its annotations.

    The lines `name: text` under `Args:` in the docstring describe the arguments. Arguments may be
    str, int, float, bool, lists, mappings from str, Literals, and any of these or None. Raises
    OpenQwQError where the docstring or an annotation is missing or is of another type.
    """
    name = function.__name__
    documented, _, described = inspect.cleandoc(function.__doc__ or "").partition(
        "\nArgs:\n"
    )
    if not documented.strip():
        raise OpenQwQError(f"tool {name!r} has no docstring: say there what it does")
    notes = dict(re.findall(r"^ +(\w+): (.+(?:\n {5,}.+)*)", described, re.MULTILINE))
    hints = typing.get_type_hints(function)
    required: list[str] = []
    properties: dict[str, dict[str, Any]] = {}
    for key, parameter in inspect.signature(function).parameters.items():
        if key == "self":
            continue
        if key not in hints or parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise OpenQwQError(
                f"argument {key!r} of tool {name!r} has no type: annotate it"
            )
        properties[key] = _schema(hints[key], f"argument {key!r} of tool {name!r}")
        if key in notes:
            properties[key]["description"] = re.sub(r"\s+", " ", notes[key])
        if parameter.default is parameter.empty:
            required.append(key)
    parameters = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    description = re.sub(r"\s+", " ", documented).strip()
    tool = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": tool}


def _schema(kind: Any, where: str) -> dict[str, Any]:
    origin = get_origin(kind) or kind
    inner = get_args(kind)
    if kind in _SCALARS:
        return {"type": _SCALARS[kind]}
    if kind is type(None):
        return {"type": "null"}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(part, where) for part in inner]}
    if origin in (list, Sequence):
        if not inner:
            return {"type": "array"}
        return {"type": "array", "items": _schema(inner[0], where)}
    if origin in (dict, Mapping) and (not inner or inner[0] is str):
        if not inner or inner[1] is Any:
            return {"type": "object"}
        return {"type": "object", "additionalProperties": _schema(inner[1], where)}
    raise OpenQwQError(
        f"{where} is of type {kind}: use JSON's types (str, int, list[str], ...)"
    )
