"""Streamed equals unstreamed, however the text is cut into tokens."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openqwq.serve.format_chat import ChatFormat
from openqwq.serve.protocol import document
from openqwq.serve.reply import (
    Ask,
    Assembler,
    Finish,
    OfferedTool,
    Piece,
    StopSearch,
    merged,
)
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import FinishReason, SamplingParams, Steering, TokenEvent

TOKENIZER = Tokenizer.train(["the quick brown fox jumps over the lazy dog\n\n"] * 4, 300)
THINK = TOKENIZER.encode("<think>\n", allow_special=True)
EMPTY = TOKENIZER.encode("no thinking here")
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
MARKERS = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<|im_end|>",
    "\n",
    "\n\n",
    CALL,
]
TEXTS = st.lists(
    st.sampled_from(MARKERS) | st.text('ab \n{}"é😀:', max_size=6), max_size=12
).map("".join)


def ask(stop: Sequence[str] = (), prompt: Sequence[int] = THINK, **more: Any) -> Ask:
    checks = more.pop("tools", {"add": None})
    tools = {name: OfferedTool({}, check) for name, check in checks.items()}
    params = SamplingParams(log_probs=more.pop("log_probs", False))
    return Ask(prompt, params, stop=tuple(stop), tools=tools, **more)


def cut(text: str, random: Any) -> list[int]:
    """The text as tokens, cut anywhere between markers: long tokens, single bytes, both."""
    ids: list[int] = []
    for token_id in TOKENIZER.encode(text, allow_special=True):
        whole = token_id in TOKENIZER.added_tokens.values() or random.random() < 0.5
        single = [BYTE_IDS[byte] for byte in TOKENIZER.token_bytes(token_id)]
        ids += [token_id] if whole else single
    return ids


BYTE_IDS = {
    TOKENIZER.token_bytes(i)[0]: i
    for i in reversed(range(TOKENIZER.vocab_size))
    if len(TOKENIZER.token_bytes(i)) == 1
}


def told(
    ids: Sequence[int], asked: Ask, reason: FinishReason = "stop", **body: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The chunks of a reply and the whole of it."""
    form = ChatFormat("chatcmpl-x", "m", TOKENIZER, asked, body)
    assembler = Assembler(TOKENIZER, asked)
    chunks = form.start()
    for token_id in ids:
        for piece in assembler.feed(TokenEvent(token_id, -1.0, True, None)):
            chunks += form.feed(0, piece)
        if assembler.ended:
            break
    for piece in assembler.finish(reason):
        chunks += form.feed(0, piece)
    return chunks + form.end(), form.whole()


def fold_call(calls: list[dict[str, Any]], more: dict[str, Any]) -> None:
    """Add what a chunk says of a call to the calls so far."""
    place = more.pop("index")
    if place == len(calls):
        assert more["id"] and more["type"] == "function" and more["function"]["name"]
        calls.append(more)
    else:
        assert place == len(calls) - 1 and more.keys() == {"function"}
        calls[place]["function"]["arguments"] += more["function"]["arguments"]


def folded(chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a client makes of a stream."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": []}
    choice: dict[str, Any] = {"logprobs": [], "finish_reason": None}
    for chunk in chunks:
        for part in chunk["choices"]:
            delta = part["delta"]
            message["content"] += delta.get("content") or ""
            message["reasoning_content"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls") or []:
                fold_call(message["tool_calls"], call)
            choice["logprobs"] += (part["logprobs"] or {"content": []})["content"]
            if part["finish_reason"]:
                choice |= {k: part[k] for k in ("finish_reason", "finish_details")}
    return {**choice, "message": message}


@given(TEXTS, st.lists(st.text("ab\n ", min_size=1, max_size=3), max_size=3), st.randoms())
@example("</think>aab", ["ab"], None)
@example(f"think {CALL}</think>\n\nsee\n{CALL}\n{CALL}", [], None)
def test_streamed_equals_whole_for_every_cut(
    text: str, stop: list[str], random: Any
) -> None:
    asked = ask(stop, log_probs=True)
    streaming = ask(stop, log_probs=True, partial_calls=True)
    straight = TOKENIZER.encode(text, allow_special=True)
    _, reference = told(straight, asked)
    for ids in (straight, cut(text, random)) if random else (straight,):
        chunks, _ = told(ids, streaming)
        _, whole = told(ids, asked)
        choice = whole["choices"][0]
        message, stream = choice["message"], folded(chunks)
        assert stream["message"]["content"] == (message["content"] or "")
        assert stream["message"]["reasoning_content"] == (
            message["reasoning_content"] or ""
        )
        assert stream["message"]["tool_calls"] == message.get("tool_calls", [])
        assert stream["finish_reason"] == choice["finish_reason"]
        assert stream["finish_details"] == choice["finish_details"]
        assert stream["logprobs"] == choice["logprobs"]["content"]
        assert message == reference["choices"][0]["message"]
        assert choice["finish_reason"] == reference["choices"][0]["finish_reason"]


CHUNK = {
    "$ref": "#/components/schemas/ChatChunk",
    "components": document()["components"],
}
ARGUMENTS = '{"text": "a\\"b} é😀", "more": [1, {"b": null}]}'


@given(st.randoms())
def test_arguments_are_streamed_while_they_are_written(random: Any) -> None:
    written = f'{{"name": "add", "arguments": {ARGUMENTS}}}'
    text = f"</think>\n\nSo:\n<tool_call>\n{written}\n</tool_call>"
    ids = cut(text, random)
    chunks, _ = told(ids, ask(partial_calls=True))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    for chunk in chunks:
        jsonschema_rs.validate(CHUNK, chunk)
    first, *pieces = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert first["function"] == {"name": "add", "arguments": ""}
    assert "".join(piece["function"]["arguments"] for piece in pieces) == ARGUMENTS
    assert len(pieces) > 5


def test_arguments_that_must_follow_a_schema_are_not_shown_before_they_do() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    asked = ask(tools={"add": jsonschema_rs.validator_for(schema)}, partial_calls=True)
    chunks, _ = told(TOKENIZER.encode(f"</think>{CALL}", allow_special=True), asked)
    stream = folded(chunks)
    assert stream["message"]["tool_calls"] == [] and CALL in stream["message"]["content"]


@pytest.mark.parametrize("reason", ["stop", "length"])
@pytest.mark.parametrize("more", ["", "}}", ", b}]}}\n</tool_call>\n\nDone"])
def test_a_call_that_breaks_while_it_is_streamed_is_the_content_of_the_whole_reply(
    reason: FinishReason, more: str
) -> None:
    text = '<tool_call>\n{"name": "add", "arguments": {"a": [1, 2'
    ids = TOKENIZER.encode(f"</think>{text}{more}", allow_special=True)
    chunks, _ = told(ids, ask(partial_calls=True), reason)
    _, whole = told(ids, ask(), reason)
    stream = folded(chunks)
    choice = whole["choices"][0]
    assert stream["message"]["content"] == choice["message"]["content"]
    assert choice["message"]["content"].startswith(text)
    assert "tool_calls" not in choice["message"]
    (call,) = stream["message"]["tool_calls"]
    assert call["function"]["arguments"].startswith('{"a": [1, 2')
    assert stream["finish_details"]["type"] == "malformed_tool_call"
    assert stream["finish_reason"] == choice["finish_reason"] == reason


@given(st.lists(st.text("ab", max_size=3)), st.lists(st.text("ab", min_size=1, max_size=4)))
def test_a_stop_text_is_found_across_pieces_and_left_out(
    pieces: list[str], stop: list[str]
) -> None:
    search, shown = StopSearch(stop), ""
    for piece in pieces:
        shown += search.feed(piece)
    shown += search.rest()
    text = "".join(pieces)
    first = min((text.find(s) for s in stop if s in text), default=None)
    assert (search.found is not None) == (first is not None)
    if first is None:
        assert shown == text
    else:  # the stop text that is complete first ends it
        assert text.startswith(shown) and not any(s in shown for s in stop)
        assert any(text.startswith(s, len(shown)) for s in stop)


def reply(text: str, asked: Ask, reason: FinishReason = "stop") -> dict[str, Any]:
    _, whole = told(TOKENIZER.encode(text, allow_special=True), asked, reason)
    return {**whole["choices"][0], "usage": whole["usage"]}


def test_a_call_inside_the_thinking_is_no_call() -> None:
    got = reply(f"I could {CALL} but</think>\n\nno", ask())
    assert "tool_calls" not in got["message"] and got["finish_reason"] == "stop"
    assert (
        got["message"]["content"] == "no" and "add" in got["message"]["reasoning_content"]
    )


def test_calls_after_the_thinking_are_calls_with_distinct_ids() -> None:
    got = reply(f"</think>{CALL}\n{CALL}", ask())
    calls = got["message"]["tool_calls"]
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [{"a": 1}] * 2
    assert len({call["id"] for call in calls}) == 2
    assert got["finish_reason"] == "tool_calls" and got["message"]["content"] is None


@pytest.mark.parametrize(
    ("text", "tools", "fault"),
    [
        ("<tool_call>{broken</tool_call>", {"add": None}, "not valid JSON"),
        ('<tool_call>\n{"name": ', {"add": None}, "cut off"),
        (CALL, {"sub": None}, "not a tool it may call"),
        (
            CALL,
            {"add": jsonschema_rs.validator_for({"required": ["b"]})},
            "follow its schema",
        ),
    ],
)
def test_a_call_that_is_none_is_content_with_a_finish_detail(
    text: str, tools: dict[str, Any], fault: str
) -> None:
    got = reply(f"</think>{text}", ask(tools=tools))
    assert "tool_calls" not in got["message"] and "<tool_call>" in got["message"]["content"]
    assert got["finish_details"]["type"] == "malformed_tool_call"
    assert fault in got["finish_details"]["message"]


def test_what_is_no_call_stays_where_and_as_it_was_written() -> None:
    text = 'Use:\n\n<tool_call>\n{"name": "f", "arguments": {"a":1}}\n</tool_call>\n\nDone'
    for tools in ({}, {"add": None}):
        got = reply(f"</think>\n\n{text}", ask(tools=tools))
        assert got["message"]["content"] == text and "tool_calls" not in got["message"]


def test_a_call_needs_no_closing_tag_at_the_end() -> None:
    got = reply('</think>\n\n<tool_call>\n{"name": "add", "arguments": {}}', ask())
    (call,) = got["message"]["tool_calls"]
    assert call["function"] == {"name": "add", "arguments": "{}"}
    assert got["finish_reason"] == "tool_calls" and not got["message"]["content"]


def test_without_parallel_calls_the_first_one_ends_the_reply() -> None:
    got = reply(f"</think>{CALL}\n{CALL}", ask(one_call=True))
    assert len(got["message"]["tool_calls"]) == 1 and got["finish_reason"] == "tool_calls"


def test_a_loop_is_a_length_with_a_detail_of_its_own() -> None:
    got = reply("</think>a a a", ask(), "loop")
    assert got["finish_reason"] == "length" and got["finish_details"]["type"] == "loop"


def test_a_reply_that_ends_inside_its_thinking_says_so() -> None:
    got = reply("only thoughts", ask())
    assert (got["message"]["content"], got["finish_reason"]) == ("", "stop")
    assert got["finish_details"]["type"] == "no_answer"


@pytest.mark.parametrize(
    ("budget", "answer_now", "kind"),
    [
        (None, False, "thinking_loop"),
        (90, False, "thinking_loop"),
        (3, False, None),
        (None, True, None),
    ],
)
def test_thinking_that_the_engine_ended_as_a_loop_says_so(
    budget: int | None, answer_now: bool, kind: str | None
) -> None:
    params = SamplingParams(thinking_budget=budget)
    assembler = Assembler(TOKENIZER, Ask(THINK, params), Steering(answer_now))
    for text, sampled in (("abc", True), ("\n</think>\n\n", False), ("yes", True)):
        for token_id in TOKENIZER.encode(text, allow_special=True):
            assembler.feed(TokenEvent(token_id, 0.0, sampled, None))
    finish = assembler.finish("stop")[-1].finish
    assert finish and finish.reason == "stop"
    assert (finish.detail and finish.detail[0]) == kind


def test_stop_texts_are_not_searched_in_the_thinking() -> None:
    got = reply("a END b</think>c END d", ask(["END"]))
    assert got["message"]["reasoning_content"] == "a END b"
    assert got["message"]["content"] == "c " and got["finish_reason"] == "stop"


def test_reasoning_tokens_are_those_between_the_markers() -> None:
    ids = TOKENIZER.encode("a b c</think>\n\nd e", allow_special=True)
    counts = reply("a b c</think>\n\nd e", ask())["usage"]
    assert counts["completion_tokens"] == len(ids)
    assert counts["completion_tokens_details"]["reasoning_tokens"] == ids.index(
        TOKENIZER.think_close_id
    )


def test_log_probs_cover_the_answer_only() -> None:
    got = reply(f"think</think>\n\nabc{CALL}", ask(log_probs=True))
    logged = b"".join(bytes(entry["bytes"]) for entry in got["logprobs"]["content"])
    assert logged.decode().strip() == "abc"


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content", "hidden"])
def test_thinking_goes_where_the_request_wants_it(field: str) -> None:
    ids = TOKENIZER.encode("why</think>yes", allow_special=True)
    chunks, whole = told(ids, ask(), reasoning_format=field)
    message = whole["choices"][0]["message"]
    seen = {key for key in ("reasoning", "reasoning_content") if message.get(key)}
    streamed = {
        k for c in chunks for k in c["choices"][0]["delta"] if k.startswith("reasoning")
    }
    assert seen == streamed == ({field} - {"hidden"})


def test_text_that_is_there_at_once_is_one_piece() -> None:
    def token(number: int) -> TokenEvent:
        return TokenEvent(number, -1.0, True, 0)

    async def at_once(*pieces: Piece) -> AsyncGenerator[Piece, None]:
        for piece in pieces:
            yield piece

    async def failing() -> AsyncGenerator[Piece, None]:
        yield Piece("content", "a")
        yield Piece("content", "b")
        raise ValueError("broken")

    async def collected(*streams: AsyncGenerator[Piece, None]) -> list[tuple[int, Piece]]:
        found = []
        with suppress(ValueError):
            async for item in merged(streams):
                found += [item]
        return found

    end = Piece("end", finish=Finish("stop", None, 4, 2))
    call = Piece("call_end", call={"name": "add", "arguments": {}})
    arguments = Piece("call_arguments", "{", index=1), Piece("call_arguments", "}", index=1)
    thinking = Piece("reasoning", "x"), Piece("reasoning", "y")
    content = (Piece("content", str(i), tokens=(token(i),)) for i in range(2))
    both = Piece("content", "01", tokens=(token(0), token(1)))
    got = asyncio.run(collected(at_once(*thinking, *content, *arguments, call, end)))
    joined = Piece("call_arguments", "{}", index=1)
    assert got == [
        (0, piece) for piece in (Piece("reasoning", "xy"), both, joined, call, end)
    ]
    two = asyncio.run(collected(at_once(*thinking), at_once(*thinking)))
    assert two == [(0, Piece("reasoning", "xy")), (1, Piece("reasoning", "xy"))]
    assert asyncio.run(collected(failing())) == [(0, Piece("content", "ab"))]
