"""Chat templates to token ids, keeping the template's own markers apart from message text.

A template is parsed, and every added token (`<|im_start|>`, `<think>`, ...) inside its constants is
wrapped in a guard character that no input holds. In the rendered text only guarded tokens become
markers; whatever came from a message, a tool result or arguments is plain text. Constants that a
template merely looks for in contents (`split('</think>')`, comparisons) stay unguarded. The guarded
rendering without its guards must equal the ordinary one, so no other template can pass unnoticed.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from openqwq.text.stream import parse_reply, starts_in_thinking
from openqwq.text.tokenizer import QWQ_TEMPLATE, Tokenizer
from openqwq.types import Message, OpenQwQError

Tools = Sequence[Mapping[str, Any]]


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Tools = (),
    add_generation_prompt: bool = True,
) -> list[int]:
    """The prompt as token ids: transformers' own unless message text looks like a marker.

    Raises OpenQwQError for a template that fails or whose markers cannot be told from such text.
    """
    inputs = _inputs(messages, tools)
    text = _render(tokenizer, inputs, add_generation_prompt)
    guard = next(c for c in map(chr, range(0xF0000, 0xFFFFE)) if c not in inputs and c not in text)
    guarded = _render(tokenizer, inputs, add_generation_prompt, guard)
    pieces = guarded.split(guard)
    markers, plain = pieces[1::2], pieces[::2]
    added = tokenizer.added_tokens
    built = [t for t in added if t not in inputs and any(t in piece for piece in plain)]
    if built or "".join(pieces) != text or not added.keys() >= set(markers):
        raise OpenQwQError(
            f"the chat template of {tokenizer.source} mixes its markers {built} with message text:"
            " write each marker as one constant, or remove the template to use QwQ's"
        )
    ids = tokenizer.encode(plain[0])
    for marker, piece in zip(markers, plain[1:], strict=True):
        ids += [added[marker], *tokenizer.encode(piece)]
    return ids


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
    markers = tokenizer.added_tokens.values()
    ends = (i for i, token_id in enumerate(past[len(prompt) :], 1) if token_id in tokenizer.eos_ids)
    turn = past[len(prompt) :][: next(ends, 0)]
    shown, sampled = ([i for i in ids if i in markers] for ids in (turn, reply_ids))
    unsampled = shown[len(sampled) :]  # the end, where the reply was truncated
    # The template may space a call otherwise than the model did; what it says must be the same.
    said = replace(parse_reply(tokenizer, turn, thinking), reasoning_tokens=reply.reasoning_tokens)
    preserved = past[: len(prompt)] == prompt and full[: len(past)] == past and said == reply
    if not (preserved and sampled + unsampled == shown and len(unsampled) <= 1):
        return None
    return full[len(prompt) + len(turn) - len(unsampled) :]


def _inputs(messages: Sequence[Message], tools: Tools) -> str:
    """What the template sees, as JSON: plain data only, and one text to search for markers."""
    if not messages:
        raise OpenQwQError("a chat has no messages: give at least one")
    try:
        return json.dumps({"messages": messages, "tools": tools or None}, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise OpenQwQError(f"messages or tools are not JSON ({error}): use plain data") from error


def _render(tokenizer: Tokenizer, inputs: str, generation: bool, guard: str = "") -> str:
    source, added = tokenizer.chat_template, tokenizer.added_tokens
    if source is None:
        source = QWQ_TEMPLATE
        if not {"<|im_start|>", "<|im_end|>", "<think>"} <= added.keys():
            raise OpenQwQError(
                f"{tokenizer.source} has neither a chat template nor QwQ's tokens: add a"
                " chat_template to tokenizer_config.json, or use an instruction-tuned checkpoint"
            )
    try:
        template = _compile(source, tuple(added), tuple(tokenizer.named_tokens.items()), guard)
        return template.render(**json.loads(inputs), add_generation_prompt=generation)
    except Exception as error:  # a template is foreign code and may raise anything
        raise OpenQwQError(
            f"the chat template of {tokenizer.source} failed on these messages: {error}"
        ) from error


@lru_cache(maxsize=8)
def _compile(
    source: str, added: tuple[str, ...], named: tuple[tuple[str, str], ...], guard: str
) -> jinja2.Template:
    """Compile with what transformers offers to templates, `guard` around every added token."""
    pattern = re.compile("|".join(map(re.escape, sorted(added, key=len, reverse=True))) or "(?!)")
    mark = partial(pattern.sub, rf"{guard}\g<0>{guard}")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)  # `<` stays `<`
    environment.globals |= {name: mark(text) for name, text in named} | {
        "raise_exception": _raise_exception,
        "strftime_now": lambda pattern: datetime.now().strftime(pattern),
        "documents": None,
    }
    tree = environment.parse(source)
    _mark_constants(tree, mark)
    return environment.from_string(tree)


def _mark_constants(node: nodes.Node, mark: Callable[[str], str]) -> None:
    """Mark the constants that can reach the output; leave those that are only looked for."""
    match node:
        case nodes.TemplateData():
            node.data = mark(node.data)
        case nodes.Const(value=str(text)):
            node.value = mark(text)
        case nodes.Compare() | nodes.Test():
            return
        case nodes.Call(node=nodes.Getattr() as value):  # value(...), such as content.split(...)
            _mark_constants(value, mark)
        case nodes.Filter(node=nodes.Node() as value) | nodes.Getitem(node=value):
            _mark_constants(value, mark)
        case _:
            for child in node.iter_child_nodes():
                _mark_constants(child, mark)


def _raise_exception(message: str) -> str:
    raise jinja2.TemplateError(message)
