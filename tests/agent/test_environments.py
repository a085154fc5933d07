"""Environments: worked solutions win, shortcuts do not, broken worlds are errors."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import pytest
from playing import play_all, reply

from openqwq.agent.environments import (
    CalculatorEnvironment,
    PythonEnvironment,
)
from openqwq.sandbox.local import LocalSandbox
from openqwq.sandbox.protocol import CaseResult, Limits, RunRequest, RunResult
from openqwq.tasks.source import Source, draw_tasks
from openqwq.tasks.tools import calculator_problems, python_problems
from openqwq.types import OpenQwQError
from openqwq.verify.math import MathVerifier


@pytest.fixture(scope="module")
def mathematics() -> Iterator[MathVerifier]:
    with closing(MathVerifier(workers=1)) as verifier:
        yield verifier


async def test_worked_solutions_with_the_calculator_are_right(
    mathematics: MathVerifier,
) -> None:
    await play_all(CalculatorEnvironment(mathematics), calculator_problems(4, 7), 5)


async def test_worked_solutions_in_python_pass_their_tests(sandbox: LocalSandbox) -> None:
    await play_all(PythonEnvironment(sandbox), python_problems(5000, 9000), 2)


@pytest.mark.parametrize(
    "source", [calculator_problems(3, 6), python_problems(3, 6)], ids=lambda s: s.kind
)
def test_a_world_holds_out_problems_that_training_never_sees(source: Source) -> None:
    train, held_out = (
        {task.id for task in islice(draw_tasks(source, split, 0), 200)}
        for split in ("train", "held_out")
    )
    assert train and held_out and not train & held_out


async def test_a_python_answer_that_prints_the_expected_values_is_wrong(
    sandbox: LocalSandbox,
) -> None:
    task = next(iter(draw_tasks(python_problems(50, 90), "train", 0)))
    episode = await PythonEnvironment(sandbox).reset(task, 0)
    await episode.step(reply(python={"code": "x = 41"}), [])
    (message,) = (await episode.step(reply(python={"code": "x + 1"}), [])).messages
    assert message["content"] == "42"
    await episode.step(reply("```python\ndef f(x):\n    return 7\n```"), [])
    score = await episode.score()
    await episode.close()
    assert (score.value, score.status) == (0.0, "wrong")


class BrokenSandbox:
    """Every session fails as a sandbox does whose worker died."""

    async def run(self, request: RunRequest) -> RunResult:
        return RunResult("error", error="no worker")

    async def session(self, limits: Limits = Limits()) -> "BrokenSandbox":  # noqa: B008
        return self

    async def close(self) -> None:
        return


class BrokenSession(BrokenSandbox):
    async def session(self, limits: Limits = Limits()) -> Any:  # noqa: B008
        class Session:
            async def run(self, source: str) -> CaseResult:
                return CaseResult("error", error="no worker")

            async def close(self) -> None:
                return

        return Session()


async def test_a_broken_sandbox_is_an_error_and_never_feedback_or_a_zero() -> None:
    task = next(iter(draw_tasks(python_problems(50, 90), "train", 0)))
    episode = await PythonEnvironment(BrokenSession()).reset(task, 0)  # type: ignore[arg-type]
    with pytest.raises(OpenQwQError, match="the sandbox failed: no worker"):
        await episode.step(reply(python={"code": "1"}), [])
    await episode.close()
    episode = await PythonEnvironment(BrokenSession()).reset(task, 0)  # type: ignore[arg-type]
    await episode.step(reply("def f(x): return x"), [])
    assert (await episode.score()).status == "error"


async def test_a_session_that_cannot_be_closed_gives_up_its_place(
    sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = PythonEnvironment(sandbox, sessions=1)
    task = next(iter(draw_tasks(python_problems(50, 90), "train", 0)))
    first, second = [await environment.reset(task, seed) for seed in (0, 1)]
    await first.step(reply(python={"code": "1"}), [])
    close = first.session.close

    async def broken() -> None:
        await close()
        raise OSError("gone")

    monkeypatch.setattr(first.session, "close", broken)
    with pytest.raises(OSError, match="gone"):
        await first.close()
    await asyncio.wait_for(second.step(reply(python={"code": "1"}), []), 30)
    await second.close()


async def test_more_episodes_than_sessions_all_finish(sandbox: LocalSandbox) -> None:
    environment = PythonEnvironment(sandbox, sessions=2)
    task = next(iter(draw_tasks(python_problems(50, 90), "train", 0)))

    async def run(number: int) -> str:
        episode = await environment.reset(task, number)
        await episode.step(reply(python={"code": f"x = {number}"}), [])
        observation = await episode.step(reply(python={"code": "x"}), [])
        await episode.close()
        return observation.messages[0]["content"]

    found = await asyncio.wait_for(asyncio.gather(*map(run, range(5))), 60)
    assert found == ["0", "1", "2", "3", "4"]
    assert not sandbox.open_sessions


async def test_no_session_within_the_time_to_wait_is_an_error(
    sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openqwq.agent.environments.PLACE_SECONDS", 0.1)
    environment = PythonEnvironment(sandbox, sessions=1)
    task = next(iter(draw_tasks(python_problems(50, 90), "train", 0)))
    first, second = [await environment.reset(task, seed) for seed in (0, 1)]
    await first.step(reply(python={"code": "1"}), [])
    with pytest.raises(OpenQwQError, match="no Python session became free"):
        await second.step(reply(python={"code": "1"}), [])
    await second.close()
    await first.close()


def test_the_calculator_is_described_in_training_as_the_agent_describes_it() -> None:
    from openqwq.agent.calculator import calculator
    from openqwq.agent.tools import tool
    from openqwq.tasks.tools import CALCULATOR

    assert tool(calculator).specification() == CALCULATOR
