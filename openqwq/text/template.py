"""Chats to token ids: the template's own markers are markers, the text of messages never is.

The guarded rendering without its guards (see `rendering`) must equal the ordinary one, so that no
template whose markers cannot be told from message text passes unnoticed.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from openqwq.text.history import history_form
from openqwq.text.rendering import PROBE, TemplateRefusal, as_written
from openqwq.text.stream import parse_reply, starts_in_thinking
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Message, OpenQwQError

Tools = Sequence[Mapping[str, Any]]
Unit = int | str  # a marker's id, or one character of text
NO_THINKING = "</think>\n\n"  # how a solution without thinking begins
INLINE_THINKING = re.compile(r"\s*<think>(.*?)</think>\s*(.*)", re.DOTALL)


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Tools = (),
    add_generation_prompt: bool = True,
    options: Mapping[str, Any] | None = None,
) -> list[int]:
    """The prompt as token ids: transformers' own unless message text looks like a marker.

    `options` are further variables for the template, such as Qwen3's `enable_thinking`.
    Raises OpenQwQError for a template that fails or whose markers cannot be told from such text.
    """
    ids: list[int] = []
    for piece in _pieces(tokenizer, messages, tools, add_generation_prompt, options):
        ids += [piece] if isinstance(piece, int) else tokenizer.encode(piece)
    return ids


def end_of_turn_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids that end an assistant's turn; the first is the one to train on.

    It is the marker that the chat template writes there (`<|im_end|>` of a ChatML template, though
    a base model's eos is `<|endoftext|>`), or the tokenizer's own eos where it writes none.
    """
    return tokenizer.eos_ids


def encode_reply(
    tokenizer: Tokenizer, messages: Sequence[Message], reply: Message, tools: Tools = ()
) -> tuple[list[int], list[int]]:
    """Ids of the prompt for `messages`, and of `reply` as the model must produce it behind that.

    The thinking is `reasoning_content` or stands in the content between `<think>` tags. The reply
    opens it only where the prompt has not, and ends with the template's end of turn. Raises
    OpenQwQError where the template would not show the content or a call.
    """
    _refuse_channels(tokenizer)
    reasoning, content = _thinking_apart(reply)
    prompt = _pieces(tokenizer, messages, tools, True)
    prompt_ids = _encode(tokenizer, prompt)

    probed = Message(role="assistant", content=PROBE)
    shown = _units(_pieces(tokenizer, [*messages, probed], tools, False))
    header = _common_length(_units(prompt), shown)
    if PROBE not in shown[header:]:
        raise OpenQwQError(
            f"the chat template of {tokenizer.source} does not show what an assistant says: use an"
            " instruction-tuned checkpoint's"
        )
    # an empty thinking, where one is written
    lead = shown[header : shown.index(PROBE, header)]

    turn = Message(role="assistant", content=content)
    calls = reply.get("tool_calls") or []
    if calls:
        turn["tool_calls"] = calls
    body = _units(_pieces(tokenizer, [*messages, turn], tools, False))[header:]
    if body[: len(lead)] == lead:
        body = body[len(lead) :]
    body = _before_end(tokenizer, body)
    _require_shown(tokenizer, body, content, [call["name"] for call in calls])

    in_thinking = starts_in_thinking(tokenizer, prompt_ids)
    if reasoning:
        opening = [] if in_thinking else [*_marker(tokenizer, "<think>"), "\n"]
        closing = ["\n", *_marker(tokenizer, "</think>"), "\n", "\n"]
        lead = [*opening, *reasoning, *closing]
    elif in_thinking:
        lead = ["\n", *_marker(tokenizer, "</think>"), "\n", "\n"]
    return prompt_ids, [*_encode(tokenizer, [*lead, *body]), tokenizer.eos_ids[0]]


def encode_solution(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], solution: str
) -> list[int]:
    """Ids of a worked completion as the model must produce it behind `prompt_ids`.

    `solution` is what follows an opened thinking. Where the prompt does not open it, the reply
    does; one that begins with the thinking's end has none.
    """
    _refuse_channels(tokenizer)
    text = solution
    if not starts_in_thinking(tokenizer, prompt_ids):
        if solution.startswith(NO_THINKING):
            text = solution.removeprefix(NO_THINKING)
        else:
            text = f"<think>\n{solution}"
    return [*tokenizer.encode(text, allow_special=True), tokenizer.eos_ids[0]]


def _refuse_channels(tokenizer: Tokenizer) -> None:
    if tokenizer.writes_channels:
        raise OpenQwQError(
            f"{tokenizer.source} writes replies in channels, which can be read but not trained on:"
            " train another model"
        )


def bridge(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    reply_ids: Sequence[int],
    new_messages: Sequence[Message],
    tools: Tools = (),
) -> list[int] | None:
    """Ids to append to prompt + `reply_ids` so that `new_messages` and a reply can follow.

    Nothing already in the record is tokenised again. None where the template would show the model
    another history than the recorded one, so a new record must begin: QwQ's always does, for it
    drops the thinking of earlier turns. `messages` are those before the reply.
    """
    prompt = encode_chat(tokenizer, messages, tools)
    thinking = starts_in_thinking(tokenizer, prompt)
    reply = parse_reply(tokenizer, reply_ids, thinking)
    history = [*messages, reply.message()]
    past = encode_chat(tokenizer, history, tools, add_generation_prompt=False)
    full = encode_chat(tokenizer, [*history, *new_messages], tools)
    if past[: len(prompt)] != prompt or full[: len(past)] != past:
        return None

    # The template may space a call otherwise than the model did; what it says must be the same.
    turn = _through_end(tokenizer, past[len(prompt) :])
    shown = parse_reply(tokenizer, turn, thinking)
    if replace(shown, reasoning_tokens=reply.reasoning_tokens) != reply:
        return None

    shown_markers = _markers_of(tokenizer, turn)
    sampled_markers = _markers_of(tokenizer, reply_ids)
    if sampled_markers == shown_markers:
        return full[len(prompt) + len(turn) :]
    if sampled_markers == shown_markers[:-1]:
        # a reply that was cut off lacks its end of turn
        return full[len(prompt) + len(turn) - 1 :]
    return None


def _pieces(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Tools,
    generation: bool,
    options: Mapping[str, Any] | None = None,
) -> list[Unit]:
    """What the template writes: ids of its markers, and the texts between them."""
    inputs = _inputs(tokenizer, messages, tools, options or {})
    text = _render(tokenizer, inputs, generation)
    guard = _unused_character(inputs + text)
    parts = _render(tokenizer, inputs, generation, guard).split(guard)

    added = tokenizer.added_tokens
    plain = guard.join(parts[::2])
    built = [marker for marker in added if marker not in inputs and marker in plain]
    if built or "".join(parts) != text or not added.keys() >= set(parts[1::2]):
        # Whatever looks like a marker is the template's own where no message holds such text.
        if any(marker in inputs for marker in added):
            raise OpenQwQError(
                f"the chat template of {tokenizer.source} mixes its markers {built} with message"
                " text: write each marker as one constant, or remove the template to use QwQ's"
            )
        parts = tokenizer.split_markers(text)

    pieces: list[Unit] = []
    for place, part in enumerate(parts):
        pieces.append(added[part] if place % 2 else part)
    return pieces


def _unused_character(text: str) -> str:
    """A character of the private planes that a text does not hold."""
    code = 0xF0000
    while chr(code) in text:
        code += 1
    return chr(code)


def _inputs(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Tools,
    options: Mapping[str, Any],
) -> str:
    """What the template sees, as JSON: plain data only, and one text to search for markers."""
    if not messages:
        raise OpenQwQError("a chat has no messages: give at least one")
    form = history_form(tokenizer.template(bool(tools)))
    listed = form.listed(tools)
    try:
        turns = form.messages(messages, tools)
        variables = {**options, "messages": turns, "tools": listed or None}
        return json.dumps(variables, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise OpenQwQError(
            f"messages or tools are not JSON ({error}): use plain data"
        ) from error


def _render(tokenizer: Tokenizer, inputs: str, generation: bool, guard: str = "") -> str:
    loaded = json.loads(inputs, object_hook=as_written)
    variables = {**loaded, "add_generation_prompt": generation}
    template = tokenizer.template(bool(variables["tools"]))
    try:
        return template.render(variables, guard)
    except TemplateRefusal as error:
        raise OpenQwQError(
            f"the chat template of {tokenizer.source} refuses these messages: {error}"
        ) from error
    except Exception as error:  # a template is foreign code and may raise anything
        raise OpenQwQError(
            f"the chat template of {tokenizer.source} failed on these messages: {error}"
        ) from error


def _encode(tokenizer: Tokenizer, units: Sequence[Unit]) -> list[int]:
    """Token ids; neighbouring texts are one text."""
    ids: list[int] = []
    text = ""
    for unit in units:
        if isinstance(unit, str):
            text += unit
            continue
        ids += [*tokenizer.encode(text), unit]
        text = ""
    return ids + tokenizer.encode(text)


def _units(pieces: Sequence[Unit]) -> list[Unit]:
    """The same with every character apart."""
    units: list[Unit] = []
    for piece in pieces:
        units += [piece] if isinstance(piece, int) else piece
    return units


def _common_length(first: Sequence[Unit], second: Sequence[Unit]) -> int:
    """How many units two renderings begin with alike."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))


def _marker(tokenizer: Tokenizer, text: str) -> list[Unit]:
    """A tag as its token, or as plain text where the checkpoint has no such token."""
    token_id = tokenizer.added_tokens.get(text)
    return list(text) if token_id is None else [token_id]


def _thinking_apart(reply: Message) -> tuple[str, str]:
    """The thinking of a turn and its content."""
    content = reply["content"]
    reasoning = reply.get("reasoning_content", "")
    inline = INLINE_THINKING.fullmatch(content)
    if inline and not reasoning:
        reasoning, content = inline.groups()
    elif not reasoning and content.lstrip().startswith("<think>"):
        raise OpenQwQError(
            f"an assistant's turn opens its thinking but never closes it ({content:.60}): add"
            " </think>, or give the thinking as reasoning_content"
        )
    reasoning = reasoning.strip("\n")
    if reasoning:
        content = content.lstrip("\n")
    return reasoning, content


def _require_shown(
    tokenizer: Tokenizer, body: Sequence[Unit], content: str, calls: Sequence[str]
) -> None:
    """Raise OpenQwQError where a turn as the template writes it lacks its content or a call."""
    said = "".join(unit for unit in body if isinstance(unit, str))
    missing = [text for text in (content.strip(), *calls) if text not in said]
    if missing:
        raise OpenQwQError(
            f"the chat template of {tokenizer.source} does not show {missing[0]!r:.60} of an"
            " assistant's turn: leave it out, or use another template"
        )


def _before_end(tokenizer: Tokenizer, body: list[Unit]) -> list[Unit]:
    """A turn without the marker that ends it, and what follows."""
    for place, unit in enumerate(body):
        if unit in tokenizer.eos_ids:
            return body[:place]
    return body


def _through_end(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """A turn with the marker that ends it; nothing where there is none."""
    for place, token_id in enumerate(ids):
        if token_id in tokenizer.eos_ids:
            return ids[: place + 1]
    return []


def _markers_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    markers = tokenizer.added_tokens.values()
    return [token_id for token_id in ids if token_id in markers]
