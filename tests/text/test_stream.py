"""The think/tool state machine: one parse, however a reply arrives."""

import json
import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from openqwq.text.reading import Delta
from openqwq.text.stream import Reply, ReplyParser, parse_reply, starts_in_thinking
from openqwq.text.thinking import InlineThinking, ThinkTracker
from openqwq.text.tokenizer import Tokenizer

CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
F = {"name": "f", "arguments": {"x": 1}}


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, allow_special=True)


def parse(tokenizer: Tokenizer, text: str, thinking: bool = True) -> Reply:
    return parse_reply(tokenizer, encode(tokenizer, text), thinking)


def stream(parser: ReplyParser, ids: Iterable[int]) -> list[Delta]:
    return [delta for token_id in ids for delta in parser.feed(token_id)] + parser.finish()


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("hm\n</think>\n\nHello<|im_end|>", "hm", "Hello"),
        ("hm</think>Hello\n<|im_end|>", "hm", "Hello\n"),
        ("\n\nhm\n\nso\n\n\n</think> \nHello", "hm\n\nso", " \nHello"),
        ("never closed\n", "never closed", ""),
        ("</think>\n\nHello", "", "Hello"),
        ("hm</think>\n\nHe</think>llo", "hm", "He</think>llo"),
        ("a <think> b</think>c <think> d", "a <think> b", "c <think> d"),
        ("hm</think>a<|im_start|>b<|im_end|>", "hm", "ab"),
        ("", "", ""),
        ("hm</think>", "hm", ""),
        ("hm</think>\n\n", "hm", ""),
        ("a</tool_call>b</think>c</tool_call>d", "a</tool_call>b", "c</tool_call>d"),
    ],
)
def test_the_first_close_marker_parts_thinking_from_content(
    tokenizer: Tokenizer, text: str, reasoning: str, content: str
) -> None:
    reply = parse(tokenizer, text)
    assert (reply.reasoning, reply.content) == (reasoning, content)
    assert not reply.tool_calls and not reply.malformed_calls


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("Hello", "", "Hello"),
        ("<think>\nhm\n</think>\n\nHello", "hm", "Hello"),
        ("Hello <think>hm</think>", "", "Hello <think>hm</think>"),
        ("<think>a</think>b<think>c", "a", "b<think>c"),
        ("<think>a</think>b</think>c", "a", "b</think>c"),
        ("\n\n<think>\nhm</think>Hello", "hm", "Hello"),
        (" <think>hm</think>Hello", "hm", "Hello"),
        ("</think>Hello", "", "Hello"),
        ("\n</think>\n\n</think>Hello", "", "Hello"),
        ("<think><think>\nhm</think>Hello", "hm", "Hello"),
        ("<think>\n<think>hm</think>Hello", "hm", "Hello"),
        ("<think>a</think>\n<think>b</think>Hello", "ab", "Hello"),
        ("<think>hm", "hm", ""),
    ],
)
def test_a_reply_opens_its_thinking_before_it_says_anything(
    tokenizer: Tokenizer, text: str, reasoning: str, content: str
) -> None:
    reply = parse(tokenizer, text, thinking=False)
    assert (reply.reasoning, reply.content) == (reasoning, content)


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (f"</think>\n\n{CALL}<|im_end|>", "", 1),
        (f"</think>\n\nLooking.\n{CALL}\n{CALL}\n", "Looking.", 2),
        (f"</think>a\n{CALL}\nb\n", "a\n\nb\n", 1),
        ('</think><tool_call>{"arguments":{"x":1},"name":"f","id":2}</tool_call>', "", 1),
    ],
)
def test_calls_are_cut_out_of_the_content(
    tokenizer: Tokenizer, text: str, content: str, calls: int
) -> None:
    reply = parse(tokenizer, text)
    assert reply.content == content
    assert reply.tool_calls == [F] * calls and not reply.malformed_calls


def test_a_call_inside_thinking_is_text(tokenizer: Tokenizer) -> None:
    reply = parse(tokenizer, f"I could {CALL}\n</think>\n\nNo.")
    assert reply.reasoning == f"I could {CALL}"
    assert reply.content == "No." and not reply.tool_calls and not reply.malformed_calls


@pytest.mark.parametrize(
    "text",
    [
        "not JSON",
        "",
        "[1]",
        "[" * 100_000,
        '{"name": 1, "arguments": {}}',
        '{"name": "f", "arguments": "x"}',
        '{"name": "f", "arguments": [1]}',
        '{"arguments": {}}',
        "{'name': 'f'}",
        '{"name": "f", "arguments": {"x": NaN}}',
        '{"name": "f", "arguments": {"x": 1e999}}',
        '{"name": "f", "arguments": {"x": "\\ud800"}}',
        '{"name": "f", "arguments": {"x": ' + "9" * 5000 + "}}",
        '{"name": "f", <tool_call></think><think>',
        '{"name": "f", "arguments": {"x": 1}',
    ],
)
def test_a_malformed_call_is_reported_with_its_text(
    tokenizer: Tokenizer, text: str
) -> None:
    reply = parse(tokenizer, f"</think>a\n<tool_call>{text}</tool_call>\n{CALL}")
    assert reply.malformed_calls == [text]
    assert reply.tool_calls == [F] and reply.content == "a"


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "f", "arguments": {"x": 1}}<|im_end|>',
        '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n',
        '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>',
        '<tool_call>{"name": "f", "parameters": {"x": 1}}</tool_call>',
        '<tool_call>[{"name": "f", "arguments": {"x": 1}}]</tool_call>',
        '<tool_call>{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}',
        '<tool_call>f\n{"x": 1}</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": {"x": 1}}}\n</tool_call>',
        '<tool_call>\n```json\n{"name": "f", "arguments": {"x": 1}}\n```\n</tool_call>',
    ],
    ids=[
        *("unclosed", "newline", "text", "parameters", "list", "wrapped", "name first"),
        *("brace too many", "fenced"),
    ],
)
def test_calls_are_read_as_models_write_them(tokenizer: Tokenizer, text: str) -> None:
    reply = parse(tokenizer, f"</think>a\n{text}")
    assert reply.tool_calls == [F] and reply.content == "a" and not reply.malformed_calls


@pytest.mark.parametrize("arguments", ["", ', "arguments": ""', ', "arguments": null'])
def test_a_call_without_arguments_has_none(tokenizer: Tokenizer, arguments: str) -> None:
    reply = parse(tokenizer, f'</think><tool_call>{{"name": "f"{arguments}}}</tool_call>')
    assert reply.tool_calls == [{"name": "f", "arguments": {}}]


@pytest.mark.parametrize("between", ["\n", ", ", "", "\n</tool_call>\n<tool_call>\n"])
def test_one_tag_may_hold_two_calls(tokenizer: Tokenizer, between: str) -> None:
    one = json.dumps(F)
    reply = parse(tokenizer, f"</think><tool_call>{one}{between}{one}</tool_call>b")
    assert reply.tool_calls == [F, F] and reply.content == "b"


def test_the_closing_tag_inside_of_a_string_is_part_of_it(tokenizer: Tokenizer) -> None:
    written = '<tool_call>{"name": "f", "arguments": {"x": "</tool_call>"}}</tool_call>b'
    reply = parse(tokenizer, f"</think>{written}")
    assert reply.tool_calls == [{"name": "f", "arguments": {"x": "</tool_call>"}}]
    assert reply.content == "b"


def test_a_string_without_an_end_swallows_no_later_text(tokenizer: Tokenizer) -> None:
    broken = '{"name": "f", "arguments": {"x": "1}}'
    reply = parse(tokenizer, f"</think><tool_call>{broken}</tool_call>b\n{CALL}")
    assert reply.malformed_calls == [broken]
    assert reply.content == "b" and reply.tool_calls == [F]


def test_a_cut_off_call_is_malformed(tokenizer: Tokenizer) -> None:
    reply = parse(tokenizer, '</think>a\n<tool_call>{"name": "f", "arguments": {"x"')
    assert reply.malformed_calls == ['{"name": "f", "arguments": {"x"']
    assert reply.content == "a" and not reply.tool_calls


TOOLS = [{"type": "function", "function": {"name": "f"}}, {"name": "g"}]
NO_CALLS = [
    f"Use:\n\n{CALL}\n\nDone\n",
    f"{CALL}",
    "a\n<tool_call>not JSON</tool_call>\nb",
    '<tool_call>{"name": "f", "arguments": {"x": 1}',
    '{"name": "Ada", "arguments": {}}',
    '{"name": "f"}',
    "```json\n{}\n```",
    "[1, 2]\n[f]",
    '[h(a=1)] "g"',
    "{",
    "`",
]


@pytest.mark.parametrize("text", NO_CALLS)
def test_text_that_is_no_call_is_neither_changed_nor_moved(
    tokenizer: Tokenizer, text: str
) -> None:
    ids = encode(tokenizer, f"</think>\n\n{text}")
    assert parse_reply(tokenizer, ids, tools=[]).content == text
    others = text.replace('"f"', '"h"')
    deltas = stream(
        ReplyParser(tokenizer, tools=TOOLS), encode(tokenizer, f"</think>\n\n{others}")
    )
    assert "".join(delta.raw or delta.text for delta in deltas) == others
    assert not any(delta.call for delta in deltas)


BARE = [
    '{"name": "f", "arguments": {"x": 1}}',
    '\n{"name": "f", "parameters": {"x": 1}}\n',
    '```json\n{"name": "f", "arguments": {"x": 1}}\n```',
    '<tools>\n{"name": "f", "arguments": {"x": 1}}\n</tools>',
    '[{"name": "f", "arguments": {"x": 1}}]',
    "[f(x=1)]",
    "[f(x = 1)]\n",
]


@pytest.mark.parametrize("text", BARE)
def test_a_bare_call_of_a_known_tool_is_one(tokenizer: Tokenizer, text: str) -> None:
    ids = encode(tokenizer, f"</think>\n\n{text}")
    reply = parse_reply(tokenizer, ids, tools=TOOLS)
    assert reply.tool_calls == [F] and not reply.content
    assert parse_reply(tokenizer, ids, tools=[]).content.strip() == text.strip()
    after = encode(tokenizer, f"</think>Here it is: {text}")
    assert not parse_reply(tokenizer, after, tools=TOOLS).tool_calls


def test_bare_calls_may_be_several_and_text_may_follow(tokenizer: Tokenizer) -> None:
    two = '{"name": "f", "arguments": {}}; {"name": "g", "arguments": {"y": [1]}}\nDone.'
    reply = parse_reply(tokenizer, encode(tokenizer, f"</think>{two}"), tools=TOOLS)
    assert [call["name"] for call in reply.tool_calls] == ["f", "g"]
    assert reply.content == "Done."
    python = "[g(), f(x='a', y=[True, None], z={'k': -1.5})]"
    reply = parse_reply(tokenizer, encode(tokenizer, f"</think>{python}"), tools=TOOLS)
    assert reply.tool_calls == [
        {"name": "g", "arguments": {}},
        {"name": "f", "arguments": {"x": "a", "y": [True, None], "z": {"k": -1.5}}},
    ]


def test_arguments_are_streamed_as_they_are_written(tokenizer: Tokenizer) -> None:
    parser = ReplyParser(tokenizer, tools=TOOLS, pieces=True)
    arguments = '{"text": "one } two", "n":  [1, 2]}'
    call = f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>'
    deltas = stream(parser, encode(tokenizer, f"</think>{call}"))
    pieces = [delta for delta in deltas if delta.kind == "call_arguments"]
    assert len(pieces) > 5 and {delta.index for delta in deltas} == {0}
    assert "".join(delta.text for delta in pieces) == arguments
    assert deltas[0] == Delta("call_start", "f")
    assert deltas[-1].arguments == arguments and deltas[-1].call == {
        "name": "f",
        "arguments": json.loads(arguments),
    }


def test_line_ends_that_a_string_holds_raw_are_escaped(tokenizer: Tokenizer) -> None:
    code = 'if "a\\nb":\n\treturn "\\\\"\n'
    raw = code.replace("\\", "\\\\").replace('"', '\\"')  # as JSON, but for its line ends
    written = (
        f'<tool_call>\n{{"name": "f",\n"arguments": {{"code":\n"{raw}"}}}}\n</tool_call>'
    )
    parser = ReplyParser(tokenizer, False, [{"name": "f"}], pieces=True)
    deltas: list[Delta] = []
    for token_id in tokenizer.encode(written, allow_special=True):
        deltas += parser.feed(token_id)
    pieces = "".join(delta.text for delta in deltas if delta.kind == "call_arguments")
    assert json.loads(pieces) == {"code": code}
    (call,) = [delta for delta in deltas if delta.kind == "tool_call"]
    assert call.arguments == pieces and call.call == {
        "name": "f",
        "arguments": {"code": code},
    }


def test_arguments_given_as_text_are_streamed_whole(tokenizer: Tokenizer) -> None:
    parser = ReplyParser(tokenizer, tools=TOOLS, pieces=True)
    call = '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>'
    deltas = stream(parser, encode(tokenizer, f"</think>{call}"))
    assert [delta.kind for delta in deltas] == ["call_start", "call_arguments", "tool_call"]
    assert deltas[1].text == deltas[2].arguments == '{"x": 1}'


def test_calls_are_numbered_without_the_malformed(tokenizer: Tokenizer) -> None:
    ids = encode(tokenizer, f"</think>{CALL}<tool_call></tool_call>{CALL}")
    deltas = stream(ReplyParser(tokenizer), ids)
    assert [(d.kind, d.index) for d in deltas if d.call] == [
        ("tool_call", 0),
        ("tool_call", 1),
    ]


def test_reasoning_tokens_count_neither_marker(tokenizer: Tokenizer) -> None:
    assert parse(tokenizer, "123</think>45").reasoning_tokens == 3
    assert parse(tokenizer, "<think>123</think>45", thinking=False).reasoning_tokens == 3
    assert parse(tokenizer, "123").reasoning_tokens == 3
    assert parse(tokenizer, "</think>45").reasoning_tokens == 0


def test_the_parser_tells_whether_it_is_in_the_thinking(tokenizer: Tokenizer) -> None:
    parser = ReplyParser(tokenizer)
    states = []
    for token_id in encode(tokenizer, "1</think>2</think>"):
        parser.feed(token_id)
        states.append((parser.in_thinking, parser.reasoning_tokens))
    assert states == [(True, 1), (False, 1), (False, 1), (False, 1)]


@pytest.fixture(scope="module")
def tagless(tokenizer: Tokenizer) -> Tokenizer:
    """A vocabulary in which the tags are plain text, spread over tokens."""
    backend = Tokenizer.train(["<think>\n hm </think>\n\nok</think></think>\n"] * 9, 300)
    description = json.loads(backend.backend_json())
    plain = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    description["added_tokens"] = [
        t for t in description["added_tokens"] if t["content"] in plain
    ]
    return Tokenizer(
        Backend.from_str(json.dumps(description)), backend.config, [], "tagless"
    )


TAGGED = [
    ("<think>\nhm\n</think>\n\nHello", "hm", "Hello"),
    ("\n <think>hm</think>Hello", "hm", "Hello"),
    ("<think>a</thin</think>b</think>c", "a</thin", "b</think>c"),
    ("<thin", "", "<thin"),
    ("Hello <think>hm</think>", "", "Hello <think>hm</think>"),
    ("</think>\n\nHello", "", "Hello"),
    ("<think><think>hm</think>Hello", "hm", "Hello"),
    ("<think>never closed</thi", "never closed</thi", ""),
    (" \nHello", "", " \nHello"),
]


@pytest.mark.parametrize(("text", "reasoning", "content"), TAGGED)
def test_tags_in_plain_text_part_the_thinking_too(
    tagless: Tokenizer, text: str, reasoning: str, content: str
) -> None:
    assert tagless.think_close_id is None
    reply = parse_reply(tagless, tagless.encode(text), False)
    assert (reply.reasoning, reply.content) == (reasoning, content)
    opened = text.partition("<think>")
    if opened[0].strip() == "" and opened[1]:
        inside = parse_reply(tagless, tagless.encode(opened[2]), True)
        assert (inside.reasoning, inside.content) == (reasoning, content)


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(("text", "reasoning", "content"), TAGGED)
def test_text_without_tokens_is_parted_alike(
    text: str, reasoning: str, content: str, size: int
) -> None:
    inline = InlineThinking()
    spans = []
    for start in range(0, len(text), size):
        spans += inline.read(text[start : start + size].encode())
    spans += inline.rest()
    thought = b"".join(data for thinks, data in spans if thinks).decode()
    said = b"".join(data for thinks, data in spans if not thinks).decode()
    assert thought.strip("\n") == reasoning and said.lstrip("\n") == content.lstrip("\n")


def test_in_plain_text_thinking_is_counted_without_its_tags(tagless: Tokenizer) -> None:
    def counted(text: str) -> int:
        return parse_reply(tagless, tagless.encode(text), False).reasoning_tokens

    assert counted("<think>1 2</think>ok") == len(tagless.encode("1 2"))
    assert counted("<think></think>ok") == 0
    assert counted("<think>12") == 2 and counted("ok") == 0
    tracker = ThinkTracker(tagless, True)
    changes = [tracker.feed(token_id) for token_id in tagless.encode("12</think>\n\n3")]
    assert changes.count(True) == 1 and not tracker.in_thinking


def test_a_prompt_that_ends_with_the_tag_in_plain_text_opens_the_thinking(
    tagless: Tokenizer,
) -> None:
    assert starts_in_thinking(tagless, tagless.encode("a<think>"))
    assert starts_in_thinking(tagless, tagless.encode("a<think>\n"))
    assert not starts_in_thinking(tagless, tagless.encode("<think> a"))
    assert not starts_in_thinking(tagless, [])


def test_calls_in_plain_text_are_calls(tagless: Tokenizer) -> None:
    text = f"<think>{CALL}</think>\n\nLooking <b>\n{CALL}\n"
    reply = parse_reply(tagless, tagless.encode(text), False)
    assert reply.reasoning == CALL and reply.content == "Looking <b>"
    assert reply.tool_calls == [F]


def test_a_prompt_tells_whether_its_reply_starts_in_the_thinking(
    tokenizer: Tokenizer,
) -> None:
    def starts(text: str) -> bool:
        return starts_in_thinking(tokenizer, encode(tokenizer, text))

    assert starts("a<think>\n") and starts("<think></think>a<think>")
    assert not starts("a") and not starts("<think>a</think>b") and not starts("")
    assert not starts_in_thinking(tokenizer, tokenizer.encode("<think>\n"))


def test_text_is_streamed_as_soon_as_it_is_certain(tokenizer: Tokenizer) -> None:
    parser = ReplyParser(tokenizer)
    sign = tokenizer.encode("𒀀")  # four bytes, none of them merged
    assert [parser.feed(i) for i in sign] == [[], [], [], [Delta("reasoning", "𒀀")]]
    assert parser.feed(tokenizer.encode("\n")[0]) == []
    assert parser.feed(tokenizer.encode("1")[0]) == [Delta("reasoning", "\n1")]
    assert parser.feed(sign[0]) == []
    assert parser.feed(511) == [Delta("reasoning", "\ufffd")]
    assert parser.feed(tokenizer.encode("2")[0]) == [Delta("content", "2")]
    assert parser.feed(tokenizer.encode("\n")[0]) == []
    assert parser.finish() == [Delta("content", "\n")]


def test_half_a_character_before_a_marker_is_replaced_there(tokenizer: Tokenizer) -> None:
    sign = tokenizer.encode("𒀀")
    first, second = sign[:2], sign[2:]
    reply = parse_reply(tokenizer, [*first, 511, *first, 506, *first, 507, *second, *first])
    assert (reply.reasoning, reply.content) == ("\ufffd", "\ufffd" * 4)
    assert reply.malformed_calls == ["\ufffd"]


def test_an_end_that_is_not_special_has_no_text_either(tokenizer: Tokenizer) -> None:
    ends = Tokenizer(tokenizer._backend, tokenizer.config, [508], "ends")
    assert parse(ends, "</think>a<tool_response>").content == "a"


def test_a_reply_becomes_a_turn_of_the_history(tokenizer: Tokenizer) -> None:
    full = parse(tokenizer, f"hm</think>\n\nok\n{CALL}").message()
    assert full == {
        "role": "assistant",
        "content": "ok",
        "reasoning_content": "hm",
        "tool_calls": [F],
    }
    assert parse(tokenizer, "</think>ok").message() == {
        "role": "assistant",
        "content": "ok",
    }


FRAGMENTS = [
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "\n",
    "\n\n",
    "🤖",
    "é",
    "a b",
]
CALLS = [
    '{"name": "f", "arguments": {"x": 1}}',
    CALL,
    "<|im_end|>",
    "好",
    "```json",
    "[f(",
    '"',
]


@st.composite
def token_streams(draw: st.DrawFn) -> list[int]:
    """Fragments of replies and any ids at all: split characters, invalid bytes, padding rows."""
    pieces = st.sampled_from([*FRAGMENTS, *CALLS])
    return draw(st.lists(pieces | st.integers(0, 520)))  # type: ignore[return-value]


@given(token_streams(), st.sampled_from(["any", "none", "some"]))
def test_nothing_of_a_reply_is_lost_or_invented(
    tokenizer: Tokenizer, drawn: list[int | str], which: str
) -> None:
    """Put together, what was said is the decoded reply, up to newlines and tags around calls."""
    ids: list[int] = []
    for piece in drawn:
        ids += [piece] if isinstance(piece, int) else encode(tokenizer, piece)
    tools = {"any": None, "none": [], "some": TOOLS}[which]
    deltas = stream(ReplyParser(tokenizer, tools=tools, pieces=True), ids)
    reasoning, _, rest = tokenizer.decode(ids, skip_special=True).partition("</think>")
    while reasoning.lstrip().startswith("<think>"):
        reasoning = reasoning.lstrip().removeprefix("<think>")
    while rest.lstrip().startswith("</think>"):
        rest = rest.lstrip().removeprefix("</think>")
    if rest.lstrip().startswith("<think>"):
        return
    assert "".join(d.text for d in deltas if d.kind == "reasoning") == reasoning.strip("\n")
    said = "".join(delta.raw or delta.text for delta in deltas if delta.kind in SAYING)
    if which == "none":
        assert said == rest.lstrip("\n")
    kept = re.sub(r"\n|</tool_call>|[\s,;\[\]]|```(?:json)?", "", rest)
    assert re.sub(r"\n|</tool_call>|[\s,;\[\]]|```(?:json)?", "", said) == kept


SAYING = ("content", "tool_call", "malformed_call")


@given(token_streams(), st.data())
def test_every_chunking_of_a_stream_gives_the_same_reply(
    tokenizer: Tokenizer, drawn: list[int | str], data: st.DataObject
) -> None:
    ids = [i for p in drawn for i in ([p] if isinstance(p, int) else encode(tokenizer, p))]
    whole = parse_reply(tokenizer, ids)
    parser, chunks = ReplyParser(tokenizer), []
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=4).map(sorted))
    for start, end in zip([0, *cuts], [*cuts, len(ids)], strict=True):
        chunks.append([delta for i in ids[start:end] for delta in parser.feed(i)])
    deltas = [delta for chunk in chunks for delta in chunk] + parser.finish()
    assert "".join(d.text for d in deltas if d.kind == "reasoning") == whole.reasoning
    assert "".join(d.text for d in deltas if d.kind == "content") == whole.content
    assert [d.call for d in deltas if d.call] == whole.tool_calls
    assert parser.reasoning_tokens == whole.reasoning_tokens


@given(st.lists(st.sampled_from([1, 2, 510, 511])), st.booleans())
def test_the_tracker_agrees_with_the_parser(
    tokenizer: Tokenizer, ids: list[int], thinking: bool
) -> None:
    tracker, parser = ThinkTracker(tokenizer, thinking), ReplyParser(tokenizer, thinking)
    for token_id in ids:
        before = tracker.in_thinking
        assert tracker.feed(token_id) == (tracker.in_thinking != before)
        parser.feed(token_id)
        assert tracker.in_thinking == parser.in_thinking
    assert tracker.reasoning_tokens == parser.reasoning_tokens
