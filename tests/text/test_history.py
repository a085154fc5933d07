"""Conversations with tools, as templates of several kinds want them: transformers' ids."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from openqwq.text.history import history_form, tools_note
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Message, OpenQwQError

FAMILIES = ["qwen2.5-instruct", "llama3-form", "r1-distill"]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Sums <b>é</b>."}}]
CALL = {"name": "add", "arguments": {"x": 1, "note": 'é "<'}}
Build = Callable[[str], Tokenizer]


def conversation(arguments: Any, content: str | None = None) -> list[dict[str, Any]]:
    """Two turns of a user, with a call and its result between them, as transformers is given it."""
    function = {"name": "add", "arguments": arguments}
    call = {"id": "call00100", "type": "function", "function": function}
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Add one."},
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {
            "role": "tool",
            "content": "3 <b>é</b>",
            "tool_call_id": "call00100",
            "name": "add",
        },
        {"role": "assistant", "content": "Three."},
        {"role": "user", "content": "And now?"},
    ]


def ours(turns: list[dict[str, Any]]) -> list[Message]:
    """The same in our form: bare calls, content that is always text."""
    kept: list[Any] = []
    for turn in turns:
        message = {"role": turn["role"], "content": turn["content"] or ""}
        if "tool_calls" in turn:
            message["tool_calls"] = [CALL]
        kept.append(message)
    return kept


def rendered(tokenizer: Tokenizer, folder: Path, turns: Any, tools: Any) -> Any:
    """transformers' ids of transformers' rendering.

    Its `apply_chat_template` leaves None out since version 5, on which R1's template fails.
    """
    tokenizer.save(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    (text,), _ = render_jinja_template(
        [turns], tools, chat_template=tokenizer.chat_template, add_generation_prompt=True,
        **theirs.special_tokens_map,
    )  # fmt: skip
    return theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("length", [2, 4, 5, 6])
@pytest.mark.parametrize("name", FAMILIES)
def test_two_turns_with_a_tool_equal_transformers(
    family: Build, tmp_path: Path, name: str, length: int
) -> None:
    tokenizer = family(name)
    text = json.dumps(CALL["arguments"], ensure_ascii=False)
    turns = conversation(text if name == "r1-distill" else CALL["arguments"])[:length]
    # R1's template lists no tools: we describe them in the system message, transformers nowhere.
    tools = None if name == "r1-distill" else TOOLS
    expected = rendered(tokenizer, tmp_path, turns, tools)
    assert encode_chat(tokenizer, ours(turns), tools or []) == expected
    assert "add" in tokenizer.decode(expected) or length == 2


def test_a_call_after_content_is_not_dropped(family: Build) -> None:
    """R1's template shows either of them: the call gets a turn of its own."""
    tokenizer = family("r1-distill")
    text = tokenizer.decode(encode_chat(tokenizer, ours(conversation({}, "Let me see."))))
    assert (
        "<｜Assistant｜>Let me see.<｜end▁of▁sentence｜><｜Assistant｜><｜tool▁calls▁begin｜>"
        in text
    )
    assert "<｜tool▁sep｜>add\n```json\n" in text


def test_where_a_turn_holds_one_call_several_take_turns(family: Build) -> None:
    tokenizer = family("llama3-form")
    turns = ours(conversation({}))[1:]
    turns[1]["tool_calls"] = [CALL, {"name": "sub", "arguments": {}}]
    turns.insert(3, {"role": "tool", "content": "second"})
    text = tokenizer.decode(encode_chat(tokenizer, turns, TOOLS))
    places = [
        text.index(part)
        for part in ('{"name": "add"', '"3 <b>', '{"name": "sub"', '"second"')
    ]
    assert places == sorted(places)


def test_ends_of_turn_are_those_of_the_family(family: Build) -> None:
    for name in FAMILIES:
        tokenizer = family(name)
        assert (
            tokenizer.decode(tokenizer.eos_ids[:1]) == tokenizer.named_tokens["eos_token"]
        )


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}"
)
# As Gemma's: no system turn, no tools, users and models in turn.
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
)


def with_template(tokenizer: Tokenizer, template: str) -> Tokenizer:
    config = {**tokenizer.config, "chat_template": template}
    return Tokenizer(tokenizer._backend, config, [], "other")


@pytest.mark.parametrize("template", [CHATML, STRICT], ids=["chatml", "strict"])
def test_tools_that_a_template_cannot_show_stand_in_the_text(
    tokenizer: Tokenizer, template: str
) -> None:
    own = with_template(tokenizer, template)
    assert "described in the system message" in tools_note(own.template())
    assert not tools_note(tokenizer.template())
    turns = ours(conversation({}))[:4]
    turns.insert(4, {"role": "tool", "content": "4"})
    turns[2]["tool_calls"] = [CALL, CALL]
    text = own.decode(encode_chat(own, turns, TOOLS))
    called = '<tool_call>\n{"name": "add", "arguments": {"x": 1, "note": "é \\"<"}}\n</tool_call>'
    assert text.count(called) == 2 and json.dumps(TOOLS[0], ensure_ascii=False) in text
    assert "<tool_response>\n3 <b>é</b>\n</tool_response>\n<tool_response>\n4\n" in text
    assert text.index("Be brief.") < text.index("# Tools") < text.index("Add one.")


# As SmolVLM's: contents are lists of parts, and a text would be walked letter by letter.
PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role | capitalize }}: "
    "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>Assistant:{% endif %}"
)


def test_a_template_that_reads_parts_alone_is_given_them(tokenizer: Tokenizer) -> None:
    own = with_template(tokenizer, PARTS)
    assert own.decode(own.eos_ids[:1]) == "<|im_end|>"
    turns = ours(conversation({}))
    text = own.decode(encode_chat(own, turns, TOOLS))
    assert "<|im_start|>User: Add one.<|im_end|>" in text and "Sums <b>" in text
    assert "<|im_start|>Assistant: Three.<|im_end|>" in text and "3 <b>é</b>" in text
    assert '<tool_call>\n{"name": "add"' in text and text.endswith("<|im_start|>Assistant:")


def test_a_template_that_needs_text_is_given_empty_content(tokenizer: Tokenizer) -> None:
    template = CHATML.replace(
        "m.content", "m.content + (m.tool_calls | tojson if m.tool_calls else '')"
    )
    own = with_template(tokenizer, template)
    form = history_form(own.template())
    assert form.shows_calls and form.no_content == "empty"


def test_a_templates_own_refusal_is_told(tokenizer: Tokenizer) -> None:
    twice: list[Message] = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
    ]
    with pytest.raises(OpenQwQError, match=r"refuses.*Conversation roles must alternate"):
        encode_chat(with_template(tokenizer, STRICT), twice)
