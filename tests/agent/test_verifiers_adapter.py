"""A small environment of the package `verifiers` through the adapter.

The package brings seventy others, so no other test needs it: pip install 'openqwq[verifiers]'
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openqwq.agent.verifiers_adapter import VerifiersEnvironment, load_environment
from openqwq.types import Message, OpenQwQError

v1 = pytest.importorskip("verifiers.v1", reason="needs pip install 'openqwq[verifiers]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the package and what it imports


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The environment's module where tool servers, which are processes, find it, too."""
    here = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("PYTHONPATH", here, prepend=":")
    yield
    sys.modules.pop("small_taskset", None)


def products(count: int = 3) -> VerifiersEnvironment:
    return load_environment("small-taskset", {"taskset": {"count": count}})


def calling(name: str, **arguments: Any) -> Message:
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"name": name, "arguments": arguments}],
    }


def saying(text: str) -> Message:
    return {"role": "assistant", "content": text}


async def test_an_episode_calls_the_tools_and_is_scored_by_its_own_rewards() -> None:
    world = products()
    task = world.tasks("train")[1]
    assert [message["role"] for message in task.messages] == ["system", "user"]
    assert task.messages[1]["content"] == "What is 3 * 7?"
    (tool,) = task.tools
    name = tool["function"]["name"]
    assert tool["function"]["parameters"]["required"] == ["a", "b"]
    try:
        for answer, status in [("21", "correct"), ("no idea", "wrong")]:
            episode = await world.reset(task, 0)
            observation = await episode.step(calling(name, a=3, b=7), [])
            assert [m["role"] for m in observation.messages] == ["tool"]
            assert observation.messages[0]["content"] == "21" and not observation.done
            assert (await episode.step(saying(answer), [])).done
            score = await episode.score()
            await episode.close()
            assert (score.status, score.parts["turns"]) == (status, 2.0)
    finally:
        await world.close()


async def test_bad_calls_come_back_as_text_and_what_is_cut_short_is_truncated() -> None:
    world = products()
    task = world.tasks("train")[0]
    try:
        episode = await world.reset(task, 0)
        assert (await episode.step(saying(""), ["{oops"])).messages[0]["role"] == "tool"
        observation = await episode.step(calling("nothing", a=1), [])
        assert "there is no tool 'nothing'" in observation.messages[0]["content"]
        assert (await episode.score()).status == "truncated"
        await episode.close()
    finally:
        await world.close()


async def test_a_reward_that_raises_is_an_error_and_never_a_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import small_taskset

    async def broken(self: Any, trace: Any) -> float:
        raise RuntimeError("the judge is out")

    monkeypatch.setattr(small_taskset.Product, "right", v1.reward(broken))
    world = products()
    task = world.tasks("train")[0]
    try:
        episode = await world.reset(task, 0)
        await episode.step(saying("14"), [])
        score = await episode.score()
        await episode.close()
        assert score.status == "error" and "the judge is out" in score.detail
    finally:
        await world.close()


def test_what_cannot_be_opened_is_named() -> None:
    with pytest.raises(OpenQwQError, match="verifiers:no-such-thing cannot be opened"):
        load_environment("no-such-thing", {})
    with pytest.raises(OpenQwQError, match="colour"):
        load_environment("small-taskset", {"taskset": {"colour": 1}})
    with pytest.raises(OpenQwQError, match="names the harness 'bash'"):
        load_environment("small-taskset", {"agent": {"harness": {"id": "bash"}}})


def test_a_run_trains_on_it_and_evaluates_held_out_tasks(tmp_path: Path) -> None:
    from openqwq.cli import main

    config = tmp_path / "run.toml"
    config.write_text(
        """
        threads = 1
        engine = { slots = 16 }
        evaluation = { limit = 2, samples = 1, max_tokens = 8 }
        [shape]
        hidden_size = 32
        intermediate_size = 64
        num_hidden_layers = 1
        max_position_embeddings = 1024
        [data.products]
        environment = "verifiers:small-taskset"
        options = { taskset = { count = 12 } }
        held_out = 0.3
        [[stages]]
        name = "rl"
        kind = "rl"
        steps = 1
        prompts_per_step = 2
        group_size = 2
        max_tokens = 8
        max_turns = 2
        data = { products = 1 }
        skip_checks = ["ends", "rewards"]
        """
    )
    out = tmp_path / "run"
    assert main(["train", str(config), "--out", str(out)]) == 0
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    (step,) = [row for row in rows if row["stage"] == "rl" and "groups" in row]
    assert step["groups"] >= 2 and step["errors"] == 0
    record = json.loads((out / "evaluation" / "rl.json").read_text())
    assert len(record["outcomes"]) == 2
