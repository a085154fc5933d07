"""A reply in the form of /v1/responses: items are opened, grown and closed one after another."""

import json
import time
from collections.abc import Mapping
from typing import Any

from openqwq.serve.asking_responses import offered_functions
from openqwq.serve.format import details, log_prob_entries
from openqwq.serve.protocol import ApiError, Json
from openqwq.serve.reply import Ask, Finish, Piece
from openqwq.text.tokenizer import Tokenizer

_ITEMS = {"reasoning": "reasoning", "content": "message"}  # by the kind of piece
_PREFIX = {"reasoning": "rs", "message": "msg"}
_TEXT_KIND = {"reasoning": "reasoning_text", "message": "output_text"}


class ResponsesFormat:
    """See `Format`; `body` is the checked request."""

    done: str | None = None

    def __init__(
        self,
        reply_id: str,
        model: str,
        tokenizer: Tokenizer,
        ask: Ask,
        body: Mapping[str, Any],
    ) -> None:
        self._ask = ask
        self._tokenizer = tokenizer
        self._suffix = reply_id.partition("_")[2]
        self._number = 0  # of the next event
        self._open_place: int | None = None  # of the item that still grows
        # of the server's own calls, by the step's id
        self._step_places: dict[str, int] = {}
        self.finishes: list[Finish] = []
        self._output: list[Json] = []
        self._functions = offered_functions(body)
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
            case "call_start":
                events += self._begin_call(piece)
            case "call_arguments":
                events.append(self._more_arguments(piece))
            case "call_end":
                events += self._close("completed")
            case "tool_step":
                events += self._step(piece)
        if piece.finish:
            self.finishes.append(piece.finish)
            self._add_last_log_probs(piece)
            status = self._status_where_another_begins()
            if piece.finish.reason == "length":
                status = "incomplete"
            events += self._close(status)
        return events

    def end(self) -> list[Json]:
        """The finished response."""
        response = self.whole()
        return [self._event(f"response.{response['status']}", response=response)]

    def fail(self, error: ApiError) -> list[Json]:
        """The error, and the response as it broke off."""
        code = error.code or "invalid_request_error"
        if error.status >= 500:
            code = "server_error"
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
        self._response["status"] = "completed"
        if finish.reason == "length":
            self._response["status"] = "incomplete"
            is_loop = finish.detail is not None and finish.detail[0] == "loop"
            self._response["incomplete_details"] = {
                "reason": "loop" if is_loop else "max_output_tokens"
            }
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
        events = self._close("incomplete")
        self._response["status"] = status
        return [*events, self._event(f"response.{status}", response=self.snapshot())]

    def _event(self, kind: str, **fields: Any) -> Json:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}

    def _item_event(self, kind: str, place: int, **fields: Any) -> Json:
        item_id = self._output[place]["id"]
        return self._event(
            f"response.{kind}", output_index=place, item_id=item_id, **fields
        )

    def _whole_item_event(self, kind: str, place: int) -> Json:
        item = _copied(self._output[place])
        return self._event(f"response.output_item.{kind}", output_index=place, item=item)

    def _part_event(self, kind: str, place: int, **fields: Any) -> Json:
        return self._item_event(kind, place, content_index=0, **fields)

    def _text(self, piece: Piece) -> list[Json]:
        kind = _ITEMS[piece.kind]
        place = self._open_place
        events: list[Json] = []
        if place is None or self._output[place]["type"] != kind:
            events = self._close(self._status_where_another_begins())
            place = len(self._output)
            events += self._open_text(kind)
        (part,) = self._output[place]["content"]
        part["text"] += piece.text
        fields: Json = {"delta": piece.text}
        if kind == "message":
            fields["logprobs"] = log_prob_entries(self._tokenizer, piece.tokens)
            part["logprobs"] += fields["logprobs"]
        return [*events, self._part_event(f"{_TEXT_KIND[kind]}.delta", place, **fields)]

    def _add_last_log_probs(self, piece: Piece) -> None:
        """Note the log-probs of the last tokens where these had no text of their own."""
        place = self._open_place
        if place is not None and self._output[place]["type"] == "message":
            (part,) = self._output[place]["content"]
            part["logprobs"] += log_prob_entries(self._tokenizer, piece.tokens)

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
        self._open_place = place
        added = self._whole_item_event("added", place)
        item["content"] = [part]
        return [added, self._part_event("content_part.added", place, part=_copied(part))]

    def _status_where_another_begins(self) -> str:
        """The end of the open item where another follows: a call that nothing ended is broken."""
        place = self._open_place
        if place is not None and self._output[place]["type"] == "function_call":
            return "incomplete"
        return "completed"

    def _close(self, status: str) -> list[Json]:
        """Close the item that is open, if one is."""
        place = self._open_place
        if place is None:
            return []
        self._open_place = None
        item = self._output[place]
        item["status"] = status
        events: list[Json] = []
        if item["type"] == "function_call":
            fields = {"arguments": item["arguments"], "name": item["name"]}
            events.append(self._item_event("function_call_arguments.done", place, **fields))
        else:
            (part,) = item["content"]
            fields = {key: part[key] for key in ("text", "logprobs") if key in part}
            events.append(self._part_event(f"{part['type']}.done", place, **fields))
            events.append(self._part_event("content_part.done", place, part=_copied(part)))
        return [*events, self._whole_item_event("done", place)]

    def _begin_call(self, piece: Piece) -> list[Json]:
        events = self._close(self._status_where_another_begins())
        place = len(self._output)
        space, function = self._functions[piece.text]
        item: Json = {"type": "function_call", "id": f"fc_{self._suffix}_{place}"}
        item |= {"call_id": f"call_{self._suffix}_{place}", "name": function["name"]}
        item["arguments"] = ""
        if space:
            item["namespace"] = space
        item["status"] = "in_progress"
        self._output.append(item)
        self._open_place = place
        return [*events, self._whole_item_event("added", place)]

    def _more_arguments(self, piece: Piece) -> Json:
        place = self._open_place
        assert place is not None
        self._output[place]["arguments"] += piece.text
        return self._item_event("function_call_arguments.delta", place, delta=piece.text)

    def _step(self, piece: Piece) -> list[Json]:
        """A call that the server runs itself: an `mcp_call`, as OpenAI calls such an item."""
        assert piece.step is not None
        step = piece.step
        if step["id"] in self._step_places:
            return self._returned(self._step_places.pop(step["id"]), step)
        events = self._close("completed")
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
        events.append(
            self._item_event("mcp_call_arguments.done", place, arguments=arguments)
        )
        item["arguments"] = arguments
        return events

    def _returned(self, place: int, step: Json) -> list[Json]:
        item = self._output[place]
        field = "output"
        ending = "completed"
        if step["error"]:
            field = "error"
            ending = "failed"
        item[field] = step["result"]
        item["status"] = ending
        return [
            self._item_event(f"mcp_call.{ending}", place),
            self._whole_item_event("done", place),
        ]


def _head(reply_id: str, model: str, ask: Ask, body: Mapping[str, Any]) -> Json:
    """A response before its first piece."""
    tools: list[Json] = []
    for tool in body.get("tools", []):
        tools.append({key: value for key, value in tool.items() if value is not None})
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
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": tools,
        "temperature": ask.params.temperature,
        "top_p": ask.params.top_p,
        "max_output_tokens": body.get("max_output_tokens"),
        "reasoning": {
            "effort": reasoning.get("effort"),
            "summary": reasoning.get("summary"),
        },
        "text": {"format": text.get("format") or {"type": "text"}},
        "store": body.get("store", True),
        "truncation": body.get("truncation", "disabled"),
        "previous_response_id": body.get("previous_response_id"),
        "usage": None,
    }


def _copied(value: Json) -> Json:
    copy: Json = json.loads(json.dumps(value))
    return copy
