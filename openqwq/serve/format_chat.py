"""A reply in the form of /v1/chat/completions: chunks while it comes, one object at the end."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openqwq import __version__
from openqwq.serve.format import Json, ending, finite, usage
from openqwq.serve.protocol import ApiError
from openqwq.serve.reply import Ask, Finish, Piece
from openqwq.serve.thinking import hides_thinking
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import TokenEvent


@dataclass
class Choice:
    """One reply, folded from its pieces."""

    reasoning: str = ""
    content: str = ""
    calls: list[Json] = field(default_factory=list)
    steps: list[Json] = field(default_factory=list)
    tokens: list[TokenEvent] = field(default_factory=list)
    finish: Finish | None = None


class ChatFormat:
    """See `Format`; `body` is the checked request."""

    done: str | None = "[DONE]"

    def __init__(
        self, reply_id: str, model: str, tokenizer: Tokenizer, ask: Ask, body: Mapping[str, Any]
    ) -> None:
        self._id, self._tokenizer, self._ask = reply_id, tokenizer, ask
        self._head: Json = {"id": reply_id, "created": int(time.time()), "model": model}
        self._head["system_fingerprint"] = f"openqwq-{__version__}"
        hidden = "hidden" if hides_thinking(body) else "reasoning_content"
        self._reasoning = body.get("reasoning_format", hidden)
        self._usage = bool(body.get("stream_options", {}).get("include_usage"))
        self._choices = [Choice() for _ in range(ask.n)]
        self.finishes: list[Finish] = []

    def start(self) -> list[Json]:
        """One chunk a choice with the role, sent at once so that the reply's id is known."""
        delta = {"role": "assistant", "content": ""}
        return [self._chunk(i, delta) for i in range(len(self._choices))]

    def feed(self, number: int, piece: Piece) -> list[Json]:
        """The chunk of a piece; none for thinking that is hidden."""
        choice, delta = self._choices[number], Json()
        choice.tokens += piece.tokens
        match piece.kind:
            case "reasoning":
                choice.reasoning += piece.text
                if self._reasoning == "hidden":
                    return []
                delta[self._reasoning] = piece.text
            case "content":
                choice.content += piece.text
                delta["content"] = piece.text
            case "tool_call":
                call = self._call(number, piece)
                choice.calls.append(call)
                delta["tool_calls"] = [{"index": piece.index, **call}]
            case "tool_step":
                assert piece.step is not None
                choice.steps = [s for s in choice.steps if s["id"] != piece.step["id"]]
                choice.steps.append(piece.step)
                delta["tool_steps"] = [piece.step]
        if piece.finish:
            choice.finish = piece.finish
            self.finishes.append(piece.finish)
        return [self._chunk(number, delta, piece)]

    def end(self) -> list[Json]:
        """The chunk with the usage, where it was asked for."""
        if not self._usage:
            return []
        head = {**self._head, "object": "chat.completion.chunk"}
        return [{**head, "choices": [], "usage": usage(self._ask, self.finishes)}]

    def fail(self, error: ApiError) -> list[Json]:
        """The error as clients of this API look for it: under its own key."""
        return [error.body()]

    def whole(self) -> Json:
        """The chat completion."""
        choices = [self._choice(i, choice) for i, choice in enumerate(self._choices)]
        head = {**self._head, "object": "chat.completion", "choices": choices}
        return {**head, "usage": usage(self._ask, self.finishes)}

    def _choice(self, number: int, choice: Choice) -> Json:
        content = None if choice.calls and not choice.content else choice.content
        message: Json = {"role": "assistant", "content": content, "refusal": None}
        if self._reasoning != "hidden":
            message[self._reasoning] = choice.reasoning or None
        lists = {"tool_calls": choice.calls, "tool_steps": choice.steps}
        message |= {key: entries for key, entries in lists.items() if entries}
        log_probs = self._log_probs(choice.tokens) if self._ask.params.log_probs else None
        return {"index": number, "message": message, "logprobs": log_probs, **ending(choice.finish)}

    def _chunk(self, number: int, delta: Json, piece: Piece | None = None) -> Json:
        tokens = piece.tokens if piece else ()
        log_probs = self._log_probs(tokens) if self._ask.params.log_probs and tokens else None
        choice: Json = {"index": number, "delta": delta, "logprobs": log_probs}
        finish = ending(piece.finish if piece else None)
        choice |= finish if piece and piece.finish else {"finish_reason": None}
        head = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return {**head, "usage": None} if self._usage else head

    def _call(self, number: int, piece: Piece) -> Json:
        assert piece.call is not None
        arguments = json.dumps(piece.call["arguments"], ensure_ascii=False)
        function = {"name": piece.call["name"], "arguments": arguments}
        call_id = f"call_{self._id.partition('-')[2]}_{number}_{piece.index}"
        return {"id": call_id, "type": "function", "function": function}

    def _log_probs(self, tokens: Sequence[TokenEvent]) -> Json:
        def entry(token_id: int, log_prob: float) -> Json:
            data = self._tokenizer.token_bytes(token_id)
            text = data.decode(errors="replace")
            return {"token": text, "logprob": finite(log_prob), "bytes": list(data)}

        content = [
            {
                **entry(token.token_id, token.log_prob),
                "top_logprobs": [entry(*pair) for pair in token.alternatives],
            }
            for token in tokens
        ]
        return {"content": content, "refusal": None}
