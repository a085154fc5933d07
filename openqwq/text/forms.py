"""How a model writes its tool calls, read off what its chat template writes for one.

Most families write JSON: between tags (Hermes, Qwen, QwQ), behind a marker (Mistral), or bare
(Llama 3). Some write the name outside of it (DeepSeek, newer Mistral models), some a Python
list of calls (Llama 4), some tags for each parameter (Qwen3-Coder).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from openqwq.text.history import NAME, SAID, VALUE, call_rendering, history_form
from openqwq.text.rendering import ChatTemplate
from openqwq.text.tokenizer import Tokenizer

Kind = Literal["json", "named", "pythonic", "parameters"]
OBJECT = re.compile(
    rf'(?:(?P<array>\[)\s*)?\{{\s*"name": ?"{NAME}", ?"(?P<key>\w+)": ?'
    rf'\{{"probe_key": ?"{VALUE}"\}}'
    r"[^}]*\}(?:\s*\])?"
)
NAMED = re.compile(rf'{NAME}(?P<between>[^{{]*)\{{"probe_key": ?"{VALUE}"\}}')
# lone surrogates, which no decoded text holds, stand for marker tokens
FIRST_MARKER = 0xD800


@dataclass(frozen=True)
class CallForm:
    """One way of writing calls.

    `opening` and `closing` stand around a call, or around the list of all calls if `is_list`;
    bare JSON has neither. `between` separates a name from its arguments where it stands outside of
    them; `arguments_key` is the JSON key of the arguments otherwise.
    """

    kind: Kind = "json"
    opening: str = "<tool_call>\n"
    closing: str = "\n</tool_call>"
    between: str = ""
    arguments_key: str = "arguments"
    is_list: bool = False
    has_ids: bool = False  # each call carries an id, as Mistral's do
    one_a_turn: bool = False
    # the template shows no calls: prompts hold their tags as plain text
    in_text: bool = False


# gpt-oss': the recipient may also stand before the channel, which `channels` brings into this form
CHANNELS = CallForm(
    "named",
    "<|channel|>commentary to=functions.",
    "<|call|>",
    " <|constrain|>json<|message|>",
    one_a_turn=True,
)


@dataclass(frozen=True)
class Markers:
    """Marker tokens of a call form as single characters that no text can hold."""

    characters: Mapping[int, str]  # by token id
    texts: Mapping[str, str]  # by character

    def encode(self, text: str) -> str:
        """The text with each marker as its one character."""
        for character, marker in self.texts.items():
            text = text.replace(marker, character)
        return text

    def decode(self, text: str) -> str:
        """The text as a reader sees it."""
        for character, marker in self.texts.items():
            text = text.replace(character, marker)
        return text


@lru_cache(maxsize=8)
def call_form(tokenizer: Tokenizer) -> CallForm:
    """The form that a tokenizer's chat template writes calls in; Hermes' where it writes none."""
    if not tokenizer.has_template():
        return CallForm()
    if tokenizer.writes_channels:
        return CHANNELS
    return _form_of(tokenizer.template(with_tools=True))


@lru_cache(maxsize=8)
def markers_of(tokenizer: Tokenizer) -> Markers:
    """The added tokens that stand in a tokenizer's call form."""
    form = call_form(tokenizer)
    written = form.opening + form.between + form.closing + "<|python_tag|>"
    characters: dict[int, str] = {}
    texts: dict[str, str] = {}
    for text, token_id in tokenizer.added_tokens.items():
        if text in written and text.strip():
            character = chr(FIRST_MARKER + len(texts))
            characters[token_id] = character
            texts[character] = text
    return Markers(characters, texts)


@lru_cache(maxsize=64)
def _form_of(template: ChatTemplate) -> CallForm:
    form = history_form(template)
    if not form.shows_calls:
        return CallForm(in_text=True)
    said, called = call_rendering(template)
    start = _common_length(said, called)
    turn = called[start:]
    _, _, after = said[start:].partition(SAID)
    end = template.first_marker(after)  # of the turn
    if end and end in turn:
        turn = turn[: turn.rindex(end)]
    one = form.one_call_a_turn
    if f"<function={NAME}>" in turn:
        return CallForm("parameters")
    if f"{NAME}(" in turn:
        opening, _, rest = turn.partition("[")
        return CallForm("pythonic", opening, rest.rpartition("]")[2].rstrip(), is_list=True)
    if found := OBJECT.search(turn):
        opening = turn[: found.start()]
        closing = turn[found.end() :].rstrip()
        has_ids = '"id"' in found.group()
        is_list = bool(found["array"])
        return CallForm("json", opening, closing, "", found["key"], is_list, has_ids, one)
    if found := NAMED.search(turn):
        opening = turn[: found.start()]
        closing = turn[found.end() :].rstrip()
        return CallForm("named", opening, closing, found["between"], one_a_turn=one)
    return CallForm()


def _common_length(one: str, other: str) -> int:
    for place, (first, second) in enumerate(zip(one, other, strict=False)):
        if first != second:
            return place
    return min(len(one), len(other))
