"""A chat's history, from any client, as the turns that chat templates read."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from openqwq.serve.protocol import ApiError
from openqwq.types import Message, ToolCall

_ROLES: dict[str, Literal["system", "user"]] = {"developer": "system"}


def messages(raw: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Chat turns in the templates' form; tool results in the order of their calls.

    Templates show results without ids, so the order is all that tells them apart. Raises ApiError
    where calls and results do not match or arguments are no JSON object.
    """
    turns: list[Message] = []
    open_calls: list[str] = []
    results: dict[str, Message] = {}
    for place, message in enumerate(raw):
        where = f"messages[{place}]"
        if message["role"] == "tool":
            name = message["tool_call_id"]
            if name not in open_calls or name in results:
                text = f"{where}.tool_call_id is {name!r}: no unanswered call before it has that id"
                raise ApiError(400, text, f"{where}.tool_call_id")
            results[name] = {"role": "tool", "content": _text(message.get("content"))}
            if len(results) == len(open_calls):
                turns += [results[name] for name in open_calls]
                open_calls = []
                results = {}
            continue
        if open_calls:
            missing = [name for name in open_calls if name not in results]
            raise ApiError(
                400, f"{where} comes before the results of calls {missing}", where
            )
        turn = _turn(message, where)
        turns.append(turn)
        if message["role"] == "assistant":
            open_calls = [call["id"] for call in message.get("tool_calls") or []]
            if len(set(open_calls)) < len(open_calls):
                raise ApiError(
                    400, f"{where}.tool_calls share an id", f"{where}.tool_calls"
                )
    if open_calls:
        missing = [name for name in open_calls if name not in results]
        raise ApiError(400, f"the results of calls {missing} are missing", "messages")
    return turns


def _turn(message: Mapping[str, Any], where: str) -> Message:
    content = _text(message.get("content")) or message.get("refusal") or ""
    if message["role"] != "assistant":
        role = _ROLES.get(message["role"], message["role"])
        return {"role": role, "content": content}
    turn: Message = {"role": "assistant", "content": content}
    thinking = message.get("reasoning_content") or message.get("reasoning")
    if thinking or (thinking := _thinking(message.get("content"))):
        turn["reasoning_content"] = thinking
    calls = [_call(call["function"], where) for call in message.get("tool_calls") or []]
    if calls:
        turn["tool_calls"] = calls
    return turn


def _call(function: Mapping[str, Any], where: str) -> ToolCall:
    arguments = _arguments(function.get("arguments"))
    if not isinstance(arguments, dict):
        text = f"{where}: the arguments of {function['name']!r} are no JSON object"
        raise ApiError(400, text, f"{where}.tool_calls")
    return {"name": function["name"], "arguments": arguments}


def _arguments(given: Any) -> Any:
    """Arguments out of their JSON text, which some clients encode twice; none may be "" or null."""
    if given is None:
        return {}
    if not isinstance(given, str):
        return given
    if not given.strip():
        return {}
    try:
        return _arguments(json.loads(given, strict=False))
    except (ValueError, RecursionError):
        return given


def _thinking(content: Any) -> str:
    """What the parts of an assistant's content hold of its thinking."""
    if not isinstance(content, list):
        return ""
    return "".join(part["thinking"] for part in content if part["type"] == "thinking")


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text") or part.get("refusal") or "" for part in content)
