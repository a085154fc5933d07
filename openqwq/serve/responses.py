"""/v1/responses: the subset of OpenAI's newer API that needs no stored state."""

import json
import time
from collections.abc import Mapping
from typing import Any

from openqwq.engine.open import OpenedModel
from openqwq.serve.asking import ask_chat
from openqwq.serve.chat import Json
from openqwq.serve.reply import Ask, Finish, Piece

_INCOMPLETE = {"length": "max_output_tokens", "loop": "loop"}


def ask_response(model: OpenedModel, body: Mapping[str, Any]) -> Ask:
    """The ask of a ResponsesRequest, by way of the chat request that says the same."""
    text = body["input"]
    items = [{"role": "user", "content": text}] if isinstance(text, str) else text
    chat: Json = {"messages": _messages(body.get("instructions"), items)}
    same = ("temperature", "top_p", "parallel_tool_calls")
    chat |= {key: body[key] for key in same if key in body}
    if body.get("tools"):
        chat["tools"] = [
            {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
            for tool in body["tools"]
        ]
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
    if effort := (body.get("reasoning") or {}).get("effort"):
        chat["reasoning_effort"] = effort
    return ask_chat(model, chat)


def _messages(instructions: str | None, items: list[Any]) -> list[Json]:
    """Chat messages; reasoning and calls join the assistant's turn that they belong to."""
    turns: list[Json] = [{"role": "system", "content": instructions}] if instructions else []

    def assistant() -> Json:
        """The assistant's turn that is still open, or a new one."""
        if not turns or turns[-1]["role"] != "assistant":
            turns.append({"role": "assistant", "content": ""})
        return turns[-1]

    for item in items:
        match item.get("type") or "message":
            case "reasoning":
                text = "".join(part["text"] for part in item.get("content") or [])
                turns.append({"role": "assistant", "content": "", "reasoning_content": text})
            case "function_call":
                function = {"name": item["name"], "arguments": item["arguments"]}
                call = {"id": item["call_id"], "type": "function", "function": function}
                assistant().setdefault("tool_calls", []).append(call)
            case "function_call_output":
                name = item["call_id"]
                turns.append({"role": "tool", "tool_call_id": name, "content": item["output"]})
            case _ if item["role"] == "assistant":
                content = item["content"]
                parts = [content] if isinstance(content, str) else [p["text"] for p in content]
                assistant()["content"] += "".join(parts)
            case _:
                turns.append({"role": item["role"], "content": item["content"]})
    return turns


class ResponsesForm:
    """See `serve.chat.Form`: output items are opened, grown and closed one after another."""

    def __init__(self, reply_id: str, model: str, ask: Ask, body: Mapping[str, Any]) -> None:
        self._ask, self._suffix = ask, reply_id.partition("_")[2]
        self._output: list[Json] = []
        self._number = 0  # of the next event
        self.finishes: list[Finish] = []
        tools = [{k: v for k, v in t.items() if v is not None} for t in body.get("tools", [])]
        self._response: Json = {
            "id": reply_id,
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": body.get("instructions"),
            "metadata": body.get("metadata", {}),
            "output": self._output,
            "parallel_tool_calls": body.get("parallel_tool_calls", True),
            "tool_choice": body.get("tool_choice", "auto" if tools else "none"),
            "tools": tools,
            "temperature": ask.params.temperature,
            "top_p": ask.params.top_p,
            "max_output_tokens": body.get("max_output_tokens"),
            "reasoning": {"effort": (body.get("reasoning") or {}).get("effort")},
            "text": {"format": (body.get("text") or {}).get("format") or {"type": "text"}},
            "store": False,
            "truncation": "disabled",
            "previous_response_id": None,
            "usage": None,
        }

    def start(self) -> list[Json]:
        """The response as it begins."""
        kinds = ("response.created", "response.in_progress")
        return [self._event(kind, response=self._snapshot()) for kind in kinds]

    def feed(self, number: int, piece: Piece) -> list[Json]:
        """The events of a piece."""
        events: list[Json] = []
        match piece.kind:
            case "reasoning" | "content":
                kind = "reasoning" if piece.kind == "reasoning" else "message"
                events += self._open(kind)
                self._output[-1]["content"][0]["text"] += piece.text
                events.append(self._part_event(f"{self._text_kind()}.delta", delta=piece.text))
            case "tool_call":
                events += self._function_call(piece)
        if piece.finish:
            self.finishes.append(piece.finish)
            events += self._close("completed" if piece.finish.reason != "length" else "incomplete")
        return events

    def end(self) -> list[Json]:
        """The finished response."""
        response = self.whole()
        return [self._event(f"response.{response['status']}", response=response)]

    def whole(self) -> Json:
        """The response."""
        (finish,) = self.finishes
        cut = finish.reason == "length"
        self._response["status"] = "incomplete" if cut else "completed"
        if cut:
            kind = finish.detail[0] if finish.detail else "length"
            self._response["incomplete_details"] = {
                "reason": _INCOMPLETE.get(kind, "max_output_tokens")
            }
        prompt, completion = len(self._ask.prompt_ids), finish.completion_tokens
        self._response["usage"] = {
            "input_tokens": prompt,
            "output_tokens": completion,
            "total_tokens": prompt + completion,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": finish.reasoning_tokens},
        }
        return self._snapshot()

    def _snapshot(self) -> Json:
        copy: Json = json.loads(json.dumps(self._response))
        return copy

    def _event(self, kind: str, **fields: Any) -> Json:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}

    def _item_event(self, kind: str, **fields: Any) -> Json:
        place = {"output_index": len(self._output) - 1, "item_id": self._output[-1]["id"]}
        return self._event(f"response.{kind}", **place, **fields)

    def _part_event(self, kind: str, **fields: Any) -> Json:
        extra: Json = {"logprobs": []} if kind.startswith("output_text") else {}
        return self._item_event(kind, content_index=0, **extra, **fields)

    def _text_kind(self) -> str:
        return "reasoning_text" if self._output[-1]["type"] == "reasoning" else "output_text"

    def _open(self, kind: str) -> list[Json]:
        """Open an item of text unless one of that kind is open."""
        last = self._output[-1] if self._output else {}
        if last.get("type") == kind and last.get("status") == "in_progress":
            return []
        events = self._close()
        name = f"{'rs' if kind == 'reasoning' else 'msg'}_{self._suffix}_{len(self._output)}"
        item: Json = {"type": kind, "id": name, "status": "in_progress"}
        item |= Json(summary=[]) if kind == "reasoning" else Json(role="assistant")
        self._output.append({**item, "content": []})
        added = self._event(
            "response.output_item.added",
            output_index=len(self._output) - 1,
            item=json.loads(json.dumps(self._output[-1])),
        )
        part: Json = {"type": self._text_kind(), "text": ""}
        part |= {"annotations": [], "logprobs": []} if kind == "message" else {}
        self._output[-1]["content"] = [part]
        return [*events, added, self._part_event("content_part.added", part=dict(part))]

    def _close(self, status: str = "completed") -> list[Json]:
        """Close the item that is open."""
        if not self._output or self._output[-1].get("status") != "in_progress":
            return []
        item = self._output[-1]
        item["status"] = status
        part = item["content"][0]
        return [
            self._part_event(f"{self._text_kind()}.done", text=part["text"]),
            self._part_event("content_part.done", part=dict(part)),
            self._done(item),
        ]

    def _done(self, item: Json) -> Json:
        place = len(self._output) - 1
        copy = json.loads(json.dumps(item))
        return self._event("response.output_item.done", output_index=place, item=copy)

    def _function_call(self, piece: Piece) -> list[Json]:
        assert piece.call is not None
        events = self._close()
        name, place = piece.call["name"], len(self._output)
        arguments = json.dumps(piece.call["arguments"], ensure_ascii=False)
        head = {"type": "function_call", "id": f"fc_{self._suffix}_{place}"}
        item: Json = {**head, "call_id": f"call_{self._suffix}_{place}", "name": name}
        begun = {**item, "arguments": "", "status": "in_progress"}
        item |= {"arguments": arguments, "status": "completed"}
        self._output.append(item)
        added = self._event("response.output_item.added", output_index=place, item=begun)
        delta = self._item_event("function_call_arguments.delta", delta=arguments)
        done = self._item_event("function_call_arguments.done", arguments=arguments, name=name)
        return [*events, added, delta, done, self._done(item)]
