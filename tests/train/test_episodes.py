"""Multi-turn rollouts: exact masks over random episodes, log-probs of a fresh forward, failures."""

import asyncio
import pickle
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import judged_by

from openqwq.agent.environments import CalculatorEnvironment
from openqwq.config import OptimiserConfig
from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.tasks.tools import CALCULATE
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.episodes import Attempt, Rollout
from openqwq.train.learner import Learner
from openqwq.train.packing import pack_trajectories
from openqwq.train.rollouts import RolloutRunner, trajectories_of
from openqwq.types import (
    Completion,
    Message,
    Observation,
    OpenQwQError,
    SamplingParams,
    Score,
    Task,
)
from openqwq.verify.completion_text import CompletionText
from openqwq.verify.math import MathVerifier

QWQ = Tokenizer.train(["What is 12 * 3?"] * 9, 290)
# A template that keeps every turn as it was said, so that records can only grow.
KEEPING = (
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>tool\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role == 'assistant' %}<|im_start|>assistant\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{{ '<|im_start|>assistant\n' if add_generation_prompt }}"
)


def keeping() -> Tokenizer:
    made = Tokenizer.train(["What is 12 * 3?"] * 9, 290)
    made.chat_template = KEEPING
    return made


ASK = Message(role="user", content="What is 12 * 3?")
TASK = Task("t", "toy", (ASK,), "", "world", answer="36", tools=(CALCULATE,))
PARAMS = SamplingParams(1.0, 1.0, 0, max_tokens=64, stop_token_ids=QWQ.eos_ids)
CALL = '<tool_call>\n{"name": "calculate", "arguments": {"expression": "12 * 3"}}\n</tool_call>'


@dataclass
class Script:
    """A `Generate` that says given texts, turn after turn, some of its tokens forced."""

    tokenizer: Tokenizer
    replies: Sequence[str]
    seed: int = 0
    prompts: list[list[int]] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)

    async def generate(
        self, prompt_ids: Sequence[int], params: SamplingParams, n: int = 1
    ) -> list[Completion]:
        self.prompts.append(list(prompt_ids))
        self.seeds += [params.seed + i for i in range(n)]
        text = self.replies[min(len(self.replies), len(self.prompts)) - 1]
        ids = [*self.tokenizer.encode(text, allow_special=True), self.tokenizer.eos_ids[0]]
        rng = random.Random(f"{self.seed}/{len(self.prompts)}")
        drawn = [rng.random() < 0.8 for _ in ids]
        drawn[-1] = True
        log_probs = [-rng.random() if d else 0.0 for d in drawn]
        return [
            Completion(list(ids), list(log_probs), list(drawn), [7] * len(ids), "stop",
                       len(prompt_ids), 3)
            for _ in range(n)
        ]  # fmt: skip


@dataclass
class World:
    """An environment that answers `turns` times with random text, then ends."""

    turns: int
    seed: int = 0
    failing: str = ""
    open: int = 0

    async def reset(self, task: Task, seed: int) -> "World":
        if self.failing == "reset" or (self.failing == "odd resets" and seed % 2):
            raise OSError("no world today")
        self.open += 1
        return replace(self, open=0)

    async def step(self, reply: Message, malformed_calls: Sequence[str]) -> Observation:
        await asyncio.sleep(0)
        if self.failing == "step":
            raise OpenQwQError("the world ended")
        self.turns -= 1
        if self.turns < 0:
            return Observation((), True)
        rng = random.Random(f"{self.seed}/{self.turns}")
        texts = ["<think>", "<|im_end|> 12", "é\n\n", "36", "</tool_response><tool_call>"]
        said = tuple(
            Message(role="tool", content=rng.choice(texts))
            for _ in range(rng.randint(1, 2))
        )
        return Observation(said, False)

    async def score(self) -> Score:
        if self.failing == "score":
            raise OpenQwQError("no verdict")
        return Score(1.0, "correct")

    async def close(self) -> None:
        self.failing = "closed"


def run(runner: RolloutRunner, n: int = 1, task: Task = TASK) -> list[Attempt]:
    (group,) = asyncio.run(runner.groups([(task, PARAMS)], n))
    return group


REPLIES = (
    "think\n</think>\n\n" + CALL,
    "\n</think>\n\n36",
    "a </think>b",
    CALL,
    "",
    "<think>é",
)


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(REPLIES), min_size=1, max_size=4),
    st.integers(0, 4),
    st.integers(0, 1000),
    st.booleans(),
)
def test_the_mask_is_exactly_what_was_drawn_in_every_random_episode(
    replies: list[str], turns: int, seed: int, rewrites: bool
) -> None:
    tokenizer = QWQ if rewrites else keeping()
    script = Script(tokenizer, replies, seed)
    (attempt,) = run(
        RolloutRunner(script, tokenizer, judged_by(), {"toy": World(turns, seed)})
    )
    said = attempt.completions
    assert len(said) == turns + 1
    records = trajectories_of(attempt, "g", 0.5)
    assert all(
        len(r.token_ids) == len(r.sampled_mask) == len(r.log_probs) == len(r.weight_version)
        for r in records
    )
    # What is trained on, over all records in order, is what was drawn, with its log-probs.
    drawn = [
        (i, lp, 7)
        for reply in said
        for i, lp, d in zip(
            reply.token_ids, reply.log_probs, reply.sampled_mask, strict=True
        )
        if d
    ]
    trained = [
        row[:3]
        for r in records
        for *row, mask in zip(
            r.token_ids, r.log_probs, r.weight_version, r.sampled_mask, strict=True
        )
        for row in [tuple(row)]
        if mask
    ]
    assert trained == drawn
    # Tokens are only appended: each prompt is a record's own beginning, and no reply is re-encoded.
    starts = [0] * len(records)
    for prompt, reply in zip(script.prompts, said, strict=True):
        whole = prompt + reply.token_ids
        found = [n for n, r in enumerate(records) if r.token_ids[: len(whole)] == whole]
        assert found
        starts[found[0]] = len(whole)
    # A record ends with a reply, and the environment's words never come after the last one.
    assert all(len(r.token_ids) == end for r, end in zip(records, starts, strict=True))
    if rewrites:
        assert len(records) == turns + 1  # QwQ's template drops the thinking
    assert {(r.group_id, r.reward, r.advantage) for r in records} == {("g", 1.0, 0.5)}


def test_where_the_template_keeps_history_an_episode_is_one_record() -> None:
    tokenizer = keeping()
    script = Script(tokenizer, [CALL, "36"])
    (attempt,) = run(RolloutRunner(script, tokenizer, judged_by(), {"toy": World(1)}))
    assert len(attempt.token_records) == 1 and len(script.prompts) == 2
    (record,) = attempt.token_records
    assert script.prompts[1] == record.token_ids[: len(script.prompts[1])]
    between = tokenizer.decode(
        script.prompts[1][len(script.prompts[0]) + len(attempt.completions[0].token_ids) :]
    )
    assert between.startswith("\n<|im_start|>tool\n") and between.endswith("assistant\n")


def test_a_rewritten_history_begins_with_the_templates_own_prompt() -> None:
    script = Script(QWQ, ["too long\n</think>\n\n" + CALL, "\n</think>\n\n\\boxed{36}"])
    environment = CalculatorEnvironment(MathVerifier())
    (attempt,) = run(RolloutRunner(script, QWQ, judged_by(), {"toy": environment}))
    call = {"name": "calculate", "arguments": {"expression": "12 * 3"}}
    history: list[Message] = [
        *TASK.messages,
        {"role": "assistant", "content": "", "tool_calls": [call]},  # type: ignore[list-item]
        {"role": "tool", "content": "36"},
    ]
    assert script.prompts[1] == encode_chat(QWQ, history, TASK.tools)
    assert (attempt.score.status, len(attempt.token_records)) == ("correct", 2)
    assert "<tool>\n36\n</tool>" in attempt.text
    assert attempt.reasoning_tokens == 6


def test_a_malformed_or_unknown_call_is_answered_with_an_error_and_the_episode_goes_on() -> (
    None
):
    broken = "\n</think>\n\n<tool_call>\n{oops\n</tool_call>"
    unknown = "\n</think>\n\n" + CALL.replace("calculate", "compute")
    script = Script(QWQ, [broken, unknown, "\n</think>\n\n36"])
    environment = CalculatorEnvironment(MathVerifier())
    (attempt,) = run(RolloutRunner(script, QWQ, judged_by(), {"toy": environment}))
    assert attempt.score.status == "correct" and len(attempt.completions) == 3
    assert attempt.text.count("error: ") == 2


def test_an_answer_that_never_comes_is_wrong_and_turns_are_limited() -> None:
    script = Script(QWQ, ["\n</think>\n\n" + CALL])
    environment = CalculatorEnvironment(MathVerifier())
    (attempt,) = run(
        RolloutRunner(script, QWQ, judged_by(), {"toy": environment}, max_turns=3)
    )
    assert (attempt.score.value, len(attempt.completions)) == (0.0, 3)


def test_a_prompt_longer_than_the_context_names_its_task_and_the_setting() -> None:
    long = len(encode_chat(QWQ, TASK.messages, TASK.tools))
    environment = {"toy": CalculatorEnvironment(MathVerifier())}
    runner = RolloutRunner(
        Script(QWQ, []), QWQ, judged_by(), environment, context_length=long
    )
    told = rf"the prompt of t \(toy\) has {long} tokens, and engine\.max_length is {long}"
    with pytest.raises(OpenQwQError, match=told):
        run(runner)


def test_a_full_context_ends_an_episode_without_an_empty_record() -> None:
    script = Script(QWQ, ["\n</think>\n\n" + CALL])
    first = len(encode_chat(QWQ, TASK.messages, TASK.tools))
    environment = CalculatorEnvironment(MathVerifier())
    (attempt,) = run(
        RolloutRunner(
            script, QWQ, judged_by(), {"toy": environment}, context_length=first + 20
        )
    )
    assert len(attempt.token_records) == len(attempt.completions) == 1
    assert any(attempt.token_records[0].sampled_mask)


@pytest.mark.parametrize("failing", ["step", "score"])
def test_a_failing_environment_is_an_error_and_never_a_zero(failing: str) -> None:
    world = World(1, failing=failing)
    (attempt,) = run(
        RolloutRunner(Script(QWQ, ["\n</think>\n\n36"]), QWQ, judged_by(), {"toy": world})
    )
    assert attempt.score.status == "error" and "environment failed" in attempt.score.detail


@pytest.mark.parametrize("in_step", [True, False])
def test_an_environment_that_cannot_begin_is_an_error_without_a_reply(
    in_step: bool,
) -> None:
    script, world = Script(QWQ, ["\n</think>\n\n36"]), World(0, failing="reset")
    for attempt in run(
        RolloutRunner(script, QWQ, judged_by(), {"toy": world}, in_step=in_step), 3
    ):
        assert (attempt.score.status, attempt.completions) == ("error", [])
        assert attempt.score.detail == "the environment failed: no world today"
    assert not script.prompts


def test_the_members_whose_environment_begins_are_sampled_as_ever() -> None:
    script, world = Script(QWQ, ["\n</think>\n\n36"]), World(0, failing="odd resets")
    group = run(RolloutRunner(script, QWQ, judged_by(), {"toy": world}), 4)
    assert [a.score.status for a in group] == ["correct", "error"] * 2
    assert [len(a.completions) for a in group] == [1, 0, 1, 0]
    assert script.seeds == [0, 1, 2, 3]


@dataclass
class Odd(World):
    """What a first environment of one's own may be: `fault` names what is wrong with it."""

    fault: str = ""

    async def reset(self, task: Task, seed: int) -> Any:
        if self.fault == "nothing":
            return None
        return SimpleNamespace(step=self.step) if self.fault == "a part" else self

    async def step(self, reply: Message, malformed_calls: Sequence[str]) -> Any:
        said: Any = "Again." if self.fault == "text" else ["Again."]
        return Observation(said, self.fault.endswith("close"))

    def close(self) -> Any:
        if self.fault == "bad close":
            raise ValueError("no end")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("nothing", "reset() returned None, which has no step()"),
        ("a part", "which has no score()"),
        ("text", "step() returned the messages 'Again.'"),
        ("list of texts", "step() returned the messages ['Again.']"),
    ],
)
def test_what_is_no_episode_or_no_turn_is_an_error_that_says_so(
    fault: str, said: str
) -> None:
    script = Script(QWQ, ["\n</think>\n\n36"])
    world = Odd(1, fault=fault)
    (attempt,) = run(RolloutRunner(script, QWQ, judged_by(), {"toy": world}))
    assert attempt.score.status == "error" and said in attempt.score.detail


def test_an_episodes_close_need_not_be_async_and_is_named_where_it_fails() -> None:
    script = Script(QWQ, ["\n</think>\n\n36"])
    world = Odd(1, fault="sync close")
    (attempt,) = run(RolloutRunner(script, QWQ, judged_by(), {"toy": world}))
    assert attempt.score.status == "correct"
    world.fault = "bad close"
    with pytest.raises(OpenQwQError, match=r"close\(\) raised ValueError: no end"):
        run(RolloutRunner(script, QWQ, judged_by(), {"toy": world}))


@dataclass
class Crowded(World):
    """Only so many episodes may be under way: the others wait at their first step."""

    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    held: bool = False

    async def reset(self, task: Task, seed: int) -> "Crowded":
        return replace(self)

    async def step(self, reply: Message, malformed_calls: Sequence[str]) -> Observation:
        if not self.held:
            await self.places.acquire()
            self.held = True
        return await super().step(reply, malformed_calls)

    async def close(self) -> None:
        if self.held:
            self.places.release()
        self.held = False


async def test_at_its_own_pace_an_episode_frees_its_place_for_those_that_wait() -> None:
    script = Script(QWQ, ["\n</think>\n\n36"])
    runner = RolloutRunner(script, QWQ, judged_by(), {"toy": Crowded(2)}, in_step=False)
    (group,) = await asyncio.wait_for(runner.groups([(TASK, PARAMS)], 6), 60)
    assert [(a.score.status, len(a.completions)) for a in group] == [("correct", 3)] * 6


def test_where_no_thinking_was_opened_judges_see_a_mere_answer() -> None:
    for tokenizer, text in ((keeping(), "</think>\n\n36"), (QWQ, "36")):
        rollout = Rollout(TASK, tokenizer, encode_chat(tokenizer, TASK.messages), 0, None)
        ids = [*tokenizer.encode("36"), tokenizer.eos_ids[0]]
        zeros = [0.0] * len(ids)
        rollout.take(
            Completion(ids, zeros, [True] * len(ids), [0] * len(ids), "stop", 1, 0)
        )
        assert rollout.text == text


def test_members_and_turns_draw_with_seeds_of_their_own() -> None:
    script = Script(QWQ, ["\n</think>\n\n" + CALL])
    run(RolloutRunner(script, QWQ, judged_by(), {"toy": World(2)}), n=4)
    assert len(script.seeds) == 12 == len(set(script.seeds))


def test_a_task_nobody_judges_is_refused_by_name() -> None:
    with pytest.raises(
        OpenQwQError, match="asks for the verifier 'nobody', which is not open"
    ):
        run(
            RolloutRunner(Script(QWQ, [""]), QWQ, judged_by(), {"toy": World(0)}),
            task=replace(TASK, environment="", verifier="nobody"),
        )


class Talk(World):
    """Answers anything once; later than its brothers, the higher its seed."""

    async def reset(self, task: Task, seed: int) -> "Talk":
        made = Talk(1)
        made.seed = seed
        return made

    async def step(self, reply: Message, malformed_calls: Sequence[str]) -> Observation:
        await asyncio.sleep(0.002 * random.random())  # as real tools do, it takes any time
        return await super().step(reply, malformed_calls)


def model() -> Qwen2:
    made = Qwen2(ModelConfig(QWQ.vocab_size, 16, 32, 2, 2, 1, 8, tie_word_embeddings=True))
    made.initialise(torch.Generator().manual_seed(0), std=0.3)
    return made


def sampled(template: str) -> list[Attempt]:
    tokenizer = QWQ if template == "rewriting" else keeping()
    engine = Engine(model(), tokenizer, EngineLimits(32, 512))
    runner = RolloutRunner(
        engine, tokenizer, judged_by(), {"toy": Talk(1)}, 4, context_length=512
    )
    # Any id may end a turn, so that a random model ends its own.
    params = replace(
        PARAMS, max_tokens=30, stop_token_ids=tuple(range(0, QWQ.vocab_size, 9))
    )
    try:
        groups = asyncio.run(
            runner.groups([(replace(TASK, id=str(i), tools=()), replace(params, seed=100 * i))
                            for i in range(3)], 4)
        )  # fmt: skip
    finally:
        engine.close()
    return [attempt for group in groups for attempt in group]


@pytest.mark.parametrize("template", ["rewriting", "keeping"])
def test_recorded_log_probs_are_those_of_a_fresh_forward_over_every_record(
    template: str,
) -> None:
    attempts = sampled(template)
    several = [a for a in attempts if len(a.completions) > 1]
    assert len(several) > 3
    records = [r for i, a in enumerate(attempts) for r in trajectories_of(a, str(i // 4))]
    learner = Learner(model(), OptimiserConfig(), 1)
    with torch.no_grad():
        for batch in pack_trajectories(records, 1024):
            log_probs, _ = learner.log_probs(batch)
            torch.testing.assert_close(
                log_probs, batch.sampler_log_probs, atol=1e-5, rtol=0
            )


def test_rollouts_are_bit_equal_however_long_tools_take() -> None:
    one, other = sampled("rewriting"), sampled("rewriting")
    assert [a.token_records for a in one] == [a.token_records for a in other]


def test_a_completion_reaches_other_processes_whole() -> None:
    said = CompletionText("so\n</think>\n\n36", "so", "36", (ASK,), "length")
    copy = pickle.loads(pickle.dumps(said))
    assert copy == said and isinstance(copy, CompletionText)
    found = (copy.thinking, copy.answer, copy.messages, copy.finish_reason)
    assert found == ("so", "36", (ASK,), "length")
