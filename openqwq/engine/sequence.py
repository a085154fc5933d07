"""One running completion: its tokens, its budget, why it ended."""

from dataclasses import dataclass, field

from openqwq.text.stream import ThinkTracker
from openqwq.types import Completion, FinishReason, SamplingParams, Steering, TokenEvent


@dataclass(eq=False)
class Sequence:
    """A prompt and what has been drawn after it.

    `closing_ids` are forced, one after another, once the thinking budget is spent. The engine's
    thread appends while the event loop reads and cancels: an event is published whole, and
    `finish_reason` after the last one.
    """

    prompt_ids: list[int]
    params: SamplingParams
    seed: int
    max_tokens: int  # params.max_tokens, or less where the context ends
    think: ThinkTracker
    closing_ids: list[int]
    token_ids: list[int] = field(default_factory=list)
    weight_version: list[int] = field(default_factory=list)
    events: list[TokenEvent] = field(default_factory=list)
    forced: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    failure: Exception | None = None
    steering: Steering | None = None

    def next_forced(self) -> int | None:
        """The token the engine must put next instead of a sampled one, if any."""
        budget = self.params.thinking_budget
        spent = budget is not None and self.think.reasoning_tokens >= budget
        spent = spent or (self.steering is not None and self.steering.answer_now)
        if spent and self.think.in_thinking and not self.forced:
            self.forced = list(self.closing_ids)
        return self.forced.pop(0) if self.forced else None

    def append(self, token_id: int, log_prob: float, sampled: bool, version: int) -> None:
        """Take one token and decide whether it is the last."""
        self.token_ids.append(token_id)
        self.weight_version.append(version)
        self.think.feed(token_id)
        reason: FinishReason | None = None
        if token_id in self.params.stop_token_ids:
            reason = "stop"
        elif len(self.token_ids) >= self.max_tokens:
            reason = "length"
        self.events.append(TokenEvent(token_id, log_prob, sampled, reason))
        if reason:
            self.finish_reason = reason

    def cancel(self, failure: Exception | None = None) -> None:
        """End now unless it has ended; what it holds is freed before the next step."""
        if self.finish_reason is None:
            self.failure, self.finish_reason = failure, "cancelled"

    def completion(self) -> Completion:
        """The finished record; raises what broke the engine's step, if anything did."""
        if self.failure:
            raise self.failure
        assert self.finish_reason is not None
        return Completion(
            self.token_ids,
            [event.log_prob for event in self.events],
            [event.sampled for event in self.events],
            self.weight_version,
            self.finish_reason,
            len(self.prompt_ids),
            self.think.reasoning_tokens,
        )
