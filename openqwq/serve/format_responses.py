"""A reply in the form of /v1/responses: items are opened, grown and closed one after another."""

import json
import time
from collections.abc import Mapping
from typing import Any

from openqwq.serve.asking_responses import functions
from openqwq.serve.format import Json, details
from openqwq.serve.protocol import ApiError
from openqwq.serve.reply import Ask, Finish, Piece

_INCOMPLETE = {"length": "max_output_tokens", "loop": "loop"}
_PREFIX = {"reasoning": "rs", "message": "msg"}
_TEXT_KIND = {"reasoning": "reasoning_text", "message": "output_text"}


class ResponsesFormat:
    """See `Format`; `body` is the checked request."""

    done: str | None = None

    def __init__(self, reply_id: str, model: str, ask: Ask, body: Mapping[str, Any]) -> None:
        self._ask, self._suffix = ask, reply_id.partition("_")[2]
        self._number = 0  # of the next event
        self._text_place: int | None = None  # of the text item that is open
        self._step_places: dict[str, int] = {}  # of the server's own calls, by the step's id
        self.finishes: list[Finish] = []
        self._output: list[Json] = []
        self._functions = functions(body)
        self._response = _head(reply_id, model, ask, body)
        self._response["output"] = self._output

    def start(self) -> list[Json]:
        """The response as it begins."""
        self._response["status"] = "in_progress"
        kinds = ("response.created", "response.in_progress")
        return [self._event(kind, response=self.snapshot()) for kind in kinds]

    def feed(self, number: int, piece: Piece) -> list[Json]:
        """The events of a piece."""
        events: list[Json] = []
        match piece.kind:
            case "reasoning" | "content":
                events += self._text(piece)
            case "tool_call":
                events += self._function_call(piece)
            case "tool_step":
                events += self._step(piece)
        if piece.finish:
            self.finishes.append(piece.finish)
            cut = piece.finish.reason == "length"
            events += self._close_text("incomplete" if cut else "completed")
        return events

    def end(self) -> list[Json]:
        """The finished response."""
        response = self.whole()
        return [self._event(f"response.{response['status']}", response=response)]

    def fail(self, error: ApiError) -> list[Json]:
        """The error, and the response as it broke off."""
        code = error.code or ("server_error" if error.status >= 500 else "invalid_request_error")
        described = {"code": code, "message": str(error)}
        events = [self._event("error", **described, param=error.param)]
        self._response["error"] = described
        return events + self._broken_off("failed")

    def cancel(self) -> list[Json]:
        """The response as it was when somebody ended it."""
        return self._broken_off("cancelled")

    def whole(self) -> Json:
        """The response."""
        (finish,) = self.finishes
        cut = finish.reason == "length"
        self._response["status"] = "incomplete" if cut else "completed"
        if cut:
            kind = finish.detail[0] if finish.detail else "length"
            reason = _INCOMPLETE.get(kind, "max_output_tokens")
            self._response["incomplete_details"] = {"reason": reason}
        self._response["finish_details"] = details(finish)
        prompt = len(self._ask.prompt_ids) + finish.more_prompt_tokens
        completion = finish.completion_tokens
        self._response["usage"] = {
            "input_tokens": prompt,
            "output_tokens": completion,
            "total_tokens": prompt + completion,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": finish.reasoning_tokens},
        }
        return self.snapshot()

    def snapshot(self) -> Json:
        """The response as it stands."""
        return _copied(self._response)

    def _broken_off(self, status: str) -> list[Json]:
        events = self._close_text("incomplete")
        self._response["status"] = status
        return [*events, self._event(f"response.{status}", response=self.snapshot())]

    def _event(self, kind: str, **fields: Any) -> Json:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}

    def _item_event(self, kind: str, place: int, **fields: Any) -> Json:
        item_id = self._output[place]["id"]
        return self._event(f"response.{kind}", output_index=place, item_id=item_id, **fields)

    def _whole_item_event(self, kind: str, place: int) -> Json:
        item = _copied(self._output[place])
        return self._event(f"response.output_item.{kind}", output_index=place, item=item)

    def _part_event(self, kind: str, place: int, **fields: Any) -> Json:
        if kind.startswith("output_text"):
            fields["logprobs"] = []
        return self._item_event(kind, place, content_index=0, **fields)

    def _text(self, piece: Piece) -> list[Json]:
        kind = "reasoning" if piece.kind == "reasoning" else "message"
        place = self._text_place
        events: list[Json] = []
        if place is None or self._output[place]["type"] != kind:
            events = self._close_text()
            place = len(self._output)
            events += self._open_text(kind)
        self._output[place]["content"][0]["text"] += piece.text
        delta = self._part_event(f"{_TEXT_KIND[kind]}.delta", place, delta=piece.text)
        return [*events, delta]

    def _open_text(self, kind: str) -> list[Json]:
        place = len(self._output)
        item: Json = {"type": kind, "id": f"{_PREFIX[kind]}_{self._suffix}_{place}"}
        item |= {"status": "in_progress", "content": []}
        part: Json = {"type": _TEXT_KIND[kind], "text": ""}
        if kind == "reasoning":
            item["summary"] = []
        else:
            item["role"] = "assistant"
            part |= {"annotations": [], "logprobs": []}
        self._output.append(item)
        self._text_place = place
        added = self._whole_item_event("added", place)
        item["content"] = [part]
        return [added, self._part_event("content_part.added", place, part=dict(part))]

    def _close_text(self, status: str = "completed") -> list[Json]:
        """Close the item of text that is open, if one is."""
        if self._text_place is None:
            return []
        place, self._text_place = self._text_place, None
        item = self._output[place]
        item["status"] = status
        (part,) = item["content"]
        return [
            self._part_event(f"{part['type']}.done", place, text=part["text"]),
            self._part_event("content_part.done", place, part=dict(part)),
            self._whole_item_event("done", place),
        ]

    def _function_call(self, piece: Piece) -> list[Json]:
        assert piece.call is not None
        events = self._close_text()
        place = len(self._output)
        arguments = json.dumps(piece.call["arguments"], ensure_ascii=False)
        space, function = self._functions[piece.call["name"]]
        name = function["name"]
        item: Json = {"type": "function_call", "id": f"fc_{self._suffix}_{place}"}
        item |= {"call_id": f"call_{self._suffix}_{place}", "name": name, "arguments": ""}
        if space:
            item["namespace"] = space
        item["status"] = "in_progress"
        self._output.append(item)
        events.append(self._whole_item_event("added", place))
        kind = "function_call_arguments"
        events.append(self._item_event(f"{kind}.delta", place, delta=arguments))
        events.append(self._item_event(f"{kind}.done", place, arguments=arguments, name=name))
        item |= {"arguments": arguments, "status": "completed"}
        return [*events, self._whole_item_event("done", place)]

    def _step(self, piece: Piece) -> list[Json]:
        """A call that the server runs itself: an `mcp_call`, as OpenAI calls such an item."""
        assert piece.step is not None
        step = piece.step
        if step["id"] in self._step_places:
            return self._returned(self._step_places.pop(step["id"]), step)
        events = self._close_text()
        place = len(self._output)
        self._step_places[step["id"]] = place
        arguments = json.dumps(step["arguments"], ensure_ascii=False)
        item: Json = {"type": "mcp_call", "id": f"mcp_{self._suffix}_{place}"}
        item |= {"server_label": "server", "name": step["name"], "arguments": ""}
        item |= {"output": None, "error": None, "status": "in_progress"}
        self._output.append(item)
        events.append(self._whole_item_event("added", place))
        events.append(self._item_event("mcp_call.in_progress", place))
        events.append(self._item_event("mcp_call_arguments.delta", place, delta=arguments))
        events.append(self._item_event("mcp_call_arguments.done", place, arguments=arguments))
        item["arguments"] = arguments
        return events

    def _returned(self, place: int, step: Json) -> list[Json]:
        item = self._output[place]
        field, ending = ("error", "failed") if step["error"] else ("output", "completed")
        item[field] = step["result"]
        item["status"] = ending
        return [
            self._item_event(f"mcp_call.{ending}", place),
            self._whole_item_event("done", place),
        ]


def _head(reply_id: str, model: str, ask: Ask, body: Mapping[str, Any]) -> Json:
    """A response before its first piece."""
    tools = [{k: v for k, v in tool.items() if v is not None} for tool in body.get("tools", [])]
    reasoning = body.get("reasoning") or {}
    text = body.get("text") or {}
    background = body.get("background", False)
    return {
        "id": reply_id,
        "object": "response",
        "created_at": int(time.time()),
        "model": model,
        "status": "queued" if background else "in_progress",
        "background": background,
        "error": None,
        "incomplete_details": None,
        "finish_details": None,
        "instructions": body.get("instructions"),
        "metadata": body.get("metadata", {}),
        "output": [],
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "tool_choice": body.get("tool_choice", "auto" if tools else "none"),
        "tools": tools,
        "temperature": ask.params.temperature,
        "top_p": ask.params.top_p,
        "max_output_tokens": body.get("max_output_tokens"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "text": {"format": text.get("format") or {"type": "text"}},
        "store": body.get("store", True),
        "truncation": "disabled",
        "previous_response_id": body.get("previous_response_id"),
        "usage": None,
    }


def _copied(value: Json) -> Json:
    copy: Json = json.loads(json.dumps(value))
    return copy
