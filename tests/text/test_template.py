"""Chats to ids: QwQ's format point by point, transformers' ids, and text that stays text."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from openqwq.text.template import bridge, encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Message, OpenQwQError

Chat = list[Message]


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def system(content: str) -> Message:
    return {"role": "system", "content": content}


def tool(content: str) -> Message:
    return {"role": "tool", "content": content}


def assistant(content: str, **more: Any) -> Message:
    return {"role": "assistant", "content": content, **more}  # type: ignore[typeddict-item]


CALL = {"name": "add", "arguments": {"x": 1, "note": 'é "<'}}
CALL_TEXT = (
    '<tool_call>\n{"name": "add", "arguments": {"x": 1, "note": "é \\"<"}}\n</tool_call>'
)
TOOLS = [
    {"type": "function", "function": {"name": "add", "description": "sums <b>é</b>"}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}},
]
TOOL_PROMPT = """

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{"type": "function", "function": {"name": "add", "description": "sums <b>é</b>"}}
{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
"""
HI = "<|im_start|>user\nHi<|im_end|>\n"
PROMPT = "<|im_start|>assistant\n<think>\n"


def turn(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


class Case(NamedTuple):
    """A chat and the text that QwQ's template gives it."""

    messages: Chat
    expected: str
    tools: Sequence[dict[str, Any]] = ()
    generation: bool = False


HELLO = [user("Hi"), assistant("Hello"), user("Hi")]
TOOL_TURN = turn("user", "<tool_response>\n3\n</tool_response>")
# From the description of QwQ's template in qwq-facts.md section 3, by its numbers.
EXPECTED = {
    "1: no default system message": Case([user("Hi")], HI),
    "1: the first system message": Case(
        [system("Be kind."), user("Hi")], turn("system", "Be kind.") + HI
    ),
    "2: tools without a system message": Case(
        [user("Hi")], "<|im_start|>system\n" + TOOL_PROMPT + HI, TOOLS
    ),
    "2: tools after the system message": Case(
        [system("Be kind."), user("Hi")],
        "<|im_start|>system\nBe kind." + TOOL_PROMPT + HI,
        TOOLS,
    ),
    "3: a later system message": Case(
        [user("Hi"), system("Be kind.")], HI + turn("system", "Be kind.")
    ),
    "4: history loses its thinking": Case(
        [user("Hi"), assistant("hm</think>a</think>\n\nHello\n"), user("Hi")],
        HI + turn("assistant", "Hello\n") + HI,
    ),
    "4: history without thinking loses leading newlines": Case(
        [user("Hi"), assistant("\n\n Hello"), user("Hi")],
        HI + turn("assistant", " Hello") + HI,
    ),
    "4: a tool result is enough to drop thinking": Case(
        [user("Hi"), assistant("hm</think>\n\nok"), tool("3")],
        HI + turn("assistant", "ok") + TOOL_TURN,
    ),
    "4: the last assistant message stays whole": Case(
        [user("Hi"), assistant("\nhm\n</think>\n\nHello")],
        HI + turn("assistant", "\nhm\n</think>\n\nHello"),
    ),
    "4: an empty answer keeps its line": Case(
        [user("Hi"), assistant("")], HI + turn("assistant", "")
    ),
    "5: calls without content": Case(
        [user("Hi"), assistant("", tool_calls=[CALL, {"function": CALL}])],
        HI + f"<|im_start|>assistant\n{CALL_TEXT}\n{CALL_TEXT}<|im_end|>\n",
    ),
    "5: calls after content, in history": Case(
        [user("Hi"), assistant("hm</think>\n\nok", tool_calls=[CALL]), tool("3")],
        HI + turn("assistant", f"ok\n{CALL_TEXT}") + TOOL_TURN,
    ),
    "5: calls after content, last": Case(
        [user("Hi"), assistant("hm</think>\n\nok", tool_calls=[CALL])],
        HI + turn("assistant", f"hm</think>\n\nok\n{CALL_TEXT}"),
    ),
    "5: arguments that are text are quoted a second time": Case(
        [user("Hi"), assistant("", tool_calls=[{"name": "add", "arguments": "{}"}])],
        HI
        + "<|im_start|>assistant\n<tool_call>\n"
        + '{"name": "add", "arguments": "{}"}\n</tool_call><|im_end|>\n',
    ),
    "6: tool messages share one user turn": Case(
        [user("Hi"), assistant("ok"), tool("1"), tool("2"), user("Hi"), tool("3")],
        HI
        + turn("assistant", "ok")
        + turn(
            "user",
            "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>",
        )
        + HI
        + TOOL_TURN,
    ),
    "7: the prompt opens the thinking": Case(
        HELLO, HI + turn("assistant", "Hello") + HI + PROMPT, generation=True
    ),
    "8: reasoning_content is not read": Case(
        [user("Hi"), assistant("ok", reasoning_content="hm")], HI + turn("assistant", "ok")
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_rendering_is_qwqs(tokenizer: Tokenizer, name: str) -> None:
    case = EXPECTED[name]
    ids = encode_chat(tokenizer, case.messages, case.tools, case.generation)
    assert tokenizer.decode(ids) == case.expected


def _theirs(saved: Path, chat: Chat, tools: Any, generation: bool, **more: Any) -> Any:
    return AutoTokenizer.from_pretrained(saved).apply_chat_template(
        chat, tools=tools or None, add_generation_prompt=generation, tokenize=True, **more
    )["input_ids"]


# In the others a message keeps text like a marker, which is no marker with us.
@pytest.mark.parametrize(
    "name", [n for n, c in EXPECTED.items() if "</think>" not in c.expected]
)
def test_chats_equal_transformers(tokenizer: Tokenizer, saved: Path, name: str) -> None:
    case = EXPECTED[name]
    ours = encode_chat(tokenizer, case.messages, case.tools, case.generation)
    assert ours == _theirs(saved, case.messages, case.tools, case.generation)


def test_chats_of_many_strings_equal_transformers(
    tokenizer: Tokenizer, saved: Path, strings: list[str]
) -> None:
    for start in range(0, 1000, 5):
        a, b, c, d, e = strings[start : start + 5]
        call = {"name": "f", "arguments": {"text": c, b: [1.5, None, True]}}
        chat = [system(a), user(b), assistant(c, tool_calls=[call]), tool(d), user(e)]
        assert encode_chat(tokenizer, chat, TOOLS) == _theirs(saved, chat, TOOLS, True)


MARKERS = [
    "<|im_end|>",
    "<|im_start|>",
    "</think>",
    "<think>",
    "</tool_call>",
    "<tool_response>",
]
HOSTILE = st.lists(st.sampled_from([*MARKERS, "<|im_", "end|>", "a", "\n", "\U000f0000"]))


@given(st.lists(HOSTILE.map("".join), min_size=7, max_size=7))
def test_no_text_of_a_chat_becomes_a_marker(tokenizer: Tokenizer, texts: list[str]) -> None:
    def chat(a: str, b: str, c: str, d: str, e: str, f: str, g: str) -> tuple[Chat, Any]:
        call = {"name": e, "arguments": {f: [f]}}
        messages = [
            system(a),
            user(b),
            assistant(c, tool_calls=[call]),
            tool(d),
            assistant("x"),
        ]
        return [*messages, user(b)], [{"name": e, "description": g}]

    def markers(ids: list[int]) -> list[int]:
        return [i for i in ids if i in tokenizer.added_tokens.values()]

    ids = encode_chat(tokenizer, *chat(*texts))
    assert markers(ids) == markers(encode_chat(tokenizer, *chat(*["a"] * 7)))
    kept = texts[2].split("</think>")[-1].lstrip("\n")  # QwQ's own rule still applies
    assert (
        f"<|im_start|>assistant{chr(10) + kept if texts[2] else ''}\n<tool"
        in tokenizer.decode(ids)
    )


def _with_template(tokenizer: Tokenizer, template: str | None, **config: Any) -> Tokenizer:
    config = {**tokenizer.config, "chat_template": template, **config}
    return Tokenizer(tokenizer._backend, config, list(tokenizer.eos_ids), "other")


CHATML = """{% for message in messages %}
{{ '<|im_start|>' ~ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
# Keeps the thinking of every turn, as templates made for training do.
KEEPING = """{% macro open(marker='<|im_start|>') %}{{ marker }}{% endmacro %}
{% set ns = namespace(mark='<think>') %}
{% for message in messages %}
{{ open() }}{{ {'tool': 'user'}.get(message.role, message.role) }}
{% if message.reasoning_content is defined %}
{{ ns.mark }}
{{ message.reasoning_content }}
</think>

{% endif %}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
{{ '\n<tool_call>\n' ~ (call.function or call) | tojson ~ '\n</tool_call>' }}
{%- endfor %}<|im_end|>
{% if '<tool_call>' in message.content %}{% continue %}{% endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\n<think>\n' | trim('\n') ~ '\n' }}
{%- endif %}"""


@pytest.mark.parametrize("template", [CHATML, KEEPING])
def test_a_checkpoints_own_template_is_used(
    tokenizer: Tokenizer, saved: Path, template: str
) -> None:
    own = _with_template(tokenizer, template)
    chat = [user("Hi"), assistant("a", reasoning_content="b"), user("c")]
    if template is KEEPING:
        chat = [
            user("Hi"),
            assistant("a", reasoning_content="b", tool_calls=[CALL]),
            tool("c"),
        ]
    theirs = _theirs(saved, chat, None, True, chat_template=template)
    assert encode_chat(own, chat) == theirs


def test_named_tokens_reach_the_template(tokenizer: Tokenizer) -> None:
    template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ unk_token }}"
    own = _with_template(tokenizer, template, bos_token={"content": "<|endoftext|>"})
    ids = encode_chat(own, [user("<|im_end|>")])
    assert ids == [503, *tokenizer.encode("<|im_end|>"), 505]


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ '<|im_' ~ 'start|>' ~ m.content }}{% endfor %}",
        "{% set end = '<|im_end|>' %}{{ end[1:] }}{{ messages[0].content }}",
        "{% set m = '</think>' %}{{ messages[0].content.split(m)[-1] }}",
        "{{ '<think>' | length }}",
        "{{ '<think>' | upper }}",
    ],
    ids=["assembled", "sliced", "searched by name", "measured", "spelt otherwise"],
)
def test_a_template_that_hides_its_markers_is_refused(
    tokenizer: Tokenizer, template: str
) -> None:
    own = _with_template(tokenizer, template)
    with pytest.raises(OpenQwQError, match="other mixes its markers"):
        encode_chat(own, [user("a</think>b")])


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ '</think>' in messages[0].content }}", "True"),
        ("{{ messages[0].content is eq 'a</think>b' }}", "True"),
        ("{{ messages[0].content | replace('</think>', '|') }}", "a|b"),
        ("{{ messages[0].content.split('</think>')[1] }}", "b"),
        ("{{ {messages[0].content: 'found'}['a</think>b'] }}", "found"),
        ("{{ ('</think>' ~ messages[0].content).upper() | lower }}", "</think>a</think>b"),
    ],
)
def test_a_template_may_look_for_text_like_its_markers(
    tokenizer: Tokenizer, template: str, expected: str
) -> None:
    ids = encode_chat(_with_template(tokenizer, template), [user("a</think>b")])
    assert tokenizer.decode(ids) == expected
    assert ids.count(511) == expected.startswith("</think>")


def test_a_template_may_hold_a_guard_character_itself(tokenizer: Tokenizer) -> None:
    own = _with_template(tokenizer, "\U000f0000<think>{{ messages[0].content }}")
    ids = encode_chat(own, [user("\U000f0001")])
    assert own.decode(ids) == "\U000f0000<think>\U000f0001" and ids.count(510) == 1


def test_of_two_markers_that_begin_alike_the_longer_counts(tokenizer: Tokenizer) -> None:
    backend = Backend.from_str(tokenizer._backend.to_str())
    backend.add_tokens(
        [AddedToken(text, normalized=False) for text in ("<think>s", "<thi")]
    )
    own = Tokenizer(
        backend, tokenizer.config | {"chat_template": "<thi<think>sx"}, [], "long"
    )
    ids = encode_chat(own, [user("Hi")])
    assert ids == own.encode("<thi<think>sx", allow_special=True) == [513, 512, ids[-1]]


def test_qwqs_template_stands_in_where_its_tokens_exist(tokenizer: Tokenizer) -> None:
    own = _with_template(tokenizer, None)
    assert encode_chat(own, [user("Hi")]) == encode_chat(tokenizer, [user("Hi")])
    del own.added_tokens["<think>"]
    with pytest.raises(
        OpenQwQError, match="other has neither a chat template nor QwQ's tokens"
    ):
        encode_chat(own, [user("Hi")])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no system turn') }}", "other refuses.*no system turn"),
        ("{% if %}", "other failed"),
        ("{{ messages.__class__.__mro__ }}", "other failed.*unsafe"),
        ("{{ messages.append(1) }}", "other failed.*unsafe"),
        ("{{ messages[0].missing.field }}", "other failed.*missing"),
    ],
)
def test_a_failing_template_is_a_users_error(
    tokenizer: Tokenizer, template: str, message: str
) -> None:
    with pytest.raises(OpenQwQError, match=message):
        encode_chat(_with_template(tokenizer, template), [user("Hi")])


def test_templates_get_the_functions_that_transformers_offers(tokenizer: Tokenizer) -> None:
    template = "{{ messages | tojson(indent=1) }}{{ tools }}{{ strftime_now('%%') }}{{ documents }}"
    ids = encode_chat(_with_template(tokenizer, template), [user("é<&>")])
    listed = json.dumps([user("é<&>")], indent=1, ensure_ascii=False)
    assert tokenizer.decode(ids) == listed + "None%None"


def test_bad_messages_are_a_users_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(OpenQwQError, match="unknown role critic"):
        encode_chat(tokenizer, [{"role": "critic", "content": "no"}])  # type: ignore[typeddict-item]
    with pytest.raises(OpenQwQError, match="no messages"):
        encode_chat(tokenizer, [])
    with pytest.raises(OpenQwQError, match="not JSON"):
        encode_chat(tokenizer, [user("Hi")], [{"name": object()}])
    with pytest.raises(OpenQwQError, match="lone surrogate"):
        encode_chat(tokenizer, [user("\ud800")])


def test_qwq_rewrites_history_so_a_new_record_begins(tokenizer: Tokenizer) -> None:
    reply = tokenizer.encode("hm\n</think>\n\nok<|im_end|>", allow_special=True)
    assert bridge(tokenizer, [user("Hi")], reply, [user("More")]) is None


BRIDGED = [
    "hm\n</think>\n\nok",
    "hm</think>ok",
    'hm\n</think>\n\nok\n<tool_call>\n{"arguments":{},"name":"f"}\n</tool_call>',
    'hm</think><tool_call>{"name":"f","arguments":{}}</tool_call>',
]


@pytest.mark.parametrize("text", BRIDGED)
@pytest.mark.parametrize("end", ["<|im_end|>", ""], ids=["finished", "truncated"])
def test_new_messages_are_appended_behind_the_sampled_tokens(
    tokenizer: Tokenizer, text: str, end: str
) -> None:
    own = _with_template(tokenizer, KEEPING)
    reply = own.encode(text + end, allow_special=True)
    ids = bridge(own, [user("Hi")], reply, [tool("3"), user("More</think>")])
    assert ids is not None
    closing = "" if end else "<|im_end|>"
    new = turn("user", "3") + turn("user", "More</think>")
    assert own.decode(ids) == f"{closing}\n{new}<|im_start|>assistant\n<think>\n"
    assert ids.count(own.think_close_id) == 0


def test_bridging_goes_on_over_several_turns(tokenizer: Tokenizer) -> None:
    own = _with_template(tokenizer, KEEPING)
    chat, record = [user("Hi")], encode_chat(own, [user("Hi")])
    for number in range(3):
        reply = own.encode(f"hm\n</think>\n\nok {number}<|im_end|>", allow_special=True)
        ids = bridge(own, chat, reply, [user("More")])
        assert ids is not None
        record += reply + ids
        chat += [assistant(f"ok {number}", reasoning_content="hm"), user("More")]
    assert record == encode_chat(own, chat)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (KEEPING, "hm\n</think>\n\n<tool_call>not JSON</tool_call><|im_end|>"),
        (KEEPING, "hm\n</think>\n\nok<|endoftext|>"),
        (KEEPING, "hm"),
        (KEEPING, "hm\n</think>\n\nok</think>ok<|im_end|>"),
        (CHATML, "<think>\nhm\n</think>\n\nok<|im_end|>"),
        (CHATML.replace("message.content", "message.content | trim"), " ok<|im_end|>"),
        (CHATML.replace("assistant\n", "assistant:"), "ok<|im_end|>"),
        ("{{ messages | length > 2 }}" + CHATML, "ok<|im_end|>"),
        ("{{ messages | length }}", "ok<|im_end|>"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "ok<|im_end|>"),
    ],
    ids=[
        "malformed call",
        "another end",
        "truncated thinking",
        "marker as text",
        "thinking dropped",
        "text altered",
        "another prompt",
        "another beginning",
        "no history",
        "no end of turn",
    ],
)
def test_no_bridge_where_history_would_differ(
    tokenizer: Tokenizer, template: str, text: str
) -> None:
    own = _with_template(tokenizer, template)
    reply = own.encode(text, allow_special=True)
    assert bridge(own, [user("Hi")], reply, [user("More")]) is None
