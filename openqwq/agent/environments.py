"""Worlds to learn in; two of one's own stand in `examples/environments`.

An episode ends with the first reply that makes no call; what the environment cannot do, such as a
sandbox that breaks, raises OpenQwQError, which is nobody's zero. Run each episode as a task of its
own: those that wait for a Python session must not keep others from ending.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from openqwq.agent.calculator import calculator
from openqwq.agent.call import DEFAULT_LIMITS, CallLimits, CallResult, run_calls
from openqwq.agent.python_session import LIMITS, PythonSession
from openqwq.agent.tools import by_name, tool
from openqwq.sandbox.protocol import Limits, Sandbox
from openqwq.tasks.calculators import Calculator
from openqwq.types import Message, Observation, OpenQwQError, Score, Task, Tool, Verifier
from openqwq.verify.code import CodeVerifier

PLACE_SECONDS = 300.0  # to wait for others' sessions
Judge = Callable[[str], Awaitable[Score]]


@dataclass
class ToolEpisode:
    """Runs a reply's calls at the same time and feeds back the results, errors too.

    `judge` is given the reply that makes no call. The score's parts count `calls` and those that
    failed, `call_errors`.
    """

    tools: Mapping[str, Tool]
    judge: Judge
    limits: CallLimits = DEFAULT_LIMITS
    answer: str | None = None
    results: list[CallResult] = field(default_factory=list)

    async def step(self, reply: Message, malformed_calls: Sequence[str]) -> Observation:
        """See `Episode.step`."""
        calls = reply.get("tool_calls", [])
        if not calls and not malformed_calls:
            self.answer = reply["content"]
            return Observation((), True)
        results = await run_calls(self.tools, calls, malformed_calls, self.limits)
        self.results += results
        return Observation(tuple(result.message() for result in results), False)

    async def score(self) -> Score:
        """See `Episode.score`; an episode without an answer is `truncated`."""
        if self.answer is None:
            verdict = Score(0.0, "truncated", detail="the episode ended before an answer")
        else:
            verdict = await self.judge(self.answer)
        kinds = Counter(result.status for result in self.results)
        counts = {
            "calls": len(self.results),
            "call_errors": len(self.results) - kinds["ok"],
        }
        parts = {**verdict.parts, **{name: float(count) for name, count in counts.items()}}
        return Score(verdict.value, verdict.status, parts, verdict.detail)

    async def close(self) -> None:
        """See `Episode.close`; there is nothing to free."""


@dataclass(frozen=True)
class CalculatorEnvironment:
    """A calculator as the task describes it; `verifier` judges the answer.

    It takes an expression and answers with the bare result, unless the task's reference is a
    `Calculator`, which takes its arguments and words its answer in a way of its own.
    """

    verifier: Verifier

    async def reset(self, task: Task, seed: int) -> ToolEpisode:
        """See `Environment.reset`."""
        call = tool(calculator).call
        if isinstance(task.reference, Calculator):
            call = partial(_answered, task.reference)
        described = [specification["function"] for specification in task.tools]
        own = {each["name"]: Tool(**each, call=call) for each in described}
        return ToolEpisode(
            own, lambda answer: self.verifier.score(task, f"</think>\n\n{answer}")
        )


async def _answered(form: Calculator, given: Mapping[str, Any]) -> str:
    """What a calculator of that form says; raises OpenQwQError where it cannot work it out."""
    return form.said(given, calculator(form.expression(given)))


@dataclass
class PythonEpisode(ToolEpisode):
    """A `ToolEpisode` that owns a Python session and a place among those that may be open."""

    session: PythonSession = field(kw_only=True)
    places: asyncio.Semaphore = field(kw_only=True)
    placed: bool = False

    async def step(self, reply: Message, malformed_calls: Sequence[str]) -> Observation:
        """Wait for a place at the first call; raise OpenQwQError where the sandbox breaks."""
        if reply.get("tool_calls") and not self.placed:
            await self._take_place()
        observation = await super().step(reply, malformed_calls)
        if self.session.failure:
            raise OpenQwQError(self.session.failure)
        return observation

    async def _take_place(self) -> None:
        try:
            async with asyncio.timeout(PLACE_SECONDS):
                await self.places.acquire()
        except TimeoutError as error:
            raise OpenQwQError(
                f"no Python session became free in {PLACE_SECONDS:g} s: let episodes end one by"
                " one (in_step=False), or give the environment more sessions"
            ) from error
        self.placed = True

    async def close(self) -> None:
        """End the session and give up the place."""
        try:
            await self.session.close()
        finally:
            if self.placed:
                self.placed = False
                self.places.release()


class PythonEnvironment:
    """A stateful Python session; hidden tests judge the program of the answer.

    At most `sessions` episodes hold a session at once, the others wait at their first call.
    """

    def __init__(
        self, sandbox: Sandbox, sessions: int = 16, limits: Limits = LIMITS
    ) -> None:
        self._sandbox = sandbox
        self._limits = limits
        self._verifier = CodeVerifier(sandbox, thinking=False)
        self._places = asyncio.Semaphore(sessions)

    async def reset(self, task: Task, seed: int) -> PythonEpisode:
        """See `Environment.reset`."""
        session = PythonSession(self._sandbox, self._limits)
        # the sandbox has its own
        limits = CallLimits(seconds=self._limits.wall_seconds + 30.0)
        return PythonEpisode(
            by_name([session.tool()]),
            lambda answer: self._verifier.score(task, answer),
            limits,
            session=session,
            places=self._places,
        )
