"""One real environment of the package `verifiers` through the adapter.

The package pins much and is in no extra of ours: `pip install 'verifiers>=0.1.14,<0.2'`.
"""

from typing import Any

import pytest

from openqwq.agent.verifiers_adapter import VerifiersEnvironment
from openqwq.types import Message, OpenQwQError

verifiers = pytest.importorskip("verifiers", reason="needs pip install 'verifiers<0.2'")
if not hasattr(verifiers, "ToolEnv"):
    pytest.skip("needs pip install 'verifiers<0.2'", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore")  # of the package and what it imports

from datasets import Dataset  # noqa: E402  only there with the package


def multiply(a: int, b: int) -> int:
    """Multiply two numbers.

    Args:
        a: one
        b: other
    """
    return a * b


async def right(completion: Any, answer: str) -> float:
    return float(answer in str(completion[-1].content))


def environment(function: Any = right, max_turns: int = 4) -> VerifiersEnvironment:
    rows = [{"question": f"What is {n} * 7?", "answer": str(n * 7)} for n in range(5)]
    made = verifiers.ToolEnv(
        tools=[multiply],
        dataset=Dataset.from_list(rows),
        rubric=verifiers.Rubric(funcs=[function]),
        max_turns=max_turns,
    )
    return VerifiersEnvironment(made, "products")


def calling(a: Any, b: int) -> Message:
    call = {"name": "multiply", "arguments": {"a": a, "b": b}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}  # type: ignore[typeddict-item]


def saying(text: str) -> Message:
    return {"role": "assistant", "content": text}


async def test_an_episode_runs_its_tools_and_is_scored_by_its_rubric() -> None:
    world = environment()
    task = world.tasks(1)[0]
    number = int(task.messages[-1]["content"].split()[2])
    assert task.tools[0]["function"]["name"] == "multiply"
    for answer, value in [(str(number * 7), 1.0), ("no idea", 0.0)]:
        episode = await world.reset(task, 0)
        observation = await episode.step(calling(number, 7), [])
        assert not observation.done
        assert [m["role"] for m in observation.messages] == ["tool"]
        assert observation.messages[0]["content"] == str(number * 7)
        assert (await episode.step(saying(answer), [])).done
        score = await episode.score()
        await episode.close()
        assert (score.value, score.status) == (value, "correct" if value else "wrong")
        assert score.parts["right"] == value


async def test_bad_calls_come_back_as_text() -> None:
    world = environment()
    episode = await world.reset(world.tasks(1)[0], 0)
    observation = await episode.step(calling("x", 7), ["{oops"])
    assert "malformed tool call" in observation.messages[-1]["content"]
    observation = await episode.step(saying(""), ["{oops"])
    assert not observation.done and len(observation.messages) == 1
    assert (await episode.step(saying("7"), [])).done
    with pytest.raises(OpenQwQError, match="the rollout is over"):
        await episode.step(saying("8"), [])
    await episode.close()


async def test_an_unfinished_episode_is_truncated_and_a_broken_rubric_an_error() -> None:
    world = environment()
    episode = await world.reset(world.tasks(1)[0], 0)
    await episode.step(calling(1, 7), [])
    assert (await episode.score()).status == "truncated"
    await episode.close()

    async def double(completion: Any) -> float:
        return 2.0

    world = environment(double)
    episode = await world.reset(world.tasks(1)[0], 0)
    await episode.step(saying("7"), [])
    score = await episode.score()
    assert score.status == "error" and "gave the reward 2.0" in score.detail


async def test_many_episodes_of_one_environment_run_at_once() -> None:
    world = environment()
    task = world.tasks(1)[0]
    episodes = [await world.reset(task, seed) for seed in range(5)]
    for number, episode in enumerate(episodes):
        observation = await episode.step(calling(number, 7), [])
        assert observation.messages[0]["content"] == str(number * 7)
    for episode in episodes:
        await episode.close()
