"""A checkpoint's Jinja chat template, rendered with a guard around the markers it writes itself.

A template is parsed, and every added token (`<|im_start|>`, `<think>`, ...) inside its constants is
wrapped in a guard character that no input holds. In the rendered text only guarded tokens are the
template's own; whatever came from a message, a tool result or arguments is plain text. Constants
that a template merely looks for in contents (`split('</think>')`, comparisons) stay unguarded.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

# a character of private use: it stands for a text whose place is looked for
PROBE = "\uf8d7"


AS_WRITTEN = "\uf8d8"  # the key of an object that stands for the text which it holds


class AsWritten(str):
    """Text that a template shows as it is, even where it asks for its JSON."""


def as_written(value: dict[str, Any]) -> Any:
    """A value that was read from JSON, or the text that it stands for."""
    if value.keys() == {AS_WRITTEN}:
        return AsWritten(value[AS_WRITTEN])
    return value


class TemplateRefusal(jinja2.TemplateError):
    """What a template says of messages that it does not take."""


@dataclass(frozen=True)
class ChatTemplate:
    """A template's Jinja source, the tokenizer's added tokens, and its tokens by name."""

    source: str
    markers: tuple[str, ...]
    names: tuple[tuple[str, str], ...] = ()  # ("eos_token", "<|im_end|>"), ...

    def render(self, variables: Mapping[str, Any], guard: str = "") -> str:
        """The text for these variables, with `guard` around each marker of the template's own.

        A template is foreign code: it may raise anything, jinja2.TemplateError above all.
        """
        if _wants_parts(self):
            turns = [_in_parts(turn) for turn in variables["messages"]]
            variables = {**variables, "messages": turns}
        return _compile(self, guard).render(variables)

    def end_of_turn(self) -> str | None:
        """The marker that follows what an assistant says, None where the template writes none."""
        user = {"role": "user", "content": "a"}
        assistant = {"role": "assistant", "content": PROBE}
        variables = {"messages": [user, assistant], "add_generation_prompt": False}
        try:
            _, found, rest = self.render(variables).rpartition(PROBE)
        except Exception:  # refused: another conversation may still be rendered
            return None
        return self.first_marker(rest) if found else None

    def opens_thinking(self) -> bool:
        """Whether a prompt ends inside of the thinking."""
        variables = {
            "messages": [{"role": "user", "content": "a"}],
            "add_generation_prompt": True,
        }
        try:
            return self.render(variables).rstrip().endswith("<think>")
        except Exception:  # refused: another conversation may still be rendered
            return False

    def first_marker(self, text: str) -> str | None:
        """The first of the markers that stand in a text."""
        found = _any_of(self.markers).search(text)
        return found.group() if found else None


class _Generation(Extension):
    """`{% generation %}`, which marks what an assistant says for transformers' loss masks."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=16)
def _compile(template: ChatTemplate, guard: str) -> jinja2.Template:
    """Compile with what transformers offers to templates."""
    mark = partial(_any_of(template.markers).sub, rf"{guard}\g<0>{guard}")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {name: mark(text) for name, text in template.names}
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": lambda pattern: datetime.now().strftime(pattern),
        "documents": None,
    }
    tree = environment.parse(template.source)
    _mark_constants(tree, mark)
    return environment.from_string(tree)


@lru_cache(maxsize=64)
def _wants_parts(template: ChatTemplate) -> bool:
    """Whether a template shows contents that are lists of parts alone, as those of images do."""
    compiled = _compile(template, "")
    turn = {"role": "user", "content": PROBE}
    shown: list[bool] = []
    for form in (turn, _in_parts(turn)):
        try:
            shown.append(PROBE in compiled.render(messages=[form]))
        except Exception:  # a template is foreign code and may raise anything
            shown.append(False)
    return shown == [False, True]


def _in_parts(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """A turn whose text is the only part of its content."""
    text = turn.get("content")
    if not isinstance(text, str):
        return turn
    return {**turn, "content": [{"type": "text", "text": text}]}


def split_markers(text: str, markers: tuple[str, ...]) -> list[str]:
    """Plain text, marker, plain text, and so on."""
    return re.split(f"({_any_of(markers).pattern})", text)


def _any_of(markers: tuple[str, ...]) -> re.Pattern[str]:
    """Finds a marker; of two that begin alike, the longer one."""
    longest_first = sorted(markers, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _mark_constants(node: nodes.Node, mark: Callable[[str], str]) -> None:
    """Mark the constants that can reach the output; leave those that are only looked for."""
    match node:
        case nodes.TemplateData():
            node.data = mark(node.data)
        case nodes.Const(value=str(text)):
            node.value = mark(text)
        case nodes.Compare() | nodes.Test():
            return
        # value(...), such as content.split(...)
        case nodes.Call(node=nodes.Getattr() as value):
            _mark_constants(value, mark)
        case nodes.Filter(node=nodes.Node() as value) | nodes.Getitem(node=value):
            _mark_constants(value, mark)
        case _:
            for child in node.iter_child_nodes():
                _mark_constants(child, mark)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """Jinja's own would escape `<`."""
    if isinstance(value, AsWritten):
        return str(value)
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise_exception(message: str) -> str:
    raise TemplateRefusal(message)
