"""Nouns and protocols that every room shares; imports nothing but the standard library."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NotRequired, Protocol, TypedDict

if TYPE_CHECKING:
    import torch

Products = Literal["fp32", "bf16"]  # what matrices are multiplied in
# auto: the products that this machine does faster
Precision = Literal["auto", "fp32", "bf16"]
Device = Literal["auto", "cpu", "cuda"]  # of our engine; auto: a GPU if there is one
FinishReason = Literal["stop", "length", "cancelled", "loop"]
# "scored": a reward was given, but nothing says whether the answer is right
ScoreStatus = Literal["correct", "wrong", "scored", "timeout", "truncated", "error"]
TestForm = Literal["stdin", "call", "script"]


class ToolCall(TypedDict):
    """One call the model asked for; `arguments` is a JSON object, never a JSON string.

    `written` is set in a history where a model's arguments were no JSON object: their text.
    """

    name: str
    arguments: dict[str, Any]
    written: NotRequired[str]


class Message(TypedDict):
    """One chat turn, in the form that checkpoints' own chat templates read.

    `weight` 0 marks a recorded assistant turn that is not to be imitated.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCall]]
    weight: NotRequired[int]


class OpenQwQError(Exception):
    """A user's mistake or a broken input: the message names the thing, the value and the remedy."""


class PromptTooLongError(OpenQwQError):
    """A prompt leaves no room for a token within the context."""


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. The defaults are QwQ's model card; training uses `for_training`.

    `temperature` 0 means greedy, others are at least 0.0001; `top_k` 0, `top_p` 1 and `min_p` 0
    switch a filter off.
    `thinking_budget` is the number of thinking tokens after which the engine closes the thinking.
    `grammar` is an llguidance grammar that the answer, after the thinking, must follow.
    Without `log_probs` an engine that works more for them may report NaN; `top_log_probs`
    alternatives are reported with each token. `stop_loops` ends a reply that
    repeats itself with the finish reason "loop".
    `presence_penalty` is taken from the logit of each token drawn so far, `frequency_penalty` for
    each time it was; `repetition_penalty` divides positive logits of tokens in prompt or reply, and
    multiplies negative ones (Keskar et al., arXiv 1909.05858); `logit_bias` holds (token id, what
    is added to its logit). Log-probs are of the distribution that results.
    `may_call` says that tools are offered: a model that writes in channels may then call one behind
    a spent budget, on engines that follow grammars.
    `adapter` names one that the engine was opened with; empty: what it uses by default.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.0
    max_tokens: int = 32768
    stop_token_ids: tuple[int, ...] = ()
    seed: int = 0
    thinking_budget: int | None = None
    grammar: str | None = None
    log_probs: bool = True
    top_log_probs: int = 0
    stop_loops: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    may_call: bool = False
    adapter: str = ""

    def __post_init__(self) -> None:
        limits = {
            "temperature": (
                self.temperature == 0 or self.temperature >= 0.0001,
                "0 (greedy) or at least 0.0001",
            ),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "at least 0 (0 switches it off)"),
            "min_p": (0 <= self.min_p < 1, "at least 0 and below 1"),
            "max_tokens": (self.max_tokens >= 1, "at least 1"),
            "top_log_probs": (
                0 <= self.top_log_probs <= 20
                and (self.log_probs or not self.top_log_probs),
                "from 0 to 20, and 0 without log_probs",
            ),
            "repetition_penalty": (
                self.repetition_penalty > 0,
                "above 0 (1 switches it off)",
            ),
            "thinking_budget": (
                self.thinking_budget is None or 0 <= self.thinking_budget < self.max_tokens,
                "none, or at least 0 and below max_tokens so that an answer fits",
            ),
        }
        for name, (holds, rule) in limits.items():
            if not holds:
                raise OpenQwQError(f"{name} is {getattr(self, name)!r}: it must be {rule}")

    @property
    def penalises(self) -> bool:
        """Whether logits depend on more than the model: on tokens so far, or on a bias."""
        penalties = self.presence_penalty or self.frequency_penalty or self.logit_bias
        return bool(penalties) or self.repetition_penalty != 1

    @classmethod
    def for_training(
        cls, max_tokens: int, stop_token_ids: tuple[int, ...], seed: int
    ) -> "SamplingParams":
        """Unfiltered sampling at temperature 1, so recorded log-probs are the policy's own."""
        return cls(1.0, 1.0, 0, 0.0, max_tokens, stop_token_ids, seed)


@dataclass(frozen=True)
class Completion:
    """What one request produced; the four lists are aligned token by token.

    `log_probs` (nats) are of the distribution actually sampled from; `sampled_mask` is False where
    the engine forced a token; `weight_version` is that of the weights which produced each token.
    """

    token_ids: list[int]
    log_probs: list[float]
    sampled_mask: list[bool]
    weight_version: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    reasoning_tokens: int


@dataclass(frozen=True)
class TokenEvent:
    """One streamed token; `finish_reason` is set on the last event of a request.

    `alternatives` are the likeliest (token id, log-prob) pairs, best first, where asked for.
    """

    token_id: int
    log_prob: float
    sampled: bool
    finish_reason: FinishReason | None
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass
class Steering:
    """What a user may still change while a reply streams: `answer_now` closes its thinking."""

    answer_now: bool = False


class Generate(Protocol):
    """The seam between whatever samples (our engine, vLLM, HTTP) and whatever asks."""

    async def generate(
        self, prompt_ids: Sequence[int], params: SamplingParams, n: int = 1
    ) -> list[Completion]:
        """Sample `n` completions of one prompt, which share one prefill; member i uses seed + i."""
        ...

    def stream(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        steering: Steering | None = None,
    ) -> AsyncIterator[TokenEvent]:
        """Yield tokens as they are drawn; closing the iterator frees the slot at once."""
        ...


@dataclass(frozen=True)
class TestCase:
    """One hidden test: stdin text and expected stdout, or JSON arguments and a JSON result."""

    __test__ = False  # keeps pytest from collecting it

    input: Any
    expected: Any


@dataclass(frozen=True)
class CodeTests:
    """Hidden tests of a program.

    `stdin`: a whole program, text in and text out. `call`: `entry_point` is called with each
    case's argument list. `script`: `script` is trusted test code that calls `entry_point`.
    `limits` are fields of the sandbox's `Limits` that this task sets for itself.
    """

    form: TestForm
    cases: tuple[TestCase, ...] = ()
    entry_point: str | None = None
    script: str | None = None
    # trusted code put before the program (imports the problem statement grants)
    setup: str = ""
    # absolute or relative, where the statement grants it
    float_tolerance: float | None = None
    limits: Mapping[str, float] = field(default_factory=dict)  # {"wall_seconds": 2.0, ...}
    packages: tuple[str, ...] = ()  # which the program may need, "numpy"


@dataclass(frozen=True)
class Rule:
    """One verifiable instruction, e.g. IFEval's `length_constraints:number_words`."""

    id: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """One problem with everything that is needed to ask it and to judge an answer.

    `kind` names the data table ("addition", "gsm8k"), `verifier` who judges it ("math", "code",
    ...; empty: nobody), `environment` the world that answers its replies (empty: none).
    `reference` is what the judge compares with where text, tests and rules do not say it, in a type
    of the judge's own. `row` is the row that the task was made from.

    `solution` is a worked completion for cold starts; no verifier reads it. Where the environment
    would answer it, `continuation` is the same task after that answer, with the next solution.
    `demonstration` are the turns that follow `messages` in a recorded conversation; its assistant
    turns are there to be imitated.
    """

    id: str
    kind: str
    messages: tuple[Message, ...]
    verifier: str
    environment: str = ""
    answer: str | None = None
    reference: object = None
    tests: CodeTests | None = None
    rules: tuple[Rule, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    solution: str | None = None
    continuation: "Task | None" = None
    demonstration: tuple[Message, ...] = ()
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """Two whole chats, equal up to their last turn; a reader preferred `chosen`."""

    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]


@dataclass(frozen=True)
class Score:
    """A verdict. `error` means that the judge failed: it is counted and dropped, never a zero.

    `value` is any finite number; accuracy counts `status == "correct"` and nothing else.
    """

    value: float
    status: ScoreStatus
    parts: Mapping[str, float] = field(default_factory=dict)
    detail: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"score value {self.value!r} is not a finite number")


class Verifier(Protocol):
    """A judge of completions."""

    async def score(self, task: Task, completion: str) -> Score:
        """Judge the text after the prompt (thinking included; it starts inside the thinking)."""
        ...


@dataclass(frozen=True)
class Tool:
    """A function the model may call; `parameters` is the JSON schema of its arguments object.

    `call` returns the text the model sees; what it raises is fed back as an error. `acts` marks
    tools that change something outside, which an approval policy may hold back.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    call: Callable[[Mapping[str, Any]], Awaitable[str]]
    acts: bool = False

    def specification(self) -> dict[str, Any]:
        """The form in which chat templates and OpenAI's API name a tool."""
        names = ("name", "description", "parameters")
        return {
            "type": "function",
            "function": {name: getattr(self, name) for name in names},
        }


@dataclass(frozen=True)
class Observation:
    """An environment's answer to one reply: turns to append, and whether the episode is over."""

    messages: tuple[Message, ...]
    done: bool


class Episode(Protocol):
    """One run of a task in an environment; its state is its own."""

    async def step(self, reply: Message, malformed_calls: Sequence[str]) -> Observation:
        """Act on the model's reply: run its calls, or end the episode."""
        ...

    async def score(self) -> Score:
        """The verdict on the episode as it stands."""
        ...

    async def close(self) -> None:
        """Free what the episode holds."""
        ...


class Environment(Protocol):
    """A world that answers replies: calculator, Python session, mock API, text game.

    A task names its environment. What the world itself cannot do is an OpenQwQError.
    """

    async def reset(self, task: Task, seed: int) -> Episode:
        """Begin an episode; the task's own messages and tools are its first turn."""
        ...


@dataclass
class Trajectory:
    """The flat training record: prompt and completion in one list, aligned per token.

    `sampled_mask` is True exactly where the policy drew the token; `log_probs` and
    `weight_version` are those recorded by the sampler (0 elsewhere).
    """

    token_ids: list[int]
    sampled_mask: list[bool]
    log_probs: list[float]
    weight_version: list[int]
    task_id: str
    group_id: str
    kind: str
    reward: float
    reward_parts: Mapping[str, float]
    status: ScoreStatus
    reasoning_tokens: int
    advantage: float = 0.0


class WeightLink(Protocol):
    """How a learner's weights reach its sampler."""

    def push(
        self, named_params: "Iterable[tuple[str, torch.Tensor]]", version: int
    ) -> None:
        """Install every parameter and flush caches that older weights filled."""
        ...
