"""A ResponsesRequest as the chat request that says the same, and the items that it goes on from."""

import json
from collections.abc import Mapping
from typing import Any

from openqwq.serve.history import text_of
from openqwq.serve.protocol import ApiError, Json
from openqwq.serve.store import ResponseStore

# What both APIs call by the same name.
_SAME = {
    "chat_template_kwargs",
    "frequency_penalty",
    "ignore_eos",
    "logit_bias",
    "min_p",
    "parallel_tool_calls",
    "presence_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "stop_loops",
    "stream",
    "temperature",
    "thinking_budget",
    "top_k",
    "top_logprobs",
    "top_p",
}
# What OpenAI's own servers do for a model, as items of a history.
_HOSTED = {
    "code_interpreter_call",
    "file_search_call",
    "image_generation_call",
    "mcp_list_tools",
    "web_search_call",
}


def input_items(body: Mapping[str, Any], suffix: str, store: ResponseStore) -> list[Json]:
    """The request's own items, each with an id; references are replaced by what they name.

    Raises ApiError 404 for a reference to what is not stored.
    """
    given = body["input"]
    if isinstance(given, str):
        part = {"type": "input_text", "text": given}
        given = [{"type": "message", "role": "user", "content": [part]}]
    items: list[Json] = []
    for number, item in enumerate(given):
        has_no_kind = item.get("type") is None and item.get("role") is None
        if item.get("type") == "item_reference" or has_no_kind:
            items.append(store.item(item["id"]))
            continue
        own = {"type": "message", "id": f"in_{suffix}_{number}"}
        own |= {key: value for key, value in item.items() if value is not None}
        items.append(own)
    return items


def earlier_items(body: Mapping[str, Any], store: ResponseStore) -> list[Json]:
    """The items of the conversation that the request goes on from; ApiError where it cannot."""
    previous = body.get("previous_response_id")
    if previous is None:
        return []
    try:
        return store.conversation(previous)
    except ApiError as error:
        raise ApiError(
            error.status, str(error), "previous_response_id", "previous_response_not_found"
        ) from error


def chat_body(body: Mapping[str, Any], items: list[Json]) -> Json:
    """The ChatRequest that asks the same of `items`, without what every API shares."""
    chat: Json = {"messages": _messages(body.get("instructions"), items)}
    chat |= {name: value for name, value in body.items() if name in _SAME}
    if body.get("tools"):
        offered = offered_functions(body).items()
        chat["tools"] = [_chat_tool(name, tool) for name, (_, tool) in offered]
    match body.get("tool_choice"):
        case {"name": name}:
            chat["tool_choice"] = {"type": "function", "function": {"name": name}}
        case None:
            pass
        case choice:
            chat["tool_choice"] = choice
    form = (body.get("text") or {}).get("format") or {"type": "text"}
    if form["type"] == "json_schema":
        form = {"type": "json_schema", "json_schema": form}
    chat["response_format"] = form
    if "max_output_tokens" in body:
        chat["max_completion_tokens"] = body["max_output_tokens"]
    if "message.output_text.logprobs" in body.get("include", []) or chat.get(
        "top_logprobs"
    ):
        chat["logprobs"] = True
    if effort := (body.get("reasoning") or {}).get("effort"):
        chat["reasoning_effort"] = effort
    return chat


def offered_functions(body: Mapping[str, Any]) -> dict[str, tuple[str | None, Json]]:
    """The functions that a request offers, each with its namespace, by the name the model reads.

    Raises ApiError where two have the same name.
    """
    found: dict[str, tuple[str | None, Json]] = {}
    for tool in body.get("tools", []):
        if tool["type"] == "web_search":  # offered by codex; there is none here
            continue
        space: str | None = None
        members = [tool]
        if tool["type"] == "namespace":
            space = tool["name"]
            members = tool["tools"]
        for function in members:
            name = _full_name(space, function["name"])
            if name in found:
                raise ApiError(400, f"two tools are named {name!r}: rename one", "tools")
            found[name] = (space, function)
    return found


def _full_name(space: str | None, name: str) -> str:
    if not space:
        return name
    return f"{space}.{name}"


def _chat_tool(name: str, tool: Mapping[str, Any]) -> Json:
    function = {**tool, "name": name}
    function.pop("type", None)
    function.pop("defer_loading", None)
    return {"type": "function", "function": function}


def _messages(instructions: str | None, items: list[Json]) -> list[Json]:
    """Chat messages; reasoning and calls join the assistant's turn that they belong to."""
    turns: list[Json] = []
    if instructions:
        turns.append({"role": "system", "content": instructions})
    for item in items:
        match item["type"]:
            case "function_call" if item.get("status") == "incomplete":
                continue  # the model broke it off: what it wrote is a message behind it
            case hosted if hosted in _HOSTED:
                continue  # what came of it stands in the message behind it
            case "reasoning":
                parts = item.get("content") or []
                text = "".join(part["text"] for part in parts)
                turn = _thinking(turns)
                turn["reasoning_content"] = turn.get("reasoning_content", "") + text
            case "function_call":
                call = _chat_call(item["call_id"], item)
                _assistant(turns).setdefault("tool_calls", []).append(call)
            case "custom_tool_call":  # of a tool that takes a text
                text = json.dumps({"input": item["input"]})
                call = _chat_call(item["call_id"], {**item, "arguments": text})
                _assistant(turns).setdefault("tool_calls", []).append(call)
            case "function_call_output" | "custom_tool_call_output":
                turns.append(_result(item["call_id"], item.get("output")))
            case "mcp_call":  # a call that the server ran itself
                call = _chat_call(item["id"], item)
                _assistant(turns).setdefault("tool_calls", []).append(call)
                turns.append(
                    _result(item["id"], item.get("output") or item.get("error") or "")
                )
            case _ if item["role"] == "assistant":
                _assistant(turns)["content"] += text_of(item.get("content"))
            case _:
                content = text_of(item.get("content"))
                turns.append({"role": item["role"], "content": content})
    return turns


def _thinking(turns: list[Json]) -> Json:
    """The turn that more thinking belongs to: a new one, unless calls wait for their results."""
    if not turns or not turns[-1].get("tool_calls"):
        turns.append({"role": "assistant", "content": ""})
    return turns[-1]


def _assistant(turns: list[Json]) -> Json:
    """The assistant's turn that is still open, or a new one."""
    if not turns or turns[-1]["role"] != "assistant":
        turns.append({"role": "assistant", "content": ""})
    return turns[-1]


def _chat_call(call_id: str, item: Json) -> Json:
    name = _full_name(item.get("namespace"), item["name"])
    function = {"name": name, "arguments": item.get("arguments")}
    return {"id": call_id, "type": "function", "function": function}


def _result(call_id: str, content: Any) -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": content}
