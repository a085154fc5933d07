"""One running completion: its tokens, its budget, its grammar, why it ended."""

from collections.abc import Sequence as Ids
from dataclasses import dataclass, field

from openqwq.engine.adapters import NO_ADAPTER
from openqwq.engine.scoring import PromptReader
from openqwq.text.grammar import (
    AnswerGrammar,
    answer_grammar,
    can_compile,
    opening_first,
)
from openqwq.text.thinking import ThinkTracker
from openqwq.types import (
    Completion,
    FinishReason,
    OpenQwQError,
    PromptTooLongError,
    SamplingParams,
    Steering,
    TokenEvent,
)

LONGEST_CYCLE = 64  # tokens
LOOP_TOKENS = 4096  # of an answer; a matrix of 36 by 36 zeros has about as many
THINKING_LOOP_TOKENS = 2048


def repeats_itself(token_ids: list[int], start: int, span: int) -> bool:
    """Whether the last `span` tokens, none before `start`, repeat a cycle of up to 64 tokens.

    Honest answers repeat themselves for hundreds of tokens: tables, matrices, lines to be copied.
    """
    first = len(token_ids) - span
    if first < start:
        return False
    for period in range(1, LONGEST_CYCLE + 1):
        tail_agrees = token_ids[-1] == token_ids[-1 - period]
        if tail_agrees and token_ids[first + period :] == token_ids[first:-period]:
            return True
    return False


def room_after(prompt_ids: Ids[int], context_length: int) -> int:
    """How many tokens may follow a prompt; raises OpenQwQError where there is none, or no room."""
    if not prompt_ids:
        raise OpenQwQError("the prompt is empty: give at least one token")
    room = context_length - len(prompt_ids)
    if room < 1:
        raise PromptTooLongError(
            f"the prompt has {len(prompt_ids)} tokens, {1 - room} too many for a context of "
            f"{context_length}: shorten it or raise the context length"
        )
    return room


def check_request(
    prompt_ids: Ids[int], params: SamplingParams, vocab_size: int, closing: int
) -> None:
    """Raise OpenQwQError for unknown tokens, or no room after `closing` ones for an answer."""
    if not 0 <= min(prompt_ids) <= max(prompt_ids) < vocab_size:
        raise OpenQwQError(
            f"the prompt has token ids from {min(prompt_ids)} to {max(prompt_ids)}, but the model "
            f"knows 0 to {vocab_size - 1}: encode it with the model's own tokenizer"
        )
    for token_id, _ in params.logit_bias:
        if not 0 <= token_id < vocab_size:
            raise OpenQwQError(
                f"logit_bias names token {token_id}, but the model knows 0 to {vocab_size - 1}"
            )
    budget = params.thinking_budget
    if budget is not None and params.max_tokens - budget <= closing:
        raise OpenQwQError(
            f"thinking_budget is {budget} of max_tokens {params.max_tokens}: leave at least "
            f"{closing + 1} tokens, {closing} to close the thinking and 1 to answer"
        )


@dataclass(eq=False)
class Sequence:
    """A prompt and what has been drawn after it.

    `closing_ids` are forced, one after another, once the thinking has to end: its budget is spent,
    the reader wants the answer now, or it runs in a loop. The engine's thread appends while the
    event loop reads and cancels: an event is published whole, and `finish_reason` after the last.
    """

    prompt_ids: list[int]
    params: SamplingParams
    seed: int
    max_tokens: int  # params.max_tokens, or less where the context ends
    think: ThinkTracker
    closing_ids: list[int]
    grammar: AnswerGrammar | None = None
    steering: Steering | None = None
    adapter: int = NO_ADAPTER
    token_ids: list[int] = field(default_factory=list)
    weight_version: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    sampled_mask: list[bool] = field(default_factory=list)
    alternatives: dict[int, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    forced: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    # index of the last token, why it is the last
    ending: tuple[int, FinishReason] | None = None
    failure: Exception | None = None
    phase_start: int = 0  # index of the answer's first token, once there is one
    thinking_loops: bool = False
    was_closed: bool = False  # the thinking, from outside
    header_rule: str = ""  # a grammar of the next header alone
    follows_grammars: bool = False  # the engine, also where a request has none
    reader: PromptReader | None = None  # of the prompt's states, where they are wanted

    def __post_init__(self) -> None:
        """Where the context ends before `max_tokens`, the thinking ends sooner too.

        The answer keeps what was asked for it, or a quarter of what is left if that is less.
        """
        self.opening_id = self.think.opening_id(self.prompt_ids)
        self.thinking_budget = self.params.thinking_budget
        if self.thinking_budget is not None:
            asked = self.params.max_tokens - self.thinking_budget
            answer = max(min(asked, self.max_tokens // 4), len(self.closing_ids) + 1)
            room = max(0, self.max_tokens - answer)
            self.thinking_budget = min(self.thinking_budget, room)
        self._begin_grammar()

    @property
    def may_open_thinking(self) -> bool:
        """Whether the next token may be the one that opens the thinking, whatever the grammar."""
        return self.opening_id >= 0 and self.phase_start == 0 and self.think.may_open

    def next_forced(self) -> int | None:
        """The token the engine must put next instead of a sampled one, if any."""
        if self.think.in_thinking and not self.forced:
            budget = self.thinking_budget
            spent = budget is not None and self.think.reasoning_tokens >= budget
            unwanted = self.steering is not None and self.steering.answer_now
            if spent or unwanted or self.thinking_loops:
                self._close_thinking(may_call=not unwanted and not self.thinking_loops)
        return self.forced.pop(0) if self.forced else None

    def _close_thinking(self, may_call: bool) -> None:
        """Force the answer, or let the model choose between it and a call."""
        may_call = may_call and self.params.may_call and self.follows_grammars
        if may_call and self.grammar is None and can_compile():
            self.header_rule = self.think.next_header()
        if self.header_rule:
            self.grammar = answer_grammar(self.think.tokenizer, self.header_rule)
        self.forced = self.think.closing(self.closing_ids, self.grammar is not None)
        self.was_closed = True

    def ruling(self) -> str:
        """The grammar of what comes next, with the thinking that the model may still open first."""
        if self.header_rule:
            return self.header_rule
        may_think = self.thinking_budget != 0 and not self.was_closed
        grammar = self.think.grammar(self.params.grammar or "", may_think)
        if self.may_open_thinking:
            return opening_first(grammar, self.opening_id)
        return grammar

    def _begin_grammar(self) -> None:
        """Begin the grammar where it also rules what stands between a thinking and the answer."""
        tokenizer = self.think.tokenizer
        if self.grammar is not None and tokenizer.writes_channels:
            self.grammar = answer_grammar(tokenizer, self.ruling())

    def mask(self) -> bytes | None:
        """What the grammar allows for a token that is sampled now; None where anything may come.

        A grammar that breaks ends this sequence alone.
        """
        if self.grammar is None or self.think.in_thinking:
            return None
        try:
            allowed = self.grammar.allowed()
            if self.may_open_thinking:
                marked = bytearray(allowed)
                marked[self.opening_id] = 255
                allowed = bytes(marked)
            return allowed
        except OpenQwQError as error:
            self.cancel(error)
            return None

    def append(
        self,
        token_id: int,
        log_prob: float,
        sampled: bool,
        version: int,
        alternatives: tuple[tuple[int, float], ...] = (),
    ) -> None:
        """Take one token and decide whether it is the last."""
        ruled = sampled and not self.finish_reason and not self.think.in_thinking
        opens = token_id == self.opening_id and self.may_open_thinking
        if ruled and self.grammar and not opens:
            self.grammar.accept(token_id)

        self.token_ids.append(token_id)
        self.log_probs.append(log_prob)
        self.sampled_mask.append(sampled)
        if alternatives:
            self.alternatives[len(self.token_ids) - 1] = alternatives

        if self.think.feed(token_id):
            self.phase_start = len(self.token_ids)
            if not self.think.in_thinking:
                self._begin_grammar()
        if self.header_rule and not (self.think.in_thinking or self.think.may_open):
            self.header_rule = ""
            self.grammar = None

        reason = self._reason(token_id, sampled)
        if reason:
            self.ending = len(self.token_ids) - 1, reason
        self.weight_version.append(version)
        if reason:
            self.finish_reason = reason

    def go_on_from(self, begun: Completion) -> None:
        """Take over the tokens of a completion of the same request that was cut short."""
        for i, token_id in enumerate(begun.token_ids):
            sampled = begun.sampled_mask[i]
            if not sampled:
                self.next_forced()  # it is this token
            self.append(token_id, begun.log_probs[i], sampled, begun.weight_version[i])

    def event(self, index: int) -> TokenEvent | None:
        """The streamed form of one token; None where it has not been drawn yet."""
        if index >= len(self.weight_version):
            return None
        reason: FinishReason | None = None
        if self.ending and self.ending[0] == index:
            reason = self.ending[1]
        return TokenEvent(
            self.token_ids[index],
            self.log_probs[index],
            self.sampled_mask[index],
            reason,
            self.alternatives.get(index, ()),
        )

    def _reason(self, token_id: int, sampled: bool) -> FinishReason | None:
        if token_id in self.params.stop_token_ids:
            return "stop"
        if self.grammar and sampled and token_id in self.grammar.end_ids:
            return "stop"
        if len(self.token_ids) >= self.max_tokens:
            return "length"

        span = THINKING_LOOP_TOKENS if self.think.in_thinking else LOOP_TOKENS
        watched = self.params.stop_loops and sampled
        if watched and repeats_itself(self.token_ids, self.phase_start, span):
            if not self.think.in_thinking:
                return "loop"
            self.thinking_loops = True
        return None

    def cancel(self, failure: Exception | None = None) -> None:
        """End now unless it has ended; what it holds is freed before the next step."""
        if self.finish_reason is None:
            self.failure = failure
            self.finish_reason = "cancelled"

    def completion(self) -> Completion:
        """The finished record; raises what broke the engine's step, if anything did."""
        if self.failure:
            raise self.failure
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
