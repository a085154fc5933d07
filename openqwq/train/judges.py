"""The one table of judges and environments: what a name in a config stands for.

Training, the actors of a cluster and `qwq eval` open what they need here. Lower rooms are lent the
result as protocols and never import it.
"""

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from openqwq.agent.environments import CalculatorEnvironment, PythonEnvironment
from openqwq.config import Config, DataConfig, RlStage, SandboxConfig
from openqwq.data.user_code import is_reference, load_object
from openqwq.evaluation.benchmarks.bfcl_turns import TurnsVerifier
from openqwq.evaluation.benchmarks.livebench import LiveBenchVerifier
from openqwq.evaluation.benchmarks.livecodebench import LiveCodeVerifier
from openqwq.sandbox.local import LocalSandbox
from openqwq.tasks.instructions import TasteVerifier
from openqwq.train.your_python import UserJudge, check_judge_function, open_environment
from openqwq.types import Environment, OpenQwQError, Verifier
from openqwq.verify.code import CodeVerifier
from openqwq.verify.contest import ContestVerifier
from openqwq.verify.instructions import InstructionVerifier
from openqwq.verify.judge import LanguageModelJudge
from openqwq.verify.math import MathVerifier
from openqwq.verify.toolcalls import ToolCallVerifier

JUDGES = (
    "math",
    "code",
    "instructions",
    "preference",
    "gym",
    "tool_calls_python",
    "tool_calls_java",
    "tool_calls_javascript",
    "livecodebench",
    "livebench",
    "bfcl_turns",
)
ENVIRONMENTS = ("calculator", "python")
VERIFIERS_PACKAGE = "verifiers:"
CONTEST_PACKAGE = "numpy"


def check_judge(name: str, path: str) -> None:
    """Raise OpenQwQError naming `path` in the config unless `name` is a judge's."""
    if is_reference(name):
        check_judge_function(name)
    elif name not in JUDGES:
        raise _unknown("judge", name, JUDGES, path)


def check_environment(name: str, path: str) -> None:
    """Raise OpenQwQError naming `path` in the config unless `name` is an environment's."""
    if name.startswith(VERIFIERS_PACKAGE):
        return  # asked when it is opened, which comes before the run directory is made
    if is_reference(name):
        load_object(name)
    elif name not in ENVIRONMENTS:
        raise _unknown("environment", name, ENVIRONMENTS, path)


def _unknown(what: str, name: str, known: Iterable[str], path: str) -> OpenQwQError:
    names = list(known)
    matches = difflib.get_close_matches(name, names, n=1)
    near = f"did you mean {matches[0]!r}? There are" if matches else "there are"
    return OpenQwQError(
        f"{path} names the {what} {name!r}: {near} {', '.join(names)}, and file.py:NAME"
    )


@dataclass
class Bench:
    """Judges and environments, each opened when it is first asked for; `stack` closes them."""

    sandbox_config: SandboxConfig
    stack: AsyncExitStack
    math_workers: int = 2
    reward_seconds: float = 30.0  # that one call of a user's function may take
    verifiers: dict[str, Verifier] = field(default_factory=dict)
    # by name and options
    environments: dict[tuple[str, str], Environment] = field(default_factory=dict)
    _sandbox: LocalSandbox | None = None

    async def verifier(self, name: str, seconds: float | None = None) -> Verifier:
        """The judge called `name`; raises OpenQwQError for an unknown one.

        One call of a user's function may take `seconds`; None: the bench's `reward_seconds`.
        """
        if name not in self.verifiers:
            self.verifiers[name] = await self._open(name)
        judge = self.verifiers[name]
        if seconds is not None and isinstance(judge, UserJudge):
            return judge.within(seconds)
        return judge

    async def environment(self, name: str, options: Mapping[str, Any]) -> Environment:
        """The environment called `name`, made with `options`, which tables may share.

        Raises OpenQwQError for an unknown one.
        """
        key = (name, json.dumps(options, sort_keys=True, default=str))
        if key not in self.environments:
            self.environments[key] = await self._open_environment(name, options)
        return self.environments[key]

    async def sandbox(self) -> LocalSandbox:
        """The execution sandbox, which all judges and environments share."""
        if self._sandbox is None:
            config = self.sandbox_config
            sandbox = LocalSandbox.configured(config)
            self._sandbox = await self.stack.enter_async_context(sandbox)
        return self._sandbox

    async def language_model(self, model: str) -> Verifier:
        """A model as a judge, which gives marks from 0 to 10 (see `LanguageModelJudge`)."""
        from openqwq.engine.open import open_model

        opened = open_model(model)
        self.stack.callback(opened.close)
        return LanguageModelJudge(opened.generate, opened.tokenizer)

    async def _open(self, name: str) -> Verifier:
        check_judge(name, "verifier")
        if is_reference(name):
            return UserJudge(name, self.reward_seconds)
        plain: dict[str, Callable[[], Verifier]] = {
            "instructions": InstructionVerifier,
            "preference": TasteVerifier,
            "bfcl_turns": TurnsVerifier,
            "tool_calls_python": ToolCallVerifier,
            "tool_calls_java": lambda: ToolCallVerifier("java"),
            "tool_calls_javascript": lambda: ToolCallVerifier("javascript"),
        }
        if name in plain:
            return plain[name]()
        if name == "gym":
            from openqwq.tasks.gym import GymVerifier  # imports a hundred datasets

            return await self.stack.enter_async_context(GymVerifier())
        if name == "math":
            return await self.stack.enter_async_context(
                MathVerifier(workers=self.math_workers)
            )
        if name == "code":
            return CodeVerifier(await self.sandbox())
        contest = ContestVerifier(await self._contest_sandbox())
        if name == "livecodebench":
            return LiveCodeVerifier(contest)
        assert name == "livebench", name
        return LiveBenchVerifier(await self.verifier("math"), contest)

    async def _contest_sandbox(self) -> LocalSandbox:
        """A sandbox whose programs may import numpy, as LiveCodeBench's own may."""
        if CONTEST_PACKAGE in self.sandbox_config.packages:
            return await self.sandbox()
        packages = (*self.sandbox_config.packages, CONTEST_PACKAGE)
        config = replace(self.sandbox_config, packages=packages)
        return await self.stack.enter_async_context(LocalSandbox.configured(config))

    async def _open_environment(self, name: str, options: Mapping[str, Any]) -> Environment:
        check_environment(name, "environment")
        if name == "calculator":
            return CalculatorEnvironment(await self.verifier("math"))
        if name == "python":
            return PythonEnvironment(await self.sandbox())
        environment = make_environment(name, options)
        close = getattr(environment, "close", None)
        if close is not None:
            self.stack.push_async_callback(close)
        return environment


def make_environment(name: str, options: Mapping[str, Any]) -> Environment:
    """An environment of the user's, or one of the `verifiers` package, made with `options`."""
    if name.startswith(VERIFIERS_PACKAGE):
        from openqwq.agent.verifiers_adapter import load_environment

        return load_environment(name.removeprefix(VERIFIERS_PACKAGE), options)
    return open_environment(name, options)


def environment_options(table: DataConfig) -> Mapping[str, Any]:
    """The options of a table's environment; next to a source they are the source's."""
    return {} if table.source else table.options


def open_bench(config: Config, stack: AsyncExitStack) -> Bench:
    """The bench of a run, with nothing opened yet."""
    seconds = [
        stage.reward_seconds for stage in config.stages if isinstance(stage, RlStage)
    ]
    return Bench(config.sandbox, stack, reward_seconds=max(seconds, default=30.0))


async def open_judges(
    stack: AsyncExitStack, names: Iterable[str], sandbox: SandboxConfig
) -> dict[str, Verifier]:
    """The judges called `names`, with as many processes as `sandbox`; `stack` closes them."""
    bench = Bench(sandbox, stack, math_workers=sandbox.workers)
    return {name: await bench.verifier(name) for name in names}
