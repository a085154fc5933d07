"""Schemas that no answer can follow are refused before a token is drawn."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from openqwq.serve.protocol import ApiError

# of a schema; compiling more would keep other requests waiting for seconds
CHARACTERS = 100_000
ROUNDS = 64  # of reasoning about references
_SCHEMAS = {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
_VALUES = {"const", "default", "enum", "example", "examples"}  # whose nulls mean something


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


# what is read here before a grammar is compiled, which checks all the rest; checked only where it
# is read, as elsewhere these words may mean something else
_FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "$ref": (lambda value: isinstance(value, str), "make it a text"),
    "minItems": (_is_count, "make it a whole number, 0 or more"),
    "properties": (lambda value: isinstance(value, Mapping), "make it an object"),
    "required": (_is_texts, "make it a list of names"),
}


def without_null_keywords(schema: Mapping[str, Any], param: str) -> dict[str, Any]:
    """A schema without keywords that are null, as some clients write those that they do not set.

    Raises ApiError for one that is nested too deeply.
    """

    def plain(part: dict[str, Any]) -> dict[str, Any]:
        return {
            key: value for key, value in part.items() if value is not None or key in _VALUES
        }

    return _changed(schema, plain, param)


def in_json_schema(schema: Mapping[str, Any], param: str) -> dict[str, Any]:
    """The same in words that a grammar knows.

    OpenAPI's `nullable` is null as another type, and `$dynamicRef` is the `$ref` that it comes to.
    Raises ApiError for a schema that is nested too deeply, and for a `$dynamicRef` to no place or
    to several.
    """
    plain = _changed(schema, _Anchors(schema, param).plain, param)
    return _changed(plain, _with_null, param)


class _Anchors:
    """The places of a schema that have names, and what is left of references to them.

    A dynamic anchor that is there once is what each reference to it means. References are written
    as places, which hold wherever a grammar moves the schema to.
    """

    def __init__(self, schema: Mapping[str, Any], param: str) -> None:
        self._param = param
        self._dynamic: set[str] = set()
        self._places: dict[str, list[str]] = {}
        self._nested_ids = False
        for place, part in _parts(schema):
            if "$id" in part and place != "#":
                self._nested_ids = True
            names = {str(part[key]) for key in ("$anchor", "$dynamicAnchor") if key in part}
            for name in names:
                self._places.setdefault(name, []).append(place)
            if "$dynamicAnchor" in part:
                self._dynamic.add(str(part["$dynamicAnchor"]))

    def plain(self, part: dict[str, Any]) -> dict[str, Any]:
        """A part of the schema without dynamic anchors and references."""
        part.pop("$dynamicAnchor", None)
        reference = str(part.get("$ref"))
        if reference.removeprefix("#") in self._dynamic:
            part["$ref"] = self._place_of(reference)
        if "$dynamicRef" not in part:
            return part
        target = {"$ref": self._place_of(str(part.pop("$dynamicRef")))}
        if "$ref" not in part:
            return {**part, **target}
        part["allOf"] = [*_list(part, "allOf"), target]
        return part

    def _place_of(self, reference: str) -> str:
        if reference == "#" or reference.startswith("#/"):
            return reference
        places = self._places.get(reference.removeprefix("#"), [])
        if not reference.startswith("#") or self._nested_ids or len(places) != 1:
            text = (
                f"$dynamicRef {reference!r} must name an anchor that a schema has once, without"
                f" $id below its root; it is there {len(places)} times: use $ref"
            )
            raise ApiError(400, text, self._param)
        return places[0]


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A schema and all within it, each with its place as a JSON pointer."""
    waiting: list[tuple[str, Any, bool]] = [("#", schema, True)]
    while waiting:
        place, part, is_schema = waiting.pop()
        if isinstance(part, list):
            waiting += [(f"{place}/{i}", each, True) for i, each in enumerate(part)]
        if not isinstance(part, Mapping):
            continue
        if is_schema:
            yield place, part
        for key, value in part.items():
            if is_schema and (key in _VALUES or key.startswith("x-")):
                continue
            names_schemas = is_schema and key in _SCHEMAS
            waiting.append((f"{place}/{_pointer(key)}", value, not names_schemas))


def _pointer(key: str) -> str:
    """A key as a step of a JSON pointer."""
    return quote(key.replace("~", "~0").replace("/", "~1"), safe="$")


def _with_null(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("nullable") is not True:
        return part
    part = {key: value for key, value in part.items() if key != "nullable"}
    kinds = part.get("type")
    if kinds is None or "const" in part:
        return {"anyOf": [part, {"type": "null"}]}
    part["type"] = [*(kinds if isinstance(kinds, list) else [kinds]), "null"]
    if isinstance(part.get("enum"), list):
        part["enum"] = [*part["enum"], None]
    return part


def _changed(
    schema: Mapping[str, Any],
    change: Callable[[dict[str, Any]], dict[str, Any]],
    param: str,
) -> dict[str, Any]:
    """A schema in which `change` has rewritten every part."""

    def walk(part: Any) -> Any:
        if isinstance(part, list):
            return [walk(each) for each in part]
        if not isinstance(part, dict):
            return part
        walked: dict[str, Any] = {}
        for key, value in part.items():
            if key in _VALUES:
                walked[key] = value
            elif key in _SCHEMAS and isinstance(value, dict):
                walked[key] = {name: walk(each) for name, each in value.items()}
            else:
                walked[key] = walk(value)
        return change(walked)

    try:
        rewritten: dict[str, Any] = walk(dict(schema))
    except RecursionError:
        raise ApiError(400, "a schema is nested too deeply: flatten it", param) from None
    return rewritten


def require_usable(schema: Mapping[str, Any], param: str) -> None:
    """Raise ApiError for a schema that is too large, too deep, malformed, or endless.

    Endless is one that only values without an end fit.
    """
    size = len(json.dumps(schema))
    if size > CHARACTERS:
        text = f"a schema has {size} characters, more than {CHARACTERS}: shorten it"
        raise ApiError(400, text, param)
    kind = schema.get("type")
    if not isinstance(kind, str) or kind == "object":
        # a grammar of a tool call reads them by itself
        _require_form(schema, "#", param, "properties", "required")
    try:
        endless = not _Finite(schema, param).holds()
    except RecursionError:
        raise ApiError(400, "a schema is nested too deeply: flatten it", param) from None
    if endless:
        text = "every value of a schema holds another of its kind, without end: make one optional"
        raise ApiError(400, text, param)


def _require_form(
    schema: Mapping[str, Any], place: str, param: str, *keywords: str
) -> None:
    """Raise ApiError for one of `keywords` whose value has not the form it is read in."""
    for keyword in keywords:
        is_right, form = _FORMS[keyword]
        if keyword in schema and not is_right(schema[keyword]):
            value = schema[keyword]
            text = f"{keyword} of the schema at {place} is {value!r:.100}: {form}"
            raise ApiError(400, text, param)


class _Finite:
    """Whether a finite value fits a schema, as far as its references and what they require tell.

    A reference has one if its schema does without asking for itself again; those found so decide
    others in the next round, until nothing new is found.
    """

    def __init__(self, root: Mapping[str, Any], param: str) -> None:
        self._root = root
        self._param = param
        self._found: set[str] = set()
        self._asked: set[str] = set()

    def holds(self) -> bool:
        """The answer; True where it takes too long to tell."""
        for _ in range(ROUNDS):
            before = len(self._found)
            self._asked = set()
            if self._fits(self._root, "#"):
                return True
            if len(self._found) == before:
                return False
        return True

    def _fits(self, schema: Any, place: str) -> bool:
        """Whether a finite value fits the schema at `place`; ApiError if it cannot be read."""
        if not isinstance(schema, Mapping):
            return schema is not False
        _require_form(schema, place, self._param, "$ref")
        if "$ref" in schema and not self._reference(schema["$ref"]):
            return False
        if not all(self._each(schema, "allOf", place)):
            return False
        for key in ("anyOf", "oneOf"):
            if _list(schema, key) and not any(self._each(schema, key, place)):
                return False
        kind = schema.get("type", "object" if "properties" in schema else "array")
        if kind == "object":
            _require_form(schema, place, self._param, "properties", "required")
            properties = schema.get("properties", {})
            return all(
                self._fits(properties.get(name), f"{place}/properties/{_pointer(name)}")
                for name in schema.get("required", ())
            )
        if kind == "array":
            _require_form(schema, place, self._param, "minItems")
            count = schema.get("minItems", 0)
            if not all(self._each(schema, "prefixItems", place, count)):
                return False
            if count > len(_list(schema, "prefixItems")):
                return self._fits(schema.get("items"), f"{place}/items")
        return True

    def _each(
        self, schema: Mapping[str, Any], key: str, place: str, most: int | None = None
    ) -> Iterator[bool]:
        """Whether a finite value fits each schema of a list, or each of the first `most`."""
        for i, part in enumerate(_list(schema, key)[:most]):
            yield self._fits(part, f"{place}/{key}/{i}")

    def _reference(self, name: str) -> bool:
        if name in self._found:
            return True
        if name in self._asked:
            return False
        self._asked.add(name)
        if name != "#" and not name.startswith("#/"):
            return True  # by another name than its place: compiling the schema looks for it
        target: Any = self._root
        try:
            for part in name.split("/")[1:]:
                key = part.replace("~1", "/").replace("~0", "~")
                place = int(key) if isinstance(target, list) else key
                target = target[place]
        except (LookupError, TypeError, ValueError):
            return True  # to nothing here: compiling the schema says so
        if not self._fits(target, name):
            return False
        self._found.add(name)
        return True


def _list(schema: Mapping[str, Any], key: str) -> list[Any]:
    value = schema.get(key)
    if isinstance(value, list):
        return value
    return []
