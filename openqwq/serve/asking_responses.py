"""A ResponsesRequest as the chat request that says the same, and the items that it goes on from."""

from collections.abc import Mapping
from typing import Any

from openqwq.serve.protocol import ApiError
from openqwq.serve.store import ResponseStore

Json = dict[str, Any]
# What both APIs call by the same name.
_SAME = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_loops", "ignore_eos"),
    *("parallel_tool_calls", "thinking_budget", "top_logprobs", "chat_template_kwargs"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias"),
)


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
        if item.get("type") == "item_reference" or ("role" not in item and "type" not in item):
            items.append(store.item(item["id"]))
            continue
        kind = item.get("type") or "message"
        items.append({**item, "type": kind, "id": item.get("id") or f"in_{suffix}_{number}"})
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
    for name in _SAME:
        if name in body:
            chat[name] = body[name]
    if body.get("tools"):
        chat["tools"] = [_chat_tool(name, tool) for name, (_, tool) in functions(body).items()]
    match body.get("tool_choice"):
        case {"name": name}:
            chat["tool_choice"] = {"type": "function", "function": {"name": name}}
        case str(choice):
            chat["tool_choice"] = choice
    form = (body.get("text") or {}).get("format") or {"type": "text"}
    if form["type"] == "json_schema":
        form = {"type": "json_schema", "json_schema": form}
    chat["response_format"] = form
    if "max_output_tokens" in body:
        chat["max_completion_tokens"] = body["max_output_tokens"]
    if "message.output_text.logprobs" in body.get("include", []):
        chat["logprobs"] = True
    if effort := (body.get("reasoning") or {}).get("effort"):
        chat["reasoning_effort"] = effort
    return chat


def functions(body: Mapping[str, Any]) -> dict[str, tuple[str | None, Json]]:
    """The functions that a request offers, each with its namespace, by the name the model reads.

    Raises ApiError where two have the same name.
    """
    found: dict[str, tuple[str | None, Json]] = {}
    for tool in body.get("tools", []):
        if tool["type"] == "web_search":  # offered by codex; there is none here
            continue
        space = tool["name"] if tool["type"] == "namespace" else None
        for function in tool["tools"] if space else [tool]:
            name = _full_name(space, function["name"])
            if name in found:
                raise ApiError(400, f"two tools are named {name!r}: rename one", "tools")
            found[name] = (space, function)
    return found


def _full_name(space: str | None, name: str) -> str:
    return f"{space}.{name}" if space else name


def _chat_tool(name: str, tool: Mapping[str, Any]) -> Json:
    function = {key: value for key, value in tool.items() if key not in ("type", "defer_loading")}
    return {"type": "function", "function": {**function, "name": name}}


def _messages(instructions: str | None, items: list[Json]) -> list[Json]:
    """Chat messages; reasoning and calls join the assistant's turn that they belong to."""
    turns: list[Json] = []
    if instructions:
        turns.append({"role": "system", "content": instructions})
    for item in items:
        match item["type"]:
            case "reasoning":
                parts = item.get("content") or []
                text = "".join(part["text"] for part in parts)
                turns.append({"role": "assistant", "content": "", "reasoning_content": text})
            case "function_call":
                call = _chat_call(item["call_id"], item)
                _assistant(turns).setdefault("tool_calls", []).append(call)
            case "function_call_output":
                turns.append(_result(item["call_id"], _text(item["output"])))
            case "mcp_call":  # a call that the server ran itself
                call = _chat_call(item["id"], item)
                _assistant(turns).setdefault("tool_calls", []).append(call)
                turns.append(_result(item["id"], item.get("output") or item.get("error") or ""))
            case _ if item["role"] == "assistant":
                _assistant(turns)["content"] += _text(item["content"])
            case _:
                turns.append({"role": item["role"], "content": _text(item["content"])})
    return turns


def _assistant(turns: list[Json]) -> Json:
    """The assistant's turn that is still open, or a new one."""
    if not turns or turns[-1]["role"] != "assistant":
        turns.append({"role": "assistant", "content": ""})
    return turns[-1]


def _chat_call(call_id: str, item: Json) -> Json:
    name = _full_name(item.get("namespace"), item["name"])
    function = {"name": name, "arguments": item["arguments"]}
    return {"id": call_id, "type": "function", "function": function}


def _result(call_id: str, text: str) -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or part.get("refusal") or "" for part in content)
