"""A reply in the form of Anthropic's /v1/messages: blocks of thinking, text and tool use."""

from openqwq.serve.protocol import ApiError, Json, anthropic_error
from openqwq.serve.reply import Ask, Finish, Piece

SIGNATURE = "openqwq"  # clients send it back with the block; nobody checks it
_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "stop": "end_turn"}


class MessagesFormat:
    """See `Format`; without `shows_thinking` the thinking is left out."""

    done: str | None = None

    def __init__(self, reply_id: str, model: str, ask: Ask, shows_thinking: bool) -> None:
        self._ask = ask
        self._shows_thinking = shows_thinking
        self._suffix = reply_id.partition("_")[2]
        self._content: list[Json] = []
        self._open: str | None = None  # the type of the block that still grows
        self._message: Json = {
            "id": reply_id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": self._content,
            "stop_reason": None,
            "stop_sequence": None,
        }
        self.finishes: list[Finish] = []

    def start(self) -> list[Json]:
        """The message before its first block."""
        message = {**self._message, "content": [], "usage": self._usage(0)}
        return [{"type": "message_start", "message": message}]

    def feed(self, number: int, piece: Piece) -> list[Json]:
        """The events of a piece; none for thinking that is not shown."""
        events: list[Json] = []
        match piece.kind:
            case "reasoning" if self._shows_thinking:
                events = self._grow("thinking", piece.text)
            case "content":
                events = self._grow("text", piece.text)
            case "call_start":
                events = self._begin_call(piece)
            case "call_arguments":
                events = [
                    self._delta({"type": "input_json_delta", "partial_json": piece.text})
                ]
            case "call_end":
                assert piece.call is not None
                self._content[-1]["input"] = piece.call["arguments"]
                events = self._close()
        if piece.finish:
            self.finishes.append(piece.finish)
            events += self._close()
        return events

    def end(self) -> list[Json]:
        """Why it ended, and what it cost."""
        message = self.whole()
        delta = {name: message[name] for name in ("stop_reason", "stop_sequence")}
        ended = {"type": "message_delta", "delta": delta, "usage": message["usage"]}
        return [ended, {"type": "message_stop"}]

    def fail(self, error: ApiError) -> list[Json]:
        """The error, as an event."""
        return [anthropic_error(error)]

    def whole(self) -> Json:
        """The message."""
        (finish,) = self.finishes
        self._message["stop_reason"] = _REASONS[finish.reason]
        if finish.stop_text is not None:
            self._message["stop_reason"] = "stop_sequence"
        self._message["stop_sequence"] = finish.stop_text
        return {**self._message, "usage": self._usage(finish.completion_tokens)}

    def _usage(self, output_tokens: int) -> Json:
        return {
            "input_tokens": len(self._ask.prompt_ids),
            "output_tokens": output_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        }

    def _grow(self, kind: str, text: str) -> list[Json]:
        """More text of a kind, in the block that is open or in a new one."""
        events: list[Json] = []
        if self._open != kind:
            events = self._close()
            block: Json = {"type": kind, kind: ""}
            if kind == "thinking":
                block["signature"] = ""
            events.append(self._begin(block))
            self._open = kind
        self._content[-1][kind] += text
        return [*events, self._delta({"type": f"{kind}_delta", kind: text})]

    def _close(self) -> list[Json]:
        if self._open is None:
            return []
        events: list[Json] = []
        if self._open == "thinking":
            self._content[-1]["signature"] = SIGNATURE
            events.append(self._delta({"type": "signature_delta", "signature": SIGNATURE}))
        self._open = None
        return [*events, {"type": "content_block_stop", "index": len(self._content) - 1}]

    def _begin_call(self, piece: Piece) -> list[Json]:
        events = self._close()
        call_id = f"toolu_{self._suffix}_{piece.index}"
        block: Json = {"type": "tool_use", "id": call_id, "name": piece.text, "input": {}}
        self._open = "tool_use"
        return [*events, self._begin(block)]

    def _begin(self, block: Json) -> Json:
        self._content.append(block)
        index = len(self._content) - 1
        return {"type": "content_block_start", "index": index, "content_block": dict(block)}

    def _delta(self, delta: Json) -> Json:
        index = len(self._content) - 1
        return {"type": "content_block_delta", "index": index, "delta": delta}
