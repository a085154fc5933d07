"""Schemas that no answer can follow are refused before a token is drawn."""

import json
from collections.abc import Mapping
from typing import Any

from openqwq.serve.protocol import ApiError

# of a schema; compiling more would keep other requests waiting for seconds
CHARACTERS = 100_000
ROUNDS = 64  # of reasoning about references


def require_usable(schema: Mapping[str, Any], param: str) -> None:
    """Raise ApiError for a schema that is too large, too deep, or that only endless values fit."""
    size = len(json.dumps(schema))
    if size > CHARACTERS:
        text = f"a schema has {size} characters, more than {CHARACTERS}: shorten it"
        raise ApiError(400, text, param)
    try:
        endless = not _Finite(schema).holds()
    except RecursionError:
        raise ApiError(400, "a schema is nested too deeply: flatten it", param) from None
    if endless:
        text = "every value of a schema holds another of its kind, without end: make one optional"
        raise ApiError(400, text, param)


class _Finite:
    """Whether a finite value fits a schema, as far as its references and what they require tell.

    A reference has one if its schema does without asking for itself again; those found so decide
    others in the next round, until nothing new is found.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._found: set[str] = set()
        self._asked: set[str] = set()

    def holds(self) -> bool:
        """The answer; True where it takes too long to tell."""
        for _ in range(ROUNDS):
            before = len(self._found)
            self._asked = set()
            if self._fits(self._root):
                return True
            if len(self._found) == before:
                return False
        return True

    def _fits(self, schema: Any) -> bool:
        if not isinstance(schema, Mapping):
            return schema is not False
        if "$ref" in schema and not self._reference(schema["$ref"]):
            return False
        if not all(map(self._fits, _list(schema, "allOf"))):
            return False
        for key in ("anyOf", "oneOf"):
            if _list(schema, key) and not any(map(self._fits, _list(schema, key))):
                return False
        kind = schema.get("type", "object" if "properties" in schema else "array")
        if kind == "object":
            properties = schema.get("properties", {})
            return all(
                self._fits(properties.get(name)) for name in _list(schema, "required")
            )
        if kind == "array" and schema.get("minItems", 0):
            first = _list(schema, "prefixItems")[: schema["minItems"]]
            more = len(first) < schema["minItems"]
            return all(map(self._fits, first)) and (
                not more or self._fits(schema.get("items"))
            )
        return True

    def _reference(self, name: Any) -> bool:
        if name in self._found:
            return True
        if name in self._asked:
            return False
        self._asked.add(name)
        target: Any = self._root
        try:
            for part in name.split("/")[1:]:
                key = part.replace("~1", "/").replace("~0", "~")
                place = int(key) if isinstance(target, list) else key
                target = target[place]
        except (LookupError, TypeError, ValueError):
            return True  # to nothing here: compiling the schema says so
        if name[:1] == "#" and not self._fits(target):
            return False
        self._found.add(name)
        return True


def _list(schema: Mapping[str, Any], key: str) -> list[Any]:
    value = schema.get(key)
    if isinstance(value, list):
        return value
    return []
