"""Replies in channels: thinking, answers and calls, their tokens, grammars and histories."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from openqwq.text.channels import ChannelTracker
from openqwq.text.grammar import answer_grammar, json_grammar, tool_call_grammar
from openqwq.text.history import history_form
from openqwq.text.reading import Delta
from openqwq.text.stream import Reply, ReplyParser, parse_reply, starts_in_thinking
from openqwq.text.template import encode_chat, encode_reply
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Message, OpenQwQError

THINKS = "<|channel|>analysis<|message|>"
NEXT = "<|end|><|start|>assistant"
SAYS = "<|channel|>final<|message|>"
CALLS = "<|channel|>commentary to=functions.add <|constrain|>json<|message|>"
CALLS_TOO = " to=functions.add<|channel|>commentary json<|message|>"
PARAMETERS = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
ADD = {"name": "add", "description": "Adds.", "parameters": PARAMETERS}
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": ADD}]
CALL = {"name": "add", "arguments": {"x": 1}}


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, allow_special=True)


def parse(tokenizer: Tokenizer, text: str, tools: Any = TOOLS) -> Reply:
    return parse_reply(tokenizer, encode(tokenizer, text), False, tools)


def streamed(tokenizer: Tokenizer, text: str) -> list[Delta]:
    parser = ReplyParser(tokenizer, False, TOOLS, pieces=True)
    deltas: list[Delta] = []
    for token_id in encode(tokenizer, text):
        deltas += parser.feed(token_id)
    return deltas + parser.finish()


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        (f"{THINKS}hm\n{NEXT}{SAYS}Hello\nyou<|return|>", "hm", "Hello\nyou"),
        (f"{SAYS}Hello<|return|>", "", "Hello"),
        (f"{SAYS}Hello<|end|>", "", "Hello"),
        (f"<|start|>assistant{SAYS}Hello", "", "Hello"),
        (f"{THINKS}a{NEXT}{THINKS}b{NEXT}{SAYS}c<|return|>", "a\n\nb", "c"),
        (
            f"<|channel|>commentary<|message|>I look.{NEXT}{THINKS}a{NEXT}{SAYS}b",
            "a",
            "I look.\n\nb",
        ),
        (f"{SAYS}a<|constrain|>b<|message|>c<|return|>", "", "abc"),
        ("Hello", "", "Hello"),
        ("to be", "", "to be"),
        ("to", "", "to"),
        (f"{THINKS}a<|end|>Hello", "a", "Hello"),
        (f"{THINKS}a{NEXT}", "a", ""),
        (f"{THINKS}a{NEXT}<|channel|>fin", "a", ""),
        ("", "", ""),
    ],
)
def test_channels_part_thinking_from_the_answer(
    channelled: Tokenizer, text: str, reasoning: str, content: str
) -> None:
    reply = parse(channelled, text)
    assert (reply.reasoning, reply.content) == (reasoning, content)
    assert not reply.tool_calls and not reply.malformed_calls and not reply.in_thinking


@pytest.mark.parametrize(
    "header", [CALLS, CALLS_TOO, CALLS.replace(" <|constrain|>json", "")]
)
@pytest.mark.parametrize("end", ["<|call|>", "<|end|>", "<|return|>"])
def test_a_call_has_its_recipient_before_or_behind_the_channel(
    channelled: Tokenizer, header: str, end: str
) -> None:
    text = f'{THINKS}hm{NEXT}{header}{{"x": 1}}{end}'
    reply = parse(channelled, text)
    assert reply.tool_calls == [CALL] and reply.reasoning == "hm" and not reply.content
    pieces = [(d.kind, d.text) for d in streamed(channelled, text) if "call_" in d.kind]
    assert pieces[0] == ("call_start", "add") and len(pieces) > 3
    assert "".join(text for _, text in pieces[1:]) == '{"x": 1}'


def test_a_call_without_arguments_has_none(channelled: Tokenizer) -> None:
    reply = parse(channelled, f"{CALLS}<|call|>")
    assert reply.tool_calls == [{"name": "add", "arguments": {}}]


def test_what_is_said_before_a_call_is_content(channelled: Tokenizer) -> None:
    text = f'<|channel|>commentary<|message|>I add.\n{NEXT}{CALLS}{{"x": 1}}<|call|>'
    reply = parse(channelled, text)
    assert (reply.content, reply.tool_calls) == ("I add.", [CALL])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (f"{CALLS.replace('add', 'sub')}{{}}<|call|>", "calls 'sub', which is not a tool"),
        (f'{CALLS}{{"x": ', "cut off"),
        (f"{CALLS}print(1)<|call|>", "not valid JSON"),
        ("<|channel|>analysis to=python code<|message|>print(1)<|call|>", "not valid JSON"),
    ],
)
def test_what_is_no_call_stays_as_it_was_written(
    channelled: Tokenizer, text: str, fault: str
) -> None:
    (broken,) = [d for d in streamed(channelled, text) if d.kind == "malformed_call"]
    assert fault in broken.fault and broken.raw.startswith("<|channel|>commentary to=")
    body = text.partition("<|message|>")[2].removesuffix("<|call|>")
    assert body in broken.raw


def test_without_tools_nothing_is_a_call(channelled: Tokenizer) -> None:
    reply = parse(channelled, f"{CALLS}{{}}<|call|>", [])
    assert reply.content == f"{CALLS}{{}}<|call|>" and not reply.malformed_calls


def test_a_call_in_a_thinkings_text_is_thinking(channelled: Tokenizer) -> None:
    text = 'I call <tool_call>{"name": "add", "arguments": {"x": 1}}</tool_call>'
    reply = parse(channelled, f"{THINKS}{text}{NEXT}{SAYS}no")
    assert (reply.reasoning, reply.content, reply.tool_calls) == (text, "no", [])


def test_thinking_tokens_are_those_of_analysis_alone(channelled: Tokenizer) -> None:
    thinking = len(encode(channelled, "hm, so"))
    text = f"{THINKS}hm, so{NEXT}{THINKS}hm, so{NEXT}{SAYS}Hello"
    assert parse(channelled, text).reasoning_tokens == 2 * thinking


def test_a_reply_that_ends_in_its_thinking_has_no_answer(channelled: Tokenizer) -> None:
    assert parse(channelled, f"{THINKS}hm<|return|>").in_thinking
    assert parse(channelled, f"{THINKS}hm").in_thinking
    assert not parse(channelled, f"{THINKS}hm<|end|>").in_thinking


def test_tokens_of_the_answer_are_told_from_headers_and_calls(
    channelled: Tokenizer,
) -> None:
    parser = ReplyParser(channelled, False, TOOLS)
    said: list[int] = []
    text = f"{THINKS}no{NEXT}{SAYS}yes{NEXT}{CALLS}{{}}<|call|>"
    for token_id in encode(channelled, text):
        if parser.speaks(token_id):
            said.append(token_id)
        parser.feed(token_id)
    assert channelled.decode(said) == "yes"


PARTS = [THINKS, NEXT, SAYS, CALLS, CALLS_TOO, "<|return|>", "<|call|>", "to=", "é😀\n"]


@given(st.lists(st.sampled_from(PARTS) | st.text('to{}": a', max_size=4), max_size=10))
def test_any_reply_streams_to_what_it_is_as_a_whole(
    channelled: Tokenizer, parts: list[str]
) -> None:
    text = "".join(parts)
    reply = parse(channelled, text)
    deltas = streamed(channelled, text)
    for kind, whole in (("reasoning", reply.reasoning), ("content", reply.content)):
        assert "".join(d.text for d in deltas if d.kind == kind) == whole
    assert [d.call for d in deltas if d.call is not None] == reply.tool_calls


@pytest.mark.parametrize(
    ("prompt", "inside"),
    [
        (f"<|start|>assistant{THINKS}", True),
        (f"<|start|>assistant{THINKS}I should", True),
        (f"<|start|>assistant{THINKS}a<|end|>", False),
        ("<|start|>user<|message|>a<|end|><|start|>assistant", False),
        (f"<|start|>assistant{SAYS}", False),
        ("a", False),
    ],
)
def test_a_prompt_may_end_inside_of_a_thinking(
    channelled: Tokenizer, prompt: str, inside: bool
) -> None:
    assert starts_in_thinking(channelled, encode(channelled, prompt)) == inside


def test_a_reply_ends_with_return_or_a_call_but_not_with_a_message(
    channelled: Tokenizer,
) -> None:
    ends = [channelled.decode([token_id]) for token_id in channelled.eos_ids]
    assert ends == ["<|return|>", "<|call|>"]


def test_only_a_template_that_writes_channels_makes_it_one(channelled: Tokenizer) -> None:
    plain = {**channelled.config, "chat_template": "{{ messages[0].content }}<|return|>"}
    other = with_config(channelled, plain)
    assert channelled.writes_channels and not other.writes_channels


def with_config(tokenizer: Tokenizer, config: dict[str, Any]) -> Tokenizer:
    backend = Backend.from_str(tokenizer.backend_json())
    return Tokenizer(backend, config, [], "another")


def allowed_after(tokenizer: Tokenizer, grammar: str, text: str) -> set[str]:
    """What may come next; fails where the grammar refuses the text."""
    rules = answer_grammar(tokenizer, grammar)
    for token_id in encode(tokenizer, text):
        assert rules.allowed()[token_id], text
        rules.accept(token_id)
    return {tokenizer.decode([i]) for i, mark in enumerate(rules.allowed()) if mark}


def test_a_grammar_rules_the_answer_and_leaves_a_thinking_open(
    channelled: Tokenizer,
) -> None:
    grammar = json_grammar({"enum": [12]})
    first = ChannelTracker(channelled, False)
    free = first.grammar(grammar, may_think=True)
    assert "<|return|>" in allowed_after(channelled, free, f"{SAYS}12")
    assert "<|end|>" in allowed_after(channelled, free, THINKS)
    strict = first.grammar(grammar, may_think=False)
    assert "a" not in allowed_after(channelled, strict, "<|channel|>")
    for token_id in encode(channelled, f"{THINKS}hm<|end|>"):
        first.feed(token_id)
    later = first.grammar(grammar, may_think=False)
    assert "<|return|>" in allowed_after(channelled, later, f"<|start|>assistant{SAYS}12")


def test_a_demanded_call_and_an_answer_instead_have_their_headers(
    channelled: Tokenizer,
) -> None:
    grammar = tool_call_grammar(channelled, TOOLS, answer={"enum": [12]})
    tracker = ChannelTracker(channelled, False)
    free = tracker.grammar(grammar, may_think=True)
    for text in (f'{CALLS}{{"x": 1}}', f"{SAYS}12"):
        assert "<|return|>" in allowed_after(channelled, free, text)
    alone = tracker.grammar(tool_call_grammar(channelled, TOOLS), may_think=False)
    assert "<|call|>" in allowed_after(channelled, alone, f'{CALLS}{{"x": 1}}')
    assert "f" not in allowed_after(channelled, alone, "<|channel|>")


ASKED: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Add <|end|> one."},
]
TURN: Message = {"role": "assistant", "content": "", "reasoning_content": "hm"}
TURN["tool_calls"] = [{"name": "add", "arguments": {"x": 1}}]
RESULT: Message = {"role": "tool", "content": "3"}
CALLED = f'<|start|>assistant{CALLS_TOO}{{"x": 1}}<|call|>'
THOUGHT = f"<|start|>assistant{THINKS}hm<|end|>"


def prompt(tokenizer: Tokenizer, *turns: Message) -> str:
    return tokenizer.decode(encode_chat(tokenizer, [*ASKED, *turns], TOOLS))


@pytest.fixture(params=["our own", "the public one"])
def model(request: pytest.FixtureRequest, channelled: Tokenizer) -> Tokenizer:
    """With our template, and with gpt-oss' own where an installed TRL has it."""
    if request.param == "our own":
        return channelled
    package = importlib.util.find_spec("trl")
    if package is None or not package.submodule_search_locations:
        pytest.skip("needs TRL, which holds the template of gpt-oss")
    path = Path(package.submodule_search_locations[0]) / "chat_templates" / "gptoss.jinja"
    if not path.exists():
        pytest.skip(f"this TRL has no {path.name}")
    return with_config(channelled, {**channelled.config, "chat_template": path.read_text()})


def test_the_template_shows_the_thinking_behind_which_a_call_was_made(
    model: Tokenizer,
) -> None:
    assert model.writes_channels
    text = prompt(model, TURN, RESULT)
    assert f"{THOUGHT}{CALLED}<|start|>functions.add to=assistant" in text
    assert text.endswith('"3"<|end|><|start|>assistant')
    ids = encode_chat(model, [*ASKED, TURN, RESULT], TOOLS)
    assert ids.count(model.added_tokens["<|call|>"]) == 1
    assert text.count("Add <|end|> one.") == 1  # as text, not as the marker
    assert ids.count(model.added_tokens["<|end|>"]) == text.count("<|end|>") - 1


def test_the_thinking_of_a_finished_answer_is_left_out(model: Tokenizer) -> None:
    said: Message = {"role": "assistant", "content": "Three.", "reasoning_content": "so"}
    again: Message = {"role": "user", "content": "And now?"}
    text = prompt(model, TURN, RESULT, said, again)
    assert f"<|start|>assistant{SAYS}Three.<|end|>" in text
    assert "hm" not in text and "<|message|>so<|end|>" not in text


def test_what_was_said_before_a_call_joins_its_thinking(model: Tokenizer) -> None:
    assert history_form(model.template()).one_text
    turn = TURN.copy()
    turn["content"] = "I add."
    text = prompt(model, turn, RESULT)
    assert f"{THINKS}hm\n\nI add.<|end|>{CALLED}" in text


def test_several_calls_take_turns(model: Tokenizer) -> None:
    turn = TURN.copy()
    turn["tool_calls"] = [*TURN["tool_calls"], {"name": "add", "arguments": {"x": 2}}]
    other: Message = {"role": "tool", "content": "4"}
    text = prompt(model, turn, RESULT, other)
    places = [text.index(part) for part in ('{"x": 1}', '"3"', '{"x": 2}', '"4"')]
    assert places == sorted(places)


def test_a_tool_needs_no_description(model: Tokenizer) -> None:
    bare = {"name": "add", "parameters": PARAMETERS}
    ids = encode_chat(model, ASKED, [{"type": "function", "function": bare}])
    assert "type add = " in model.decode(ids)


def test_training_on_channels_is_refused(channelled: Tokenizer) -> None:
    with pytest.raises(OpenQwQError, match="not trained on"):
        encode_reply(channelled, ASKED, {"role": "assistant", "content": "x"})
