"""Chats as data sets write them, in our own form: OpenAI's, ShareGPT's, with thinking of any kind.

What is read leniently is the spelling (role names, where the thinking stands, calls as JSON text).
What would lose meaning, such as a picture, makes the row unusable.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from openqwq.tasks.templates import RowError, as_text, from_json
from openqwq.types import Message, ToolCall

Role = Literal["system", "user", "assistant", "tool"]
ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "ipython": "tool",
}
THINKING_KEYS = ("reasoning_content", "reasoning", "thinking")
_INLINE = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)
# OpenThoughts-114k's marks
_MARKED = re.compile(
    r"\s*<\|begin_of_thought\|>(.*?)<\|end_of_thought\|>"
    r"\s*<\|begin_of_solution\|>(.*?)<\|end_of_solution\|>\s*",
    re.DOTALL,
)


def read_chat(value: Any, field: str) -> tuple[Message, ...]:
    """A list of turns, or its JSON text; RowError naming `field` and the turn for anything else."""
    value = from_json(value)
    if not isinstance(value, list | tuple) or not value:
        raise RowError(field, f"it is {value!r:.80}: it must be a list of turns")
    return tuple(_read_turn(turn, f"{field}.{i}") for i, turn in enumerate(value))


def said_by(role: Role, text: str, field: str) -> Message:
    """One turn with a text; an assistant's may begin with `<think>`."""
    message = Message(role=role, content=text)
    if role == "assistant":
        thinking, rest = split_thinking(text, field)
        message["content"] = rest
        if thinking:
            message["reasoning_content"] = thinking
    return message


def split_thinking(text: str, field: str) -> tuple[str, str]:
    """The thinking and the rest of a completion; "" where it has none.

    The thinking stands between `<think>` and `</think>` at the beginning, or before a `</think>`
    whose `<think>` was part of the prompt, or between OpenThoughts' marks. Raises RowError where it
    never ends.
    """
    inline = _INLINE.fullmatch(text)
    marked = _MARKED.fullmatch(text)
    if marked is not None:
        return marked[1].strip("\n"), marked[2].strip("\n")
    if inline is not None:
        return inline[1].strip("\n"), inline[2].lstrip("\n")
    if text.lstrip().startswith("<think>"):
        raise RowError(field, "<think> is never closed: end the thinking with </think>")
    thinking, closed, rest = text.partition("</think>")
    if closed and "<think>" not in thinking:
        return thinking.strip("\n"), rest.lstrip("\n")
    return "", text


def split_at_reply(
    messages: Sequence[Message], field: str
) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """A conversation as its prompt and what was recorded after it, from the first reply on."""
    replies = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if messages[-1]["role"] == "assistant":
        first = replies[0]
        if first == 0:
            raise RowError(
                field, "it begins with the assistant: put the user's turn before it"
            )
        return tuple(messages[:first]), tuple(messages[first:])
    if messages[-1]["role"] == "system":
        raise RowError(
            field, "it ends with a system turn: end with the user's or the assistant's"
        )
    return tuple(messages), ()


def read_tools(value: Any, field: str) -> tuple[Mapping[str, Any], ...]:
    """Tool specifications in OpenAI's form; bare functions and JSON text are taken too."""
    value = from_json(value)
    if not isinstance(value, list | tuple):
        raise RowError(field, f"it is {value!r:.80}: it must be a list of tools")
    tools: list[Mapping[str, Any]] = []
    for tool in value:
        tool = from_json(tool)
        function = _object(_object(tool).get("function", tool))
        if not isinstance(function.get("name"), str):
            raise RowError(
                field,
                f"a tool is {tool!r:.80}: it must be an object with a function, its name, "
                "description and parameters",
            )
        tools.append({"type": "function", "function": without_nulls(function)})
    return tuple(tools)


def without_nulls(value: Any) -> Any:
    """Plain data without the null fields that parquet gives to objects that lack them."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(item) for item in value]
    return value


def _object(value: Any) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def _read_turn(turn: Any, field: str) -> Message:
    if not isinstance(turn, Mapping):
        raise RowError(
            field, f"it is {turn!r:.80}: a turn is an object with role and content"
        )
    named = turn.get("role") or turn.get("from")
    role = ROLES.get(str(named).lower())
    if role is None:
        known = ", ".join(ROLES)
        raise RowError(field, f"the role is {named!r}: it must be one of {known}")

    calls = _read_calls(turn, field)
    content = turn.get("content", turn.get("value"))
    if named == "function_call" and not calls:
        calls = [_read_call(from_json(content), field)]
        content = ""
    if content is None and calls:
        content = ""
    message = said_by(role, _read_content(content, field), field)
    if role == "assistant":
        _add_thinking(message, turn, field)
        if calls:
            message["tool_calls"] = calls
        if "weight" in turn and turn["weight"] is not None:
            _add_weight(message, turn["weight"], field)
        if not calls and not message["content"].strip() and "weight" not in message:
            raise RowError(field, "the reply is empty: give it, or leave the row out")
    return message


def _read_content(content: Any, field: str) -> str:
    """A text, or a list of text parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list | tuple):
        texts: list[str] = []
        for part in content:
            if _thinking_part(part):
                continue
            text = part.get("text") if isinstance(part, Mapping) else part
            if not isinstance(text, str):
                raise RowError(
                    field, f"a part is {part!r:.80}: only text can be trained on"
                )
            texts.append(text)
        return "".join(texts)
    raise RowError(field, f"the content is {content!r:.80}: it must be a text")


def _thinking_part(part: Any) -> str:
    """The thinking that a part of a content holds, as Anthropic writes it; else ""."""
    kind = _object(part).get("type")
    if kind not in ("thinking", "reasoning"):
        return ""
    return str(part.get("thinking") or part.get("text") or "")


def _add_thinking(message: Message, turn: Mapping[str, Any], field: str) -> None:
    apart = [str(turn[key]) for key in THINKING_KEYS if turn.get(key)]
    content = turn.get("content")
    parts = content if isinstance(content, list | tuple) else ()
    thought = "".join(filter(None, map(_thinking_part, parts)))
    if thought:
        apart.append(thought)
    if not apart:
        return
    if len(set(apart)) > 1 or "reasoning_content" in message:
        raise RowError(
            field,
            "the thinking stands in two places: keep it in reasoning_content or in <think>",
        )
    message["reasoning_content"] = apart[0].strip("\n")


def _add_weight(message: Message, weight: Any, field: str) -> None:
    if weight not in (0, 1):
        raise RowError(field, f"the weight is {weight!r}: it must be 0 or 1")
    if weight == 0:
        message["weight"] = 0


def _read_calls(turn: Mapping[str, Any], field: str) -> list[ToolCall]:
    calls = turn.get("tool_calls") or []
    calls = from_json(calls)
    if turn.get("function_call"):  # OpenAI's form before tools
        calls = [turn["function_call"]]
    if not isinstance(calls, list | tuple):
        raise RowError(field, f"tool_calls is {calls!r:.80}: it must be a list")
    return [_read_call(call, field) for call in calls]


def _read_call(call: Any, field: str) -> ToolCall:
    function = _object(_object(call).get("function", call))
    name = function.get("name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
    elif isinstance(arguments, Mapping):
        arguments = without_nulls(arguments)
    elif arguments is None and name:
        arguments = {}
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise RowError(
            field,
            f"a call is {call!r:.80}: it must have a name and arguments, a JSON object",
        )
    return ToolCall(name=name, arguments=arguments)


def turns_or_text(value: Any) -> Any:
    """A list of turns, also one turn alone or kept as JSON text; else the value as text.

    A text may be JSON that is no chat, such as a reply in a schema: one item must be a turn.
    """
    parsed = from_json(value)
    keys = set(_object(parsed))
    if {"role", "content"} <= keys or {"from", "value"} <= keys:
        parsed = [parsed]
    if not isinstance(parsed, list | tuple):
        return as_text(value)
    if isinstance(value, str):
        are_turns = any(_is_turn(turn) for turn in parsed)
    else:
        are_turns = not parsed or isinstance(parsed[0], Mapping)
    return parsed if are_turns else as_text(value)


def _is_turn(value: Any) -> bool:
    """Whether it says something in a known role."""
    turn = _object(value)
    role = str(turn.get("role") or turn.get("from")).lower()
    said = {"content", "value", "tool_calls", "function_call"} & set(turn)
    return role in ROLES and bool(said)


def without_system(chat: Sequence[Message]) -> tuple[Message, ...]:
    """The turns that are not system prompts."""
    return tuple(message for message in chat if message["role"] != "system")
