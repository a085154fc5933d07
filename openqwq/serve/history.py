"""A chat's history, from any client, as the turns that chat templates read."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from openqwq.serve.protocol import ApiError
from openqwq.types import Message, ToolCall

_ROLES: dict[str, Literal["system", "user"]] = {"developer": "system"}
_RESULTS = ("tool", "function")  # roles of what tools return


def messages(raw: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Chat turns in the templates' form; tool results in the order of their calls.

    Templates show results without ids, so the order is all that tells them apart. Raises ApiError
    where calls and results do not match.
    """
    turns: list[Message] = []
    calls = _OpenCalls((), "")
    for place, message in enumerate(raw):
        where = f"messages[{place}]"
        if message["role"] in _RESULTS:
            calls.answer(message, where)
            turns += calls.taken_results()
            continue
        if missing := calls.unanswered():
            raise ApiError(
                400, f"{where} comes before the results of calls {missing}", where
            )
        turns.append(_turn(message))
        if message["role"] == "assistant":
            calls = _OpenCalls(_calls(message), where)
    if missing := calls.unanswered():
        raise ApiError(400, f"the results of calls {missing} are missing", "messages")
    return turns


class _OpenCalls:
    """The calls of one assistant's turn, and the results that have come for them.

    Older clients give no ids: such results belong to the first call that waits, of their name.
    """

    def __init__(self, calls: Sequence[Mapping[str, Any]], where: str) -> None:
        self._names = [call["function"]["name"] for call in calls]
        self._ids = [call.get("id") or "" for call in calls]
        self._results: dict[int, Message] = {}
        given = [call_id for call_id in self._ids if call_id]
        if len(set(given)) < len(given):
            raise ApiError(400, f"{where}.tool_calls share an id", f"{where}.tool_calls")

    def unanswered(self) -> list[str]:
        """The ids, or else the names, of the calls that wait."""
        return [self._ids[place] or self._names[place] for place in self._waiting()]

    def answer(self, message: Mapping[str, Any], where: str) -> None:
        """Take a result; ApiError where no call waits for it."""
        call_id = message.get("tool_call_id") or ""
        name = message.get("name")
        waiting = self._waiting()
        places = [place for place in waiting if self._ids[place] == call_id]
        if not call_id or not places:
            nameless = [place for place in waiting if not (call_id and self._ids[place])]
            same = [place for place in nameless if self._names[place] == name]
            places = same or nameless
        if not places:
            field = f"{where}.tool_call_id"
            text = f"{field} is {call_id!r}: no unanswered call before it has that id"
            raise ApiError(400, text, field)
        self._results[places[0]] = {"role": "tool", "content": _result_text(message)}

    def taken_results(self) -> list[Message]:
        """All results, once, as soon as no call waits."""
        if self._waiting():
            return []
        return [self._results[place] for place in range(len(self._names))]

    def _waiting(self) -> list[int]:
        return [place for place in range(len(self._names)) if place not in self._results]


def _turn(message: Mapping[str, Any]) -> Message:
    content = text_of(message.get("content")) or message.get("refusal") or ""
    if message["role"] != "assistant":
        role = _ROLES.get(message["role"], message["role"])
        return {"role": role, "content": content}
    turn: Message = {"role": "assistant", "content": content}
    thinking = message.get("reasoning_content") or message.get("reasoning")
    if thinking or (thinking := _thinking(message.get("content"))):
        turn["reasoning_content"] = thinking
    calls = [_call(call["function"]) for call in _calls(message)]
    if calls:
        turn["tool_calls"] = calls
    return turn


def _calls(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The calls of an assistant's turn, the deprecated `function_call` among them."""
    calls: list[Mapping[str, Any]] = []
    for call in message.get("tool_calls") or []:
        if "function" not in call:  # of a tool that takes a text
            given = {"input": call["custom"]["input"]}
            call = {**call, "function": {**call["custom"], "arguments": given}}
        calls.append(call)
    if not calls and (function := message.get("function_call")):
        calls.append({"function": function})
    return calls


def _call(function: Mapping[str, Any]) -> ToolCall:
    """A call; arguments that are not a JSON object are kept as the model wrote them."""
    given = function.get("arguments")
    arguments = _arguments(given)
    if isinstance(arguments, dict):
        return {"name": function["name"], "arguments": arguments}
    written = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return {"name": function["name"], "arguments": {}, "written": written}


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
    parts = [part for part in content if isinstance(part, dict)]
    return "".join(part["thinking"] for part in parts if part["type"] == "thinking")


def _result_text(message: Mapping[str, Any]) -> str:
    """What a tool returned; what is neither text nor parts of text is shown as JSON."""
    content = message.get("content")
    if content is None or isinstance(content, str | list):
        return text_of(content)
    return json.dumps(content, ensure_ascii=False)


def text_of(content: Any) -> str:
    """A content that is a text, a list of texts and parts, or missing."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = ""
    for part in content:
        if isinstance(part, str):
            texts += part
        else:
            texts += part.get("text") or part.get("refusal") or ""
    return texts
