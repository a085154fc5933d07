"""Random walks through a grammar: whatever is allowed must parse, validate and end."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from openqwq.text.grammar import (
    AnswerGrammar,
    answer_grammar,
    json_grammar,
    opening_first,
    tool_call_grammar,
)
from openqwq.text.stream import Reply, parse_reply
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import OpenQwQError

INTEGERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"], "additionalProperties": False}  # fmt: skip
TOOLS = [
    {"name": "add", "parameters": INTEGERS},
    {"type": "function", "function": {"name": "greet", "parameters": {
        "type": "object", "properties": {"who": {"enum": ["Ada", "</tool_call>"]}},
        "required": ["who"], "additionalProperties": False}}},
    {"name": "now"},
]  # fmt: skip
BALANCE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "open": {"type": "boolean"},
        "lines": {"type": "array", "maxItems": 3, "items": {"enum": ["x", "y\n", 7]}},
        "note": {"type": "string", "maxLength": 6},
    },
    "required": ["open", "lines", "note"],
    "additionalProperties": False,
}


PLAIN = Tokenizer.train(["a"], 300)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the quick brown fox jumps over the lazy dog\n\n"] * 4, 300)


TEXTS: dict[str, Any] = {
    "name": "say",
    "parameters": {
        "type": "object",
        "properties": {
            "tone": {"type": "string", "enum": ["low", "high"]},
            "to": {"type": "string", "const": "all"},
        },
        "required": ["tone", "to"],
        "additionalProperties": False,
    },
}


def walk(tokenizer: Tokenizer, grammar: AnswerGrammar, seed: int) -> list[int]:
    """Tokens chosen at random among the allowed ones, without the one that ends the answer."""
    chooser, drawn = random.Random(seed), []
    for _ in range(3000):
        mask = grammar.allowed()
        token_id = chooser.choice([i for i, allowed in enumerate(mask) if allowed])
        grammar.accept(token_id)
        if token_id in grammar.end_ids:
            return drawn
        drawn.append(token_id)
    raise AssertionError("the answer never ended")


def walks(tokenizer: Tokenizer, grammar: str, number: int = 25) -> list[Reply]:
    start = AnswerGrammar(tokenizer, grammar)
    forks = [walk(tokenizer, start.fork(), seed) for seed in range(number)]
    return [parse_reply(tokenizer, ids, starts_in_thinking=False) for ids in forks]


def test_every_walk_through_a_schema_is_json_that_obeys_it(tokenizer: Tokenizer) -> None:
    replies = walks(tokenizer, json_grammar(BALANCE))
    for reply in replies:
        value = json.loads(reply.content)
        assert list(value) == ["open", "lines", "note"]
        assert isinstance(value["open"], bool) and len(value["note"]) <= 6
        assert len(value["lines"]) <= 3 and all(
            item in ("x", "y\n", 7) for item in value["lines"]
        )
    assert len({reply.content for reply in replies}) == len(replies)


@pytest.mark.parametrize("parallel", [True, False])
def test_every_walk_through_the_tools_is_well_formed_calls_of_them(
    tokenizer: Tokenizer, parallel: bool
) -> None:
    replies = walks(tokenizer, tool_call_grammar(tokenizer, TOOLS, parallel), 40)
    calls = [call for reply in replies for call in reply.tool_calls]
    assert not any(reply.content or reply.malformed_calls for reply in replies)
    assert {call["name"] for call in calls} == {"add", "greet", "now"}
    for call in calls:
        if call["name"] == "add":
            assert {type(value) for value in call["arguments"].values()} == {int}
            assert list(call["arguments"]) == ["a", "b"]
        elif call["name"] == "greet":
            assert call["arguments"]["who"] in ("Ada", "</tool_call>")
    counts = {len(reply.tool_calls) for reply in replies}
    assert 0 not in counts and (len(counts) > 1) == parallel


def test_one_tool_given_is_the_one_that_is_called(tokenizer: Tokenizer) -> None:
    replies = walks(tokenizer, tool_call_grammar(tokenizer, TOOLS[:1]))
    assert {call["name"] for reply in replies for call in reply.tool_calls} == {"add"}


def test_definitions_of_a_tool_s_schema_are_found(tokenizer: Tokenizer) -> None:
    schema = {
        "$defs": {"bit": {"enum": [0, 1]}},
        "type": "object",
        "required": ["x"],
        "properties": {"x": {"$ref": "#/$defs/bit"}},
        "additionalProperties": False,
    }
    (reply, *_) = walks(
        tokenizer, tool_call_grammar(tokenizer, [{"name": "f", "parameters": schema}])
    )
    assert reply.tool_calls[0]["arguments"]["x"] in (0, 1)


@pytest.mark.parametrize(("blanks", "allowed"), [(199, True), (200, False)])
def test_a_deep_answer_may_be_indented_but_not_without_end(
    tokenizer: Tokenizer, blanks: int, allowed: bool
) -> None:
    grammar = AnswerGrammar(tokenizer, json_grammar({"type": "object"}))
    (space,) = tokenizer.encode(" ")
    for token_id in [*tokenizer.encode("{"), *[space] * blanks]:
        grammar.accept(token_id)
    assert bool(grammar.allowed()[space]) == allowed


def test_the_end_is_allowed_only_where_the_answer_is_complete(tokenizer: Tokenizer) -> None:
    grammar = AnswerGrammar(tokenizer, json_grammar({"enum": [12]}))
    ends = []
    for token_id in tokenizer.encode("12"):
        ends.append(any(grammar.allowed()[i] for i in tokenizer.eos_ids))
        grammar.accept(token_id)
    assert not any(ends)
    allowed = [i for i, may in enumerate(grammar.allowed()) if may]
    assert sorted(allowed) == sorted(tokenizer.eos_ids)
    with pytest.raises(OpenQwQError, match="refuses token 65"):
        grammar.accept(65)


UNIQUE = {
    "name": "f",
    "parameters": {
        "type": "object",
        "properties": {
            "x": {
                "type": "array",
                "items": {"const": 7},
                "minItems": 1,
                "uniqueItems": True,
            },
            "y": {"oneOf": [{"const": 1}, {"const": 2}]},
        },
        "required": ["x", "y"],
        "additionalProperties": False,
    },
}


def test_what_cannot_be_enforced_is_left_to_the_model_where_nothing_is_strict(
    tokenizer: Tokenizer,
) -> None:
    for reply in walks(
        tokenizer, tool_call_grammar(tokenizer, [UNIQUE], parallel=False), 8
    ):
        (call,) = reply.tool_calls
        assert set(call["arguments"]["x"]) == {7} and call["arguments"]["y"] in (1, 2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: json_grammar({"type": "strin"}), "strin"),
        (lambda: json_grammar({"$ref": "#/missing"}), "missing"),
        (lambda: json_grammar({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (lambda: json_grammar({"x-guidance": 5}), "x-guidance is 5"),
        (lambda: tool_call_grammar(PLAIN, []), "at least one"),
        (
            lambda: tool_call_grammar(
                PLAIN, [{"name": "f", "parameters": {"type": "nothing"}}]
            ),
            "nothing",
        ),
        (lambda: tool_call_grammar(PLAIN, [{**UNIQUE, "strict": True}]), "uniqueItems"),
    ],
    ids=["type", "reference", "keyword", "form", "tools", "tool", "strict tool"],
)
def test_what_cannot_be_enforced_is_refused(build: Callable[[], str], message: str) -> None:
    with pytest.raises(OpenQwQError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_a_grammar_with_unknown_markers_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(OpenQwQError, match="<nothing>"):
        AnswerGrammar(tokenizer, "start: <nothing>")


FORMS = {
    "qwen2.5-instruct": '<tool_call>\n{"name": "add", "arguments": {"a": ',
    "llama3-form": '{"name": "add", "parameters": {"a": ',
    "r1-distill": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n",
    "mistral-form": '[TOOL_CALLS][{"name": "add", "arguments": {"a": ',
    "pythonic-form": "<|python_start|>[add(a=",
    "parameters-form": "<tool_call>\n<function=add>\n<parameter=a>\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_calls_are_forced_in_the_form_that_is_read(
    family: Callable[[str], Tokenizer], name: str
) -> None:
    """Every walk gives well-formed calls of the tools, written as the template writes them."""
    own = family(name)
    tools = [*TOOLS[:2], TEXTS]
    start = AnswerGrammar(own, tool_call_grammar(own, tools))
    written = set()
    for seed in range(20):
        ids = walk(own, start.fork(), seed)
        reply = parse_reply(own, ids, starts_in_thinking=False, tools=tools)
        assert reply.tool_calls and not reply.content and not reply.malformed_calls, (
            own.decode(ids)
        )
        for call in reply.tool_calls:
            if call["name"] == "add":
                assert {type(value) for value in call["arguments"].values()} == {int}
                written.add(own.decode(ids).lstrip("\n")[: len(FORMS[name])])
            elif call["name"] == "say":
                assert {type(value) for value in call["arguments"].values()} == {str}
                assert call["arguments"]["tone"] in ("low", "high")
                assert call["arguments"]["to"] == "all"
            else:
                assert call["arguments"]["who"] in ("Ada", "</tool_call>")
    assert FORMS[name] in written


TEXT = {"type": "string"}
WRITE = {
    "name": "write",
    "parameters": {
        "type": "object",
        "properties": {"path": TEXT, "text": TEXT, "times": {"type": "integer"}},
        "required": ["path", "text"],
        "additionalProperties": False,
    },
}


@pytest.mark.parametrize(
    "text", ["", "x", "if a < b:\n    print(a)\n", "</p>\n<parameter>"]
)
def test_a_forced_call_between_tags_may_hold_any_text_and_ends_after_it(
    family: Callable[[str], Tokenizer], text: str
) -> None:
    own = family("parameters-form")
    grammar = AnswerGrammar(own, tool_call_grammar(own, [WRITE]))
    values = {"path": "a.py", "text": text, "times": 2}
    written = "<tool_call>\n<function=write>\n"
    for key, value in values.items():
        written += f"<parameter={key}>\n{value}\n</parameter>\n"
    ids = own.encode(f"{written}</function>\n</tool_call>", allow_special=True)
    for token_id in ids:
        grammar.accept(token_id)
    assert grammar.allowed()[grammar.end_ids[0]]
    reply = parse_reply(own, ids, starts_in_thinking=False, tools=[WRITE])
    assert [call["arguments"] for call in reply.tool_calls] == [values]


@pytest.mark.parametrize(
    ("more", "fits"),
    [
        ({"enum": None}, True),
        ({"const": None}, True),
        ({"enum": None, "const": "a"}, False),
        ({"enum": ["a"], "const": None}, False),
    ],
)
def test_choices_of_a_text_that_are_null_are_none(
    family: Callable[[str], Tokenizer], more: dict[str, Any], fits: bool
) -> None:
    own = family("parameters-form")
    schema = {"properties": {"p": {**TEXT, **more}}, "required": ["p"]}
    grammar = AnswerGrammar(
        own, tool_call_grammar(own, [{"name": "f", "parameters": schema}])
    )
    opening = "<tool_call>\n<function=f>\n<parameter=p>\n"
    for token_id in own.encode(opening, allow_special=True):
        grammar.accept(token_id)
    assert (grammar.allowed()[own.encode("z")[0]] != 0) == fits
    assert grammar.allowed()[own.encode("a")[0]]


def test_a_text_that_may_be_none_of_its_choices_is_refused_by_name(
    family: Callable[[str], Tokenizer],
) -> None:
    tool = {"name": "f", "parameters": {"properties": {"p": {**TEXT, "enum": [1]}}}}
    with pytest.raises(OpenQwQError, match=r"parameter p is a string, but \[1\] names no"):
        tool_call_grammar(family("parameters-form"), [tool])


SCHEMAS: list[tuple[dict[str, Any], Callable[[Any], bool]]] = [
    (
        {"$ref": "#/definitions/A", "definitions": {"A": INTEGERS}},
        lambda value: set(value) == {"a", "b"},
    ),
    (
        {
            "type": "object",
            "properties": {"x": {"enum": [7]}, "y": {"$ref": "#/properties/x"}},
            "required": ["x", "y"],
            "additionalProperties": False,
        },
        lambda value: value == {"x": 7, "y": 7},
    ),
    (
        {
            "type": "object",
            "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
            "required": ["next"],
            "additionalProperties": False,
        },
        lambda value: (
            set(value) == {"next"} and (value["next"] is None or "next" in value["next"])
        ),
    ),
    (
        {"properties": {"x": {"enum": [7]}}, "additionalProperties": False},
        lambda value: value in ({}, {"x": 7}),
    ),
]


@pytest.mark.parametrize(
    ("schema", "fits"), SCHEMAS, ids=["definition", "property", "root", "bare"]
)
def test_references_are_those_of_the_tools_own_schema(
    tokenizer: Tokenizer, schema: dict[str, Any], fits: Callable[[Any], bool]
) -> None:
    tool = {"name": "f", "parameters": schema}
    for reply in walks(tokenizer, tool_call_grammar(tokenizer, [tool], parallel=False), 8):
        (call,) = reply.tool_calls
        assert fits(call["arguments"])


@pytest.mark.parametrize("name", ["pythonic-form", "parameters-form"])
def test_references_of_single_arguments_lead_into_the_whole_schema(
    family: Callable[[str], Tokenizer], name: str
) -> None:
    own = family(name)
    properties = {
        "x": {"enum": [7]},
        "y": {"$ref": "#/properties/x"},
        "z": {"type": "array", "items": {"$ref": "#/definitions/A"}, "minItems": 1},
    }
    schema = {
        "properties": properties,
        "required": [*properties],
        "definitions": {"A": {"const": 8}},
    }
    tools = [{"name": "f", "parameters": schema}]
    start = AnswerGrammar(own, tool_call_grammar(own, tools, parallel=False))
    for seed in range(4):
        ids = walk(own, start.fork(), seed)
        (call,) = parse_reply(own, ids, starts_in_thinking=False, tools=tools).tool_calls
        assert (call["arguments"]["x"], call["arguments"]["y"]) == (7, 7)
        assert set(call["arguments"]["z"]) == {8}


def test_a_thinking_may_be_opened_before_a_grammar_begins(tokenizer: Tokenizer) -> None:
    opening = tokenizer.think_open_id
    assert opening is not None
    grammar = AnswerGrammar(tokenizer, opening_first(json_grammar({"enum": [12]}), opening))
    allowed = [i for i, may in enumerate(grammar.allowed()) if may]
    assert opening in allowed and tokenizer.encode("1")[0] in allowed
    grammar.accept(opening)
    assert set(tokenizer.eos_ids) == {i for i, may in enumerate(grammar.allowed()) if may}


def test_a_grammar_is_compiled_once_for_all_who_follow_it(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    compile_grammar = AnswerGrammar.__init__

    def counted(self: AnswerGrammar, own: Tokenizer, grammar: str) -> None:
        made.append(grammar)
        compile_grammar(self, own, grammar)

    monkeypatch.setattr(AnswerGrammar, "__init__", counted)
    grammar = json_grammar({"enum": ["once", "twice"]})
    first = answer_grammar(tokenizer, grammar)
    before = first.allowed()
    walk(tokenizer, first, seed=0)
    # the first one's way is its own
    assert answer_grammar(tokenizer, grammar).allowed() == before
    assert made == [grammar]
