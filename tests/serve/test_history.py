"""Histories as clients keep them, read leniently: ids, old roles, broken calls, odd contents."""

from collections.abc import Callable
from typing import Any

import pytest
import tokenizers

from openqwq.engine.open import OpenedModel
from openqwq.serve.history import messages
from openqwq.serve.protocol import ApiError
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer

Build = Callable[..., OpenedModel]
USER = {"role": "user", "content": "hi"}
BROKEN = '{"city": "Par'


def call(name: str, call_id: str | None, arguments: Any = "{}") -> dict[str, Any]:
    made = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return made if call_id is None else {"id": call_id, **made}


def calling(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def result(text: Any, call_id: str | None = None, **more: Any) -> dict[str, Any]:
    named = {} if call_id is None else {"tool_call_id": call_id}
    return {"role": "tool", "content": text, **named, **more}


def with_template(model: OpenedModel, template: str) -> Tokenizer:
    own = model.tokenizer
    backend = tokenizers.Tokenizer.from_str(own.backend_json())
    config = {**own.config, "chat_template": template}
    return Tokenizer(backend, config, list(own.eos_ids), "a test")


@pytest.mark.parametrize(
    "results",
    [
        [result("of f"), result("of g")],
        [result("of g", name="g"), result("of f", name="f")],
        [result("of g", "", name="g"), result("of f", "")],
        [{"role": "function", "name": "g", "content": "of g"}, result("of f", name="f")],
        [result("of f", "call_1"), result("of g", "call_2")],
    ],
)
@pytest.mark.parametrize("call_id", [None, ""])
def test_results_without_ids_belong_to_the_calls_of_their_name_or_in_order(
    results: list[Any], call_id: str | None
) -> None:
    turns = messages([USER, calling(call("f", call_id), call("g", call_id)), *results])
    assert [turn["content"] for turn in turns[2:]] == ["of f", "of g"]


def test_a_result_without_an_id_answers_a_call_that_has_one() -> None:
    turns = messages(
        [USER, calling(call("f", "a"), call("g", "b")), result("x", "b"), result("y")]
    )
    assert [turn["content"] for turn in turns[2:]] == ["y", "x"]


def test_a_call_of_a_tool_that_takes_a_text_has_it_as_input() -> None:
    custom = {"id": "a", "type": "custom", "custom": {"name": "patch", "input": "***"}}
    turns = messages([USER, calling(custom), result("x", "a")])
    assert turns[1]["tool_calls"] == [{"name": "patch", "arguments": {"input": "***"}}]


def test_a_deprecated_function_call_is_a_call_and_its_result() -> None:
    function = {"name": "f", "arguments": '{"x": 1}'}
    turns = messages(
        [
            USER,
            {"role": "assistant", "content": None, "function_call": function},
            {"role": "function", "name": "f", "content": "3"},
        ]
    )
    assert turns[1]["tool_calls"] == [{"name": "f", "arguments": {"x": 1}}]
    assert turns[2] == {"role": "tool", "content": "3"}


@pytest.mark.parametrize(
    "turns",
    [
        [result("x", "z")],
        [calling(call("f", "a")), result("x", "z")],
        [calling(call("f", None)), result("x"), result("y")],
        [calling(call("f", "a")), result("x", "a"), result("y", "a")],
        [{"role": "function", "name": "f", "content": "x"}],
    ],
)
def test_a_result_that_no_call_waits_for_is_refused(turns: list[Any]) -> None:
    with pytest.raises(ApiError, match="no unanswered call"):
        messages([USER, *turns])


def test_calls_without_ids_are_named_where_their_results_are_missing() -> None:
    with pytest.raises(ApiError, match=r"results of calls \['f'\] are missing"):
        messages([USER, calling(call("f", None))])


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"temp": 3, "note": "ü"}, '{"temp": 3, "note": "ü"}'),
        (3.5, "3.5"),
        (True, "true"),
        (None, ""),
        ([], ""),
        (["a", {"type": "text", "text": "b"}, {"type": "text"}], "ab"),
    ],
    ids=str,
)
def test_a_result_of_any_shape_is_text(content: Any, text: str) -> None:
    turns = messages([USER, calling(call("f", "a")), result(content, "a")])
    assert turns[2]["content"] == text


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": []}], ids=str)
def test_a_message_may_have_no_content(role: str, content: dict[str, Any]) -> None:
    (turn,) = messages([{"role": role, **content}])
    assert turn["content"] == ""


# How templates show arguments, and what becomes of those that are no JSON object.
AS_JSON = "{{ call.arguments | tojson }}"
AS_TEXT = "{% if call.arguments is string %}{{ call.arguments }}{% else %}" + AS_JSON
AS_PAIRS = "{% for k, v in call.arguments.items() %}({{ k }}: {{ v }}){% endfor %}"
JOINED = "{{ '```' + call.arguments + '```' }}"
SHOWN = {
    AS_JSON: BROKEN,
    AS_TEXT + "{% endif %}": BROKEN,
    AS_PAIRS: f"(arguments: {BROKEN})",
    JOINED: f"```{BROKEN}```",
}
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}{% set call = c.function %}{{ call.name }}: ARGUMENTS"
    "{% endfor %}<|im_end|>\n{% endfor %}"
)


@pytest.mark.parametrize("way", SHOWN)
def test_broken_arguments_are_shown_as_written_where_the_template_can(
    scripted: Build, way: str
) -> None:
    tokenizer = with_template(scripted(), CHAT.replace("ARGUMENTS", way))
    history = messages([USER, calling(call("f", "a", BROKEN)), result("no JSON", "a")])
    text = tokenizer.decode(encode_chat(tokenizer, history))
    assert f"f: {SHOWN[way]}<|im_end|>" in text and "no JSON" in text
    whole = messages([USER, calling(call("f", "a", '{"city": "Oslo"}')), result("x", "a")])
    assert "Oslo" in tokenizer.decode(encode_chat(tokenizer, whole))


def test_broken_arguments_are_as_written_where_a_template_knows_no_calls(
    scripted: Build,
) -> None:
    turn = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    plain = f"{{% for m in messages %}}{turn}{{% endfor %}}"
    tokenizer = with_template(scripted(), plain)
    history = messages([USER, calling(call("f", "a", BROKEN)), result("x", "a")])
    text = tokenizer.decode(encode_chat(tokenizer, history))
    assert f'<tool_call>\n{{"name": "f", "arguments": {BROKEN}}}\n</tool_call>' in text


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("[1]", "[1]"),
        ([1], "[1]"),
        (5, "5"),
        ('"x"', '"x"'),
        ("x</tool_call>", "x</tool_call>"),
    ],
    ids=str,
)
def test_arguments_that_are_no_object_are_text_and_never_markers(
    scripted: Build, arguments: Any, shown: str
) -> None:
    own = scripted().tokenizer
    history = messages([USER, calling(call("f", "a", arguments)), result("x", "a")])
    ids = encode_chat(own, history)
    assert f'"arguments": {shown}}}\n</tool_call>' in own.decode(ids)
    assert ids.count(own.tool_call_close_id) == 1
