"""Where a reply ends, and the ids of one that a model is to learn."""

from typing import Any

import pytest

from openqwq.text.template import encode_chat, encode_reply, end_of_turn_ids
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Message, OpenQwQError

CHATML = """{% for message in messages %}
{{ '<|im_start|>' ~ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
QWEN3 = """{% for message in messages %}
{{ '<|im_start|>' ~ message.role }}
{% if message.role == 'assistant' and loop.last %}<think>

</think>

{% endif %}{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
HI: Message = {"role": "user", "content": "Hi"}
CALL = {"name": "add", "arguments": {"x": 1}}


def with_template(
    tokenizer: Tokenizer, template: Any, eos: str = "<|endoftext|>"
) -> Tokenizer:
    """The same vocabulary as a base model has it: its eos is not the template's end of turn."""
    config = {**tokenizer.config, "chat_template": template, "eos_token": eos}
    return Tokenizer(tokenizer._backend, config, [], "base")


def reply_of(tokenizer: Tokenizer, reply: Message) -> str:
    prompt, ids = encode_reply(tokenizer, [HI], reply)
    assert prompt == encode_chat(tokenizer, [HI])
    assert ids[-1] == end_of_turn_ids(tokenizer)[0]
    return tokenizer.decode(ids)


def said(content: str, **more: Any) -> Message:
    return {"role": "assistant", "content": content, **more}  # type: ignore[typeddict-item]


def test_a_base_models_reply_ends_where_its_template_ends_a_turn(
    tokenizer: Tokenizer,
) -> None:
    own = with_template(tokenizer, CHATML)
    assert end_of_turn_ids(own) == own.eos_ids == (505, 503)
    assert own.pad_id == 503  # the named one stays


@pytest.mark.parametrize(
    "template", [None, "{{ messages[0].content }}", "{% if %}", "{{ 1 / 0 }}"]
)
def test_without_an_end_in_the_template_the_tokenizers_own_eos_counts(
    tokenizer: Tokenizer, template: str | None
) -> None:
    assert with_template(tokenizer, template).eos_ids == (503,)


def test_the_end_of_turn_is_kept_by_saving(tokenizer: Tokenizer, tmp_path: Any) -> None:
    with_template(tokenizer, CHATML).save(tmp_path)
    assert Tokenizer.load(tmp_path).eos_ids == (505, 503)


@pytest.mark.parametrize(
    "reply",
    [
        said("4", reasoning_content="2 + 2\n"),
        said("<think>\n2 + 2\n</think>\n\n4"),
        said("\n<think>2 + 2</think>4"),
    ],
    ids=["field", "inline", "inline without newlines"],
)
def test_thinking_is_taught_where_the_prompt_leaves_off(
    tokenizer: Tokenizer, reply: Message
) -> None:
    assert reply_of(tokenizer, reply) == "2 + 2\n</think>\n\n4<|im_end|>"
    own = with_template(tokenizer, CHATML)
    assert reply_of(own, reply) == "<think>\n2 + 2\n</think>\n\n4<|im_end|>"
    _, ids = encode_reply(own, [HI], reply)
    assert own.think_open_id in ids and own.think_close_id in ids


def test_a_reply_without_thinking_closes_what_the_prompt_opened(
    tokenizer: Tokenizer,
) -> None:
    assert reply_of(tokenizer, said("4")) == "\n</think>\n\n4<|im_end|>"
    assert reply_of(with_template(tokenizer, CHATML), said("4")) == "4<|im_end|>"
    written = reply_of(with_template(tokenizer, QWEN3), said("4"))
    assert written == "<think>\n\n</think>\n\n4<|im_end|>"


def test_thinking_takes_the_place_of_a_templates_empty_one(tokenizer: Tokenizer) -> None:
    own = with_template(tokenizer, QWEN3)
    assert reply_of(own, said("4", reasoning_content="hm")) == (
        "<think>\nhm\n</think>\n\n4<|im_end|>"
    )


def test_calls_are_taught_as_the_template_writes_them(tokenizer: Tokenizer) -> None:
    call = '<tool_call>\n{"name": "add", "arguments": {"x": 1}}\n</tool_call>'
    alone = reply_of(tokenizer, said("", reasoning_content="hm", tool_calls=[CALL]))
    assert alone == f"hm\n</think>\n\n{call}<|im_end|>"
    after = reply_of(tokenizer, said("Adding.", tool_calls=[CALL]))
    assert after == f"\n</think>\n\nAdding.\n{call}<|im_end|>"
    _, ids = encode_reply(tokenizer, [HI], said("", tool_calls=[CALL]))
    assert tokenizer.tool_call_open_id in ids


def test_text_like_a_marker_is_taught_as_text(tokenizer: Tokenizer) -> None:
    _, ids = encode_reply(
        tokenizer, [HI], said("use <|im_end|>", reasoning_content="<|im_start|>")
    )
    assert ids.count(505) == 1 and 504 not in ids
    assert tokenizer.decode(ids) == "<|im_start|>\n</think>\n\nuse <|im_end|><|im_end|>"


def test_what_a_template_would_drop_is_not_taught_unseen(tokenizer: Tokenizer) -> None:
    quiet = CHATML.replace(
        "{{ message.content }}", "{{ message.content | replace('k', '') }}"
    )
    with pytest.raises(OpenQwQError, match="does not show 'ok'"):
        encode_reply(with_template(tokenizer, quiet), [HI], said("ok"))
    mute = with_template(tokenizer, "{{ messages[0].content }}<|im_end|>")
    with pytest.raises(OpenQwQError, match="does not show what an assistant says"):
        encode_reply(mute, [HI], said("ok"))
    with pytest.raises(OpenQwQError, match="never closes it"):
        encode_reply(tokenizer, [HI], said("<think>ok"))


def test_generation_tags_are_read(tokenizer: Tokenizer) -> None:
    tags = "{% generation %}{{ message.content }}{% endgeneration %}"
    tagged = CHATML.replace("{{ message.content }}", tags)
    own = with_template(tokenizer, tagged)
    assert own.eos_ids[0] == 505
    plain = encode_chat(with_template(tokenizer, CHATML), [HI, said("a"), HI])
    assert encode_chat(own, [HI, said("a"), HI]) == plain


def test_of_named_templates_the_one_for_tools_serves_tools(
    tokenizer: Tokenizer, tmp_path: Any
) -> None:
    named = [
        {"name": "default", "template": CHATML},
        {"name": "tool_use", "template": "{{ tools[0].function.name }}<|im_end|>"},
    ]
    own = with_template(tokenizer, named)
    assert own.eos_ids[0] == 505
    assert (
        own.decode(encode_chat(own, [HI], [{"function": {"name": "f"}}])) == "f<|im_end|>"
    )
    assert own.decode(encode_chat(own, [HI])).startswith("<|im_start|>user\nHi")
    own.save(tmp_path)
    assert Tokenizer.load(tmp_path).chat_templates == own.chat_templates
    with pytest.raises(OpenQwQError, match="neither text nor a list of named templates"):
        with_template(tokenizer, [{"name": "default"}])


def test_templates_in_files_of_their_own_are_found(
    tokenizer: Tokenizer, tmp_path: Any
) -> None:
    with_template(tokenizer, CHATML).save(tmp_path)
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    assert Tokenizer.load(tmp_path).chat_templates == {
        "default": CHATML,
        "tool_use": "tools",
    }


def test_a_template_that_assembles_its_markers_serves_messages_without_any(
    tokenizer: Tokenizer,
) -> None:
    own = with_template(tokenizer, "{{ '<|im_' ~ 'end|>' ~ messages[0].content }}")
    assert encode_chat(own, [HI]) == [505, *own.encode("Hi")]
    with pytest.raises(OpenQwQError, match="mixes its markers"):
        encode_chat(own, [{"role": "user", "content": "<think>"}])
