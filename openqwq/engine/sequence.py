"""One running completion: its tokens, its budget, why it ended."""

from dataclasses import dataclass, field

from openqwq.text.stream import ThinkTracker
from openqwq.types import Completion, FinishReason, SamplingParams


@dataclass(eq=False)
class Sequence:
    """A prompt and what has been drawn after it.

    `closing_ids` are forced, one after another, once the thinking budget is spent.
    """

    prompt_ids: list[int]
    params: SamplingParams
    seed: int
    max_tokens: int  # params.max_tokens, or less where the context ends
    think: ThinkTracker
    closing_ids: list[int]
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    sampled_mask: list[bool] = field(default_factory=list)
    weight_version: list[int] = field(default_factory=list)
    forced: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def next_forced(self) -> int | None:
        """The token the engine must put next instead of a sampled one, if any."""
        budget = self.params.thinking_budget
        spent = budget is not None and self.think.reasoning_tokens >= budget
        if spent and self.think.in_thinking and not self.forced:
            self.forced = list(self.closing_ids)
        return self.forced.pop(0) if self.forced else None

    def append(self, token_id: int, log_prob: float, sampled: bool, version: int) -> None:
        """Take one token and decide whether it is the last."""
        self.token_ids.append(token_id)
        self.log_probs.append(log_prob)
        self.sampled_mask.append(sampled)
        self.weight_version.append(version)
        self.think.feed(token_id)
        if token_id in self.params.stop_token_ids:
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.max_tokens:
            self.finish_reason = "length"

    def completion(self) -> Completion:
        """The finished record."""
        assert self.finish_reason is not None
        return Completion(
            self.token_ids,
            self.log_probs,
            self.sampled_mask,
            self.weight_version,
            self.finish_reason,
            len(self.prompt_ids),
            self.think.reasoning_tokens,
        )

