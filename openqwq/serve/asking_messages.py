"""An Anthropic MessagesRequest as the chat request that says the same."""

from collections.abc import Mapping, Sequence
from typing import Any

from openqwq.serve.protocol import ApiError, Json
from openqwq.serve.thinking import LEAST_ANSWER, MOST, forbids_thinking

_SAME = ("temperature", "top_p", "top_k", "chat_template_kwargs", "stream")
_READ = ("text", "document", "search_result")  # blocks of a user's that the model reads
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def shows_thinking(body: Mapping[str, Any]) -> bool:
    """Whether the reply has thinking blocks; a client that does not ask for them expects none."""
    thinking = body.get("thinking") or {"type": "disabled"}
    return thinking["type"] != "disabled" and thinking.get("display") != "omitted"


def chat_body(body: Mapping[str, Any]) -> Json:
    """The ChatRequest; raises ApiError for what the chat API has no words for."""
    chat: Json = {"messages": _messages(body.get("system"), body["messages"])}
    chat |= {name: body[name] for name in _SAME if name in body}
    if "max_tokens" in body:
        chat["max_tokens"] = body["max_tokens"]
    chat |= _thinking(body)
    if body.get("stop_sequences"):
        chat["stop"] = body["stop_sequences"]
    if body.get("tools"):
        chat["tools"] = [_tool(tool) for tool in body["tools"]]
    if choice := body.get("tool_choice"):
        named = {"type": "function", "function": {"name": choice.get("name")}}
        chat["tool_choice"] = _CHOICES.get(choice["type"], named)
        chat["parallel_tool_calls"] = not choice.get("disable_parallel_tool_use", False)
    output = body.get("output_config") or {}
    if form := output.get("format") or body.get("output_format"):
        schema = {"name": "output", "schema": form["schema"]}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    return chat


def _thinking(body: Mapping[str, Any]) -> Json:
    """How much to think: what says how much, or not at all, goes before an effort in words."""
    thinking = body.get("thinking") or {}
    if thinking.get("type") == "disabled" or "budget_tokens" in thinking:
        return {"thinking": thinking}
    if forbids_thinking({"chat_template_kwargs": body.get("chat_template_kwargs")}):
        return {}  # the chat request says so itself
    if body.get("max_tokens", MOST) <= LEAST_ANSWER:
        return {"thinking_budget": 0}  # Claude Code asks for one token to see
    if effort := (body.get("output_config") or {}).get("effort"):
        return {"reasoning_effort": effort}
    return {"thinking_budget": MOST} if "max_tokens" in body else {}


def _tool(tool: Mapping[str, Any]) -> Json:
    function = {"name": tool["name"], "parameters": tool["input_schema"]}
    function |= {name: tool[name] for name in ("description", "strict") if name in tool}
    return {"type": "function", "function": function}


def _messages(system: Any, given: Sequence[Mapping[str, Any]]) -> list[Json]:
    turns: list[Json] = []
    if system:
        turns.append({"role": "system", "content": _text(system)})
    for place, message in enumerate(given):
        where = f"messages[{place}]"
        content = message["content"]
        if isinstance(content, str):
            turns.append({"role": message["role"], "content": content})
        elif message["role"] == "assistant":
            turns.append(_assistant(content))
        else:
            turns += _from_user(message["role"], content, where)
    if turns[-1]["role"] == "assistant":
        text = (
            "the last message is the assistant's: "
            "a reply cannot be begun for it, so leave it out"
        )
        raise ApiError(400, text, "messages")
    return turns


def _assistant(blocks: Sequence[Mapping[str, Any]]) -> Json:
    turn: Json = {"role": "assistant", "content": ""}
    calls: list[Json] = []
    for block in blocks:
        match block["type"]:
            case "text":
                turn["content"] += block["text"]
            case "thinking":
                turn["reasoning_content"] = (
                    turn.get("reasoning_content", "") + block["thinking"]
                )
            case "tool_use":
                function = {"name": block["name"], "arguments": block.get("input")}
                calls.append({"id": block["id"], "type": "function", "function": function})
    if calls:
        turn["tool_calls"] = calls
    return turn


def _from_user(role: str, blocks: Sequence[Mapping[str, Any]], where: str) -> list[Json]:
    """Results of calls, then what the user says with them."""
    turns: list[Json] = []
    text = ""
    kind = "text"
    for block in blocks:
        before = kind
        kind = block["type"]
        if kind == "tool_result":
            said = _text(block.get("content") or "")
            if block.get("is_error"):
                said = f"error: {said}"
            name = block["tool_use_id"]
            turns.append({"role": "tool", "tool_call_id": name, "content": said})
        elif kind in _READ:
            apart = text and (kind, before) != ("text", "text")
            text += "\n\n" * bool(apart) + _block_text(block)
        else:
            raise ApiError(400, f"{where}: a {kind} block cannot come from a {role}", where)
    if text or not turns:
        turns.append({"role": role, "content": text})
    return turns


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n\n".join(map(_block_text, content))


def _block_text(block: Mapping[str, Any]) -> str:
    """What the model reads of a block that holds text."""
    match block["type"]:
        case "document":
            source = block["source"]
            held = source["data"] if source["type"] == "text" else _text(source["content"])
            parts = [block.get("title"), block.get("context"), held]
        case "search_result":
            parts = [block["title"], block["source"], _text(block["content"])]
        case _:
            parts = [block["text"]]
    return "\n\n".join(part for part in parts if part)
