"""The think/tool state machine: one parse, however a reply arrives."""

import json
import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwq.text.stream import (
    Delta,
    Reply,
    ReplyParser,
    ThinkTracker,
    parse_reply,
    starts_in_thinking,
)
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
        ("</think>Hello", "", "</think>Hello"),
        ("<think>a</think>b<think>c", "a", "b<think>c"),
        ("<think></think><think>b", "", "<think>b"),
    ],
)
def test_a_reply_outside_thinking_opens_it_only_with_its_first_token(
    tokenizer: Tokenizer, text: str, reasoning: str, content: str
) -> None:
    reply = parse(tokenizer, text, thinking=False)
    assert (reply.reasoning, reply.content) == (reasoning, content)


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (f"</think>\n\n{CALL}<|im_end|>", "", 1),
        (f"</think>\n\nLooking.\n{CALL}\n{CALL}\n", "Looking.", 2),
        (f"</think>a\n{CALL}\nb\n", "a\n\nb", 1),
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
        '{"name": "f"}',
        '{"name": 1, "arguments": {}}',
        '{"name": "f", "arguments": "{}"}',
        '{"name": "f", "arguments": {}} {}',
        '{"name": "f", "arguments": {"x": NaN}}',
        '{"name": "f", "arguments": {"x": 1e999}}',
        '{"name": "f", "arguments": {"x": "\\ud800"}}',
        '{"name": "f", "arguments": {"x": ' + "9" * 5000 + "}}",
        '{"name": "f", <tool_call></think><think>',
    ],
)
def test_a_malformed_call_is_reported_with_its_text(tokenizer: Tokenizer, text: str) -> None:
    reply = parse(tokenizer, f"</think>a\n<tool_call>{text}</tool_call>\n{CALL}")
    assert reply.malformed_calls == [text]
    assert reply.tool_calls == [F] and reply.content == "a"


def test_a_call_that_is_not_closed_is_malformed(tokenizer: Tokenizer) -> None:
    reply = parse(tokenizer, '</think>a\n<tool_call>{"name": "f", "arguments": {}}<|im_end|>')
    assert reply.malformed_calls == ['{"name": "f", "arguments": {}}']
    assert reply.content == "a" and not reply.tool_calls


def test_calls_are_numbered_without_the_malformed(tokenizer: Tokenizer) -> None:
    ids = encode(tokenizer, f"</think>{CALL}<tool_call></tool_call>{CALL}")
    deltas = stream(ReplyParser(tokenizer), ids)
    assert [(d.kind, d.index) for d in deltas if d.call] == [("tool_call", 0), ("tool_call", 1)]


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


def test_without_think_tokens_everything_is_content(tokenizer: Tokenizer) -> None:
    tracker = ThinkTracker(None, None, starts_in_thinking=True)
    assert not tracker.in_thinking and not tracker.feed(5) and tracker.reasoning_tokens == 0
    assert not ThinkTracker(5, None, starts_in_thinking=False).feed(5)
    bare = Tokenizer(tokenizer._backend, tokenizer.config, [], "bare")
    bare.think_open_id = bare.think_close_id = bare.tool_call_open_id = None
    reply = parse_reply(bare, encode(bare, f"\n<think>hm</think>{CALL}"))
    assert reply.content == f"<think>hm</think>{CALL}" and not reply.reasoning


def test_a_prompt_tells_whether_its_reply_starts_in_the_thinking(tokenizer: Tokenizer) -> None:
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
    assert parse(tokenizer, "</think>ok").message() == {"role": "assistant", "content": "ok"}


def _by_text(text: str) -> tuple[str, str, list[str]]:
    """The same rules over a decoded reply, by regular expressions: reasoning, content, calls."""
    reasoning, _, rest = text.partition("</think>")
    calls = re.findall(r"<tool_call>(.*?)(?:</tool_call>|\Z)", rest, flags=re.DOTALL)
    content = re.sub(r"<tool_call>.*?(?:</tool_call>|\Z)", "", rest, flags=re.DOTALL)
    content = content.strip("\n") if calls else content.lstrip("\n")
    return reasoning.strip("\n"), content, calls


FRAGMENTS = ["</think>", "<tool_call>", "</tool_call>", "<think>", "\n", "\n\n", "🤖", "é", "a b"]
CALLS = ['{"name": "f", "arguments": {"x": 1}}', CALL, "<|im_end|>", "好"]


@st.composite
def token_streams(draw: st.DrawFn) -> list[int]:
    """Fragments of replies and any ids at all: split characters, invalid bytes, padding rows."""
    pieces = st.sampled_from([*FRAGMENTS, *CALLS])
    return draw(st.lists(pieces | st.integers(0, 520)))  # type: ignore[return-value]


@given(token_streams())
def test_streaming_equals_parsing_the_decoded_reply(
    tokenizer: Tokenizer, drawn: list[int | str]
) -> None:
    ids: list[int] = []
    for piece in drawn:
        ids += [piece] if isinstance(piece, int) else encode(tokenizer, piece)
    deltas = stream(ReplyParser(tokenizer), ids)
    reasoning, content, calls = _by_text(tokenizer.decode(ids, skip_special=True))
    assert "".join(d.text for d in deltas if d.kind == "reasoning") == reasoning
    assert "".join(d.text for d in deltas if d.kind == "content") == content
    parsed = [d for d in deltas if d.kind in ("tool_call", "malformed_call")]
    for delta, call in zip(parsed, calls, strict=True):
        assert json.loads(call) == delta.call if delta.call else call == delta.text
    assert all(delta.text or delta.call or delta.kind == "malformed_call" for delta in deltas)


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
    tracker, parser = ThinkTracker(510, 511, thinking), ReplyParser(tokenizer, thinking)
    for token_id in ids:
        before = tracker.in_thinking
        assert tracker.feed(token_id) == (tracker.in_thinking != before)
        parser.feed(token_id)
        assert tracker.in_thinking == parser.in_thinking
    assert tracker.reasoning_tokens == parser.reasoning_tokens
