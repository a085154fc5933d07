"""Schemas that no answer can follow: only endless values, too large, too deep."""

from collections.abc import Callable
from typing import Any

import pytest

from openqwq.engine.open import OpenedModel
from openqwq.serve.asking import ask_chat
from openqwq.serve.protocol import ApiError
from openqwq.serve.schemas import (
    CHARACTERS,
    in_json_schema,
    require_usable,
    without_null_keywords,
)
from openqwq.text.grammar import answer_grammar, json_grammar


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
    "by another name than its place": {
        "$defs": {"node": {"$anchor": "leaf", "type": "null"}},
        "type": "object",
        "properties": {"a": {"$ref": "#leaf"}},
        "required": ["a"],
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


MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "a text for a count": ({"type": "array", "minItems": "a"}, "minItems .* at # is 'a'"),
    "half an item": ({"type": "array", "minItems": 1.5}, "minItems .* at # is 1.5"),
    "fewer than no items": ({"type": "array", "minItems": -1}, "minItems .* at # is -1"),
    "a list for a name": ({"required": [[]]}, r"required .* at # is \[\[\]\]"),
    "required for itself": ({"required": True}, "required .* at # is True"),
    "a list for a reference": ({"$ref": []}, r"\$ref .* at # is \[\]"),
    "a list of properties": ({"properties": [], "required": ["a"]}, "properties .* at #"),
    "deep within": (
        {
            "properties": {"a/b": {"type": "array", "minItems": 1, "items": {"$ref": 5}}},
            "required": ["a/b"],
        },
        r"\$ref of the schema at #/properties/a~1b/items is 5: make it a text",
    ),
    "where only a reference leads": (
        {
            "x-d": {"a": {"type": "array", "minItems": "q"}},
            "type": "object",
            "properties": {"a": {"$ref": "#/x-d/a"}},
            "required": ["a"],
        },
        "minItems of the schema at #/x-d/a is 'q'",
    ),
}


@pytest.mark.parametrize(("schema", "problem"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_schema_is_refused_with_the_place(
    scripted: Callable[..., OpenedModel], schema: dict[str, Any], problem: str
) -> None:
    user = {"role": "user", "content": "hi"}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    with pytest.raises(ApiError, match=problem) as refused:
        ask_chat(scripted(), {"messages": [user], "response_format": form})
    assert (refused.value.status, refused.value.param) == (400, "response_format")


def test_what_only_looks_like_a_keyword_is_not_checked() -> None:
    odd = {"minItems": "a", "required": 5}
    inner = {"minItems": {"type": "string"}, "required": {"type": "string"}}
    schema = {"properties": inner, "default": odd, "examples": [odd], "x-note": odd}
    require_usable(schema, "response_format")


@pytest.mark.parametrize(
    "more",
    [
        {"properties": {"a": {"type": "string", "required": True}}},
        {"errorMessage": {"required": "need a"}},
        {"meta": {"required": True}},
        {"dependentRequired": {"minItems": ["a"]}},
    ],
    ids=lambda more: next(iter(more)),
)
def test_a_word_that_is_not_read_as_a_keyword_may_mean_anything(
    more: dict[str, Any],
) -> None:
    properties = {"a": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "required": ["a"], **more}
    require_usable(schema, "tools")


def test_keywords_that_are_null_say_nothing_but_values_may_be_null() -> None:
    schema = {
        "required": None,
        "properties": {
            "default": {"type": "string", "description": None, "default": None},
            "b": {"enum": [1, None], "const": None},
        },
    }
    assert without_null_keywords(schema, "tools") == {
        "properties": {
            "default": {"type": "string", "default": None},
            "b": {"enum": [1, None], "const": None},
        },
    }


def test_openapis_nullable_is_null_as_another_type() -> None:
    string = {"type": "string", "nullable": True}
    assert in_json_schema(string, "tools") == {"type": ["string", "null"]}
    given = {
        "properties": {
            "nullable": string,
            "a": {**string, "enum": ["x"]},
            "b": {"$ref": "#/$defs/c", "nullable": True},
            "d": {"type": "integer", "nullable": False},
        },
        "items": [{"type": ["integer", "string"], "nullable": True}],
        "default": string,
    }
    assert in_json_schema(given, "tools") == {
        "properties": {
            "nullable": {"type": ["string", "null"]},
            "a": {"type": ["string", "null"], "enum": ["x", None]},
            "b": {"anyOf": [{"$ref": "#/$defs/c"}, {"type": "null"}]},
            "d": {"type": "integer", "nullable": False},
        },
        "items": [{"type": ["integer", "string", "null"]}],
        "default": string,
    }


LINKED = {"type": "object", "properties": {"next": {"$dynamicRef": "#node"}}}
DYNAMIC: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "to the root": (
        {"$dynamicAnchor": "node", **LINKED},
        {"type": "object", "properties": {"next": {"$ref": "#"}}},
    ),
    "to a definition": (
        {"$defs": {"a/b": {"$dynamicAnchor": "node", "type": "null"}}, **LINKED},
        {
            "$defs": {"a/b": {"type": "null"}},
            "type": "object",
            "properties": {"next": {"$ref": "#/$defs/a~1b"}},
        },
    ),
    "to an ordinary anchor": (
        {"items": {"$dynamicRef": "#a"}, "$defs": {"x": {"$anchor": "a"}}},
        {"items": {"$ref": "#/$defs/x"}, "$defs": {"x": {"$anchor": "a"}}},
    ),
    "a plain reference to a dynamic anchor": (
        {"items": {"$ref": "#a"}, "$dynamicAnchor": "a"},
        {"items": {"$ref": "#"}},
    ),
    "next to a plain reference": (
        {
            "items": {"$ref": "#/$defs/x", "$dynamicRef": "#a"},
            "$defs": {"x": {"type": "string"}, "y": {"$dynamicAnchor": "a"}},
        },
        {
            "items": {"$ref": "#/$defs/x", "allOf": [{"$ref": "#/$defs/y"}]},
            "$defs": {"x": {"type": "string"}, "y": {}},
        },
    ),
    "a property of that name": (
        {"properties": {"$dynamicRef": {"type": "string"}}},
        {"properties": {"$dynamicRef": {"type": "string"}}},
    ),
}


@pytest.mark.parametrize(("given", "plain"), DYNAMIC.values(), ids=DYNAMIC)
def test_a_dynamic_reference_with_one_target_is_a_plain_one(
    given: dict[str, Any], plain: dict[str, Any]
) -> None:
    got = in_json_schema(given, "tools")
    assert got == plain
    json_grammar(got)


MANY = {"$defs": {name: {"$dynamicAnchor": "node"} for name in "ab"}, **LINKED}


@pytest.mark.parametrize(
    "schema",
    [
        LINKED,
        MANY,
        {"items": {"$dynamicRef": "other.json#node"}},
        {"$defs": {"a": {"$id": "x", "$dynamicAnchor": "node"}}, **LINKED},
    ],
    ids=["no anchor", "two anchors", "another document", "a nested $id"],
)
def test_any_other_dynamic_reference_is_refused_by_name(schema: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match=r"\$dynamicRef '.*node'.* use \$ref") as got:
        in_json_schema(schema, "response_format")
    assert (got.value.status, got.value.param) == (400, "response_format")


def test_a_dynamic_reference_to_itself_alone_is_endless() -> None:
    schema = {"$dynamicAnchor": "node", **LINKED, "required": ["next"]}
    with pytest.raises(ApiError, match="without end"):
        require_usable(in_json_schema(schema, "tools"), "tools")


@pytest.mark.parametrize("change", [without_null_keywords, in_json_schema])
def test_a_schema_too_deep_to_be_read_is_refused(change: Callable[..., Any]) -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"items": deep}
    with pytest.raises(ApiError, match="flatten it"):
        change(deep, "tools")


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("value", "fits"), [("null", True), ('"x"', True), ('"y"', False), ("3", False)]
)
def test_a_forced_call_may_write_null_where_it_is_a_value(
    scripted: Callable[..., OpenedModel], strict: bool, value: str, fits: bool
) -> None:
    properties = {"a": {"type": "string", "enum": ["x"], "nullable": True}}
    parameters = {"type": "object", "properties": properties, "required": ["a"]}
    function = {"name": "f", "parameters": parameters, "strict": strict}
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
    }
    model = scripted()
    ask = ask_chat(model, body)
    call = f'<tool_call>\n{{"name": "f", "arguments": {{"a": {value}}}}}\n</tool_call>'
    grammar = answer_grammar(model.tokenizer, str(ask.params.grammar))
    ids = model.tokenizer.encode(call, allow_special=True)
    for token_id in ids:
        if not grammar.allowed()[token_id]:
            break
        grammar.accept(token_id)
    assert (grammar.allowed()[grammar.end_ids[0]] != 0) == fits
    if strict:
        arguments = {"null": None, "3": 3}.get(value, value.strip('"'))
        assert ask.tools["f"].check.is_valid({"a": arguments}) == fits
