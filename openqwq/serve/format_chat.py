"""A reply in the form of /v1/chat/completions: chunks while it comes, one object at the end."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openqwq import __version__
from openqwq.serve.format import ending, log_prob_entries, usage
from openqwq.serve.protocol import ApiError, Json
from openqwq.serve.reply import Ask, Finish, Piece
from openqwq.serve.thinking import hides_thinking
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import TokenEvent

HIDDEN = "hidden"  # a `reasoning_format`: the thinking is left out


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
        self,
        reply_id: str,
        model: str,
        tokenizer: Tokenizer,
        ask: Ask,
        body: Mapping[str, Any],
    ) -> None:
        self._id = reply_id
        self._tokenizer = tokenizer
        self._ask = ask
        self._head: Json = {
            "id": reply_id,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"openqwq-{__version__}",
        }
        usual = HIDDEN if hides_thinking(body) else "reasoning_content"
        self._reasoning = body.get("reasoning_format", usual)
        self._calls_functions = "functions" in body  # deprecated, and so is how calls look
        self._usage = bool(body.get("stream_options", {}).get("include_usage"))
        self._choices = [Choice() for _ in range(ask.n)]
        self.finishes: list[Finish] = []

    def start(self) -> list[Json]:
        """One chunk a choice with the role, sent at once so that the reply's id is known."""
        delta = {"role": "assistant", "content": ""}
        return [self._chunk(number, delta) for number in range(len(self._choices))]

    def feed(self, number: int, piece: Piece) -> list[Json]:
        """The chunk of a piece; none for thinking that is hidden and for what ends a call."""
        choice = self._choices[number]
        choice.tokens += piece.tokens
        delta: Json = {}
        match piece.kind:
            case "reasoning":
                choice.reasoning += piece.text
                if self._reasoning == HIDDEN:
                    return []
                delta[self._reasoning] = piece.text
            case "content":
                choice.content += piece.text
                delta["content"] = piece.text
            case "call_start":
                choice.calls.append(self._begun_call(number, piece))
                begun = self._begun_call(number, piece)  # its own: the other one grows
                delta = self._call_delta({"index": piece.index, **begun})
            case "call_arguments":
                choice.calls[-1]["function"]["arguments"] += piece.text
                more = {"arguments": piece.text}
                delta = self._call_delta({"index": piece.index, "function": more})
            case "call_end":
                return []
            case "tool_step":
                assert piece.step is not None
                self._note_step(choice, piece.step)
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
        choices = [
            self._choice(number, choice) for number, choice in enumerate(self._choices)
        ]
        head = {**self._head, "object": "chat.completion", "choices": choices}
        return {**head, "usage": usage(self._ask, self.finishes)}

    def _choice(self, number: int, choice: Choice) -> Json:
        message: Json = {"role": "assistant", "content": choice.content, "refusal": None}
        if choice.calls and not choice.content:
            message["content"] = None
        if self._reasoning != HIDDEN:
            message[self._reasoning] = choice.reasoning or None
        if choice.calls and self._calls_functions:
            message["function_call"] = choice.calls[0]["function"]
        elif choice.calls:
            message["tool_calls"] = choice.calls
        if choice.steps:
            message["tool_steps"] = choice.steps
        log_probs: Json | None = None
        if self._ask.params.log_probs:
            log_probs = self._log_probs(choice.tokens)
        return {
            "index": number,
            "message": message,
            "logprobs": log_probs,
            **self._ending(choice.finish),
        }

    def _chunk(self, number: int, delta: Json, piece: Piece | None = None) -> Json:
        choice: Json = {
            "index": number,
            "delta": delta,
            "logprobs": None,
            "finish_reason": None,
        }
        if piece and piece.tokens and self._ask.params.log_probs:
            choice["logprobs"] = self._log_probs(piece.tokens)
        if piece and piece.finish:
            choice |= self._ending(piece.finish)
        chunk: Json = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        if self._usage:
            chunk["usage"] = None
        return chunk

    def _call_delta(self, call: Json) -> Json:
        if self._calls_functions:
            return {"function_call": call["function"]}
        return {"tool_calls": [call]}

    def _ending(self, finish: Finish | None) -> Json:
        ended = ending(finish)
        if self._calls_functions and ended["finish_reason"] == "tool_calls":
            ended["finish_reason"] = "function_call"
        return ended

    def _begun_call(self, number: int, piece: Piece) -> Json:
        suffix = self._id.partition("-")[2]
        return {
            "id": f"call_{suffix}_{number}_{piece.index}",
            "type": "function",
            "function": {"name": piece.text, "arguments": ""},
        }

    def _note_step(self, choice: Choice, step: Json) -> None:
        """Add a call that the server runs itself, or what it returned in its place."""
        others = [earlier for earlier in choice.steps if earlier["id"] != step["id"]]
        choice.steps = [*others, step]

    def _log_probs(self, tokens: Sequence[TokenEvent]) -> Json:
        return {"content": log_prob_entries(self._tokenizer, tokens), "refusal": None}
