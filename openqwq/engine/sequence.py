"""One running completion: its tokens, its budget, why it ended."""

from collections.abc import Sequence as Ids
from dataclasses import dataclass, field

from openqwq.types import Completion, FinishReason, SamplingParams


@dataclass(frozen=True)
class ThinkTokens:
    """The ids that mark thinking, and what is forced when the thinking budget is spent.

    `closing` must end with `close`.
    """

    open: int
    close: int
    closing: tuple[int, ...]


@dataclass(eq=False)
class Sequence:
    """A prompt and what has been drawn after it."""

    prompt_ids: list[int]
    params: SamplingParams
    seed: int
    max_tokens: int  # params.max_tokens, or less where the context ends
    think: ThinkTokens | None = None
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    sampled_mask: list[bool] = field(default_factory=list)
    weight_version: list[int] = field(default_factory=list)
    reasoning_tokens: int = 0
    in_thinking: bool = False
    forced: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        if self.think is not None:
            self.in_thinking = opens_thinking(self.prompt_ids, self.think)

    def next_forced(self) -> int | None:
        """The token the engine must put next instead of a sampled one, if any."""
        budget = self.params.thinking_budget
        spent = budget is not None and self.in_thinking and self.reasoning_tokens >= budget
        if spent and not self.forced and self.think is not None:
            self.forced = list(self.think.closing)
        return self.forced.pop(0) if self.forced else None

    def append(self, token_id: int, log_prob: float, sampled: bool, version: int) -> None:
        """Take one token and decide whether it is the last."""
        self.token_ids.append(token_id)
        self.log_probs.append(log_prob)
        self.sampled_mask.append(sampled)
        self.weight_version.append(version)
        if self.think is not None:
            if token_id == self.think.close:
                self.in_thinking = False
            elif token_id == self.think.open:
                self.in_thinking = True
            elif self.in_thinking:
                self.reasoning_tokens += 1
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
            self.reasoning_tokens,
        )


def opens_thinking(prompt_ids: Ids[int], think: ThinkTokens) -> bool:
    """Whether a reply to this prompt starts inside the thinking, as QwQ's template makes it."""
    for token_id in reversed(prompt_ids):
        if token_id in (think.open, think.close):
            return token_id == think.open
    return False
