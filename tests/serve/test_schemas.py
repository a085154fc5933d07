"""Schemas that no answer can follow: only endless values, too large, too deep."""

from typing import Any

import pytest

from openqwq.serve.protocol import ApiError
from openqwq.serve.schemas import CHARACTERS, require_usable


def node(required: bool, **more: Any) -> dict[str, Any]:
    inner = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
    return {"$defs": {"node": {**inner, "required": ["next"] if required else [], **more}}}


ROOT = {"$ref": "#/$defs/node"}
LIST = {"type": "array", "items": ROOT}
NULL = {"anyOf": [{"type": "null"}, node(True)["$defs"]["node"]]}
ENDLESS: dict[str, dict[str, Any]] = {
    "requires itself": {**node(True), **ROOT},
    "is itself": {"$ref": "#"},
    "is another that is it": {
        "$defs": {"node": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/node"}},
        **ROOT,
    },
    "either way itself": {"$defs": {"node": {"anyOf": [ROOT, ROOT]}}, **ROOT},
    "both ways itself": {"$defs": {"node": {"allOf": [{"type": "object"}, ROOT]}}, **ROOT},
    "an array of at least itself": {"$defs": {"node": {**LIST, "minItems": 1}}, **ROOT},
    "deep in an answer": {
        **node(True),
        "type": "object",
        "properties": {"tree": {"type": "array", "items": ROOT, "minItems": 2}},
        "required": ["tree"],
    },
}
FINITE: dict[str, dict[str, Any]] = {
    "optional": {**node(False), **ROOT},
    "or null": {"$defs": {"node": NULL}, **ROOT},
    "maybe an empty array": {"$defs": {"node": LIST}, **ROOT},
    "twice the same": {
        "$defs": {"node": {"type": "string"}},
        "type": "object",
        "properties": {"a": ROOT, "b": ROOT},
        "required": ["a", "b"],
    },
    # `a` asks for `b` before `b` is known: the second round knows
    "known a round later": {
        "$defs": {
            "a": {"anyOf": [{"$ref": "#/$defs/b"}, {"type": "null"}]},
            "b": {"$ref": "#/$defs/a"},
        },
        "$ref": "#/$defs/b",
    },
    "to nothing": {"$ref": "#/$defs/missing"},
    "doubling thirty times": {
        "$defs": {
            **{f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(30)},
            "a30": {"type": "string"},
        },
        "$ref": "#/$defs/a0",
    },
}


@pytest.mark.parametrize("schema", ENDLESS.values(), ids=ENDLESS)
def test_a_schema_that_only_endless_values_fit_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="without end") as got:
        require_usable(schema, "response_format")
    assert (got.value.status, got.value.param) == (400, "response_format")


@pytest.mark.parametrize("schema", FINITE.values(), ids=FINITE)
def test_a_schema_that_a_finite_value_fits_is_not(schema: dict[str, Any]) -> None:
    require_usable(schema, "response_format")


def test_a_schema_too_large_or_too_deep_is_refused() -> None:
    with pytest.raises(ApiError, match="shorten it"):
        require_usable({"enum": ["x" * CHARACTERS]}, "tools")
    chain = {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(2000)}
    with pytest.raises(ApiError, match="flatten it"):
        require_usable({"$defs": chain, "$ref": "#/$defs/a0"}, "tools")
