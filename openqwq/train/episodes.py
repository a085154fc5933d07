"""Multi-turn rollouts as token records that only grow; nothing the model said is tokenised again.

A template that shows the model another history than the recorded one (QwQ's drops earlier thinking)
forces a new record. All records of an episode are one attempt: they share its reward.
"""

import inspect
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from openqwq.text.stream import Reply, parse_reply, starts_in_thinking
from openqwq.text.template import bridge, encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import (
    Completion,
    Episode,
    Message,
    OpenQwQError,
    SamplingParams,
    Score,
    Task,
)
from openqwq.verify.completion_text import CompletionText

# between the turns of an episode; the members of a group differ by one
SEED_STRIDE = 1_000_003


@dataclass
class TokenRecord:
    """Aligned token lists: a prompt, then replies and whatever stands between them."""

    token_ids: list[int] = field(default_factory=list)
    sampled_mask: list[bool] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    weight_version: list[int] = field(default_factory=list)
    reasoning_tokens: int = 0

    def give(self, token_ids: Sequence[int]) -> None:
        """Append tokens that the policy did not draw: they are never trained on."""
        self.token_ids += token_ids
        self.sampled_mask += [False] * len(token_ids)
        self.log_probs += [0.0] * len(token_ids)
        self.weight_version += [0] * len(token_ids)

    def take(self, completion: Completion) -> None:
        """Append a reply as it was sampled."""
        self.token_ids += completion.token_ids
        self.sampled_mask += completion.sampled_mask
        self.log_probs += completion.log_probs
        self.weight_version += completion.weight_version
        self.reasoning_tokens += completion.reasoning_tokens


@dataclass(frozen=True)
class Attempt:
    """One run of a task with its verdict; `text` is all that was said, tool results included."""

    task: Task
    token_records: list[TokenRecord]
    completions: list[Completion]
    text: str
    score: Score

    @property
    def reasoning_tokens(self) -> int:
        """Thinking tokens of all its replies."""
        return sum(completion.reasoning_tokens for completion in self.completions)

    @property
    def sampled_tokens(self) -> int:
        """Tokens that the policy drew."""
        return sum(sum(completion.sampled_mask) for completion in self.completions)


@dataclass
class Rollout:
    """An attempt under way: `member` of its group, in `episode` if the task has an environment.

    `first_ids` are the prompt of the task itself.
    """

    task: Task
    tokenizer: Tokenizer
    first_ids: list[int]
    member: int
    episode: Episode | None
    token_records: list[TokenRecord] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    text: str = ""
    done: bool = False
    failure: str = ""  # of the environment, not of the model
    verdict: Score | None = None  # where it was asked for early

    def __post_init__(self) -> None:
        self.messages: list[Message] = list(self.task.messages)
        self._begin_record(self.first_ids)

    @property
    def prompt_ids(self) -> list[int]:
        """What the next reply follows."""
        return self.token_records[-1].token_ids

    def params(self, params: SamplingParams) -> SamplingParams:
        """`params` with the seed of this member's next turn."""
        seed = params.seed + self.member + SEED_STRIDE * len(self.completions)
        return replace(params, seed=seed)

    @property
    def cut_short(self) -> bool:
        """Whether the last reply ended at its limit."""
        return bool(self.completions) and self.completions[-1].finish_reason == "length"

    def take(self, completion: Completion) -> None:
        """Append a reply; without an environment it is the only one."""
        text = self.tokenizer.decode(completion.token_ids, skip_special=True)
        if not self.completions:
            thinking = starts_in_thinking(self.tokenizer, self.prompt_ids)
            text = as_judges_read(text, thinking)
        self.text += text
        self.token_records[-1].take(completion)
        self.completions.append(completion)
        self.done = self.episode is None or completion.finish_reason == "length"

    def completion_text(self) -> CompletionText:
        """All that was said, as judges and your own rewards are given it."""
        thinking, closed, answer = self.text.partition("</think>")
        reply = self._reply().message()
        return CompletionText(
            self.text,
            thinking.strip("\n"),
            answer.strip("\n") if closed else None,
            (*self.messages, reply),
            self.completions[-1].finish_reason,
        )

    async def act(self, max_turns: int, context_length: int) -> None:
        """Let the environment answer the last reply; its failure ends the episode as an error."""
        assert self.episode is not None
        reply = self._reply()
        try:
            observation = await self.episode.step(reply.message(), reply.malformed_calls)
            over = observation.done
            said = () if over else _turns(observation.messages)
        except Exception as error:  # an environment of the user's may raise anything
            self.done = True
            self.failure = environment_failure(error)
            return
        self.done = over or len(self.completions) == max_turns
        if not self.done:
            self._observe(reply, said, context_length)

    async def close(self) -> None:
        """Close the episode; raises OpenQwQError where that fails."""
        assert self.episode is not None
        try:
            closing = self.episode.close()
            if inspect.isawaitable(closing):  # a close that does nothing is often not async
                await closing
        except Exception as error:  # as above
            raise OpenQwQError(
                f"the environment's close() raised {type(error).__name__}: {error}; correct it"
            ) from error

    def _reply(self) -> Reply:
        given = self.prompt_ids[: -len(self.completions[-1].token_ids)]
        thinking = starts_in_thinking(self.tokenizer, given)
        return parse_reply(self.tokenizer, self.completions[-1].token_ids, thinking)

    def _observe(
        self, reply: Reply, messages: Sequence[Message], context_length: int
    ) -> None:
        """Append what the environment said; a context that it fills ends the episode."""
        said = self.completions[-1].token_ids
        ids = bridge(self.tokenizer, self.messages, said, messages, self.task.tools)
        self.messages += [reply.message(), *messages]
        for message in messages:
            self.text += (
                f"\n<{message['role']}>\n{message['content']}\n</{message['role']}>\n"
            )
        if ids is None:
            history = encode_chat(self.tokenizer, self.messages, self.task.tools)
        else:
            history = self.prompt_ids + ids

        self.done = len(history) >= context_length
        if self.done:
            return
        if ids is None:
            self._begin_record(history)
        else:
            self.token_records[-1].give(ids)

    def _begin_record(self, prompt_ids: Sequence[int]) -> None:
        self.token_records.append(TokenRecord())
        self.token_records[-1].give(prompt_ids)


def whole_episode(episode: Any) -> Episode:
    """What an environment's reset returned; OpenQwQError where it is not an episode."""
    for name in ("step", "score", "close"):
        if not callable(getattr(episode, name, None)):
            raise OpenQwQError(
                f"reset() returned {episode!r:.80}, which has no {name}(): return an episode with "
                "step, score and close"
            )
    return cast(Episode, episode)


def _turns(said: Any) -> Sequence[Message]:
    """What an environment said; OpenQwQError where it is not a list of turns."""
    if isinstance(said, list | tuple) and all(map(_is_turn, said)):
        return said
    raise OpenQwQError(
        f"step() returned the messages {said!r:.80}: return a list of turns, each with role and "
        "content, in an Observation"
    )


def _is_turn(said: Any) -> bool:
    if not isinstance(said, Mapping):
        return False
    return isinstance(said.get("role"), str) and isinstance(said.get("content"), str)


def environment_failure(error: Exception) -> str:
    """What an environment raised, in words; where it did not foresee it, with the traceback."""
    if isinstance(error, OpenQwQError | OSError):
        return f"the environment failed: {error}"
    return "the environment raised\n" + "".join(traceback.format_exception(error))


def as_judges_read(text: str, in_thinking: bool) -> str:
    """A reply as text that starts inside the thinking, whether prompt or reply opened it.

    A reply that opens no thinking is an answer from its first character.
    """
    if in_thinking:
        return text
    opened = text.lstrip()
    if opened.startswith("<think>"):
        return opened.removeprefix("<think>")
    return f"</think>\n\n{text}"
