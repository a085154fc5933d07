"""The Python tool: one sandbox session for each conversation, opened by its first call."""

from collections.abc import Mapping
from typing import Any

from openqwq.sandbox.protocol import CaseResult, Limits, Sandbox, Session
from openqwq.tasks.worlds import PYTHON
from openqwq.types import OpenQwQError, Tool

LIMITS = Limits(wall_seconds=10.0)
LASTING = ("ok", "compile_error", "runtime_error", "memory")  # the session outlives these


class PythonSession:
    """Runs a model's Python in `sandbox`; `failure` says why the sandbox itself broke, if it did.

    A session that a call ends (it ran too long, it crashed) is replaced at the next call, which
    tells the model that its variables are lost.
    """

    def __init__(self, sandbox: Sandbox, limits: Limits = LIMITS) -> None:
        self._sandbox, self._limits = sandbox, limits
        self._session: Session | None = None
        self._lost = False
        self.failure = ""

    def tool(self) -> Tool:
        """The tool as the model sees it. It acts on nothing outside the sandbox."""
        return Tool(**PYTHON["function"], call=self._call)

    async def close(self) -> None:
        """End the session."""
        if self._session:
            session, self._session = self._session, None
            await session.close()

    async def _call(self, arguments: Mapping[str, Any]) -> str:
        note = "(a new session: earlier variables are lost)\n" if self._lost else ""
        try:
            self._session = self._session or await self._sandbox.session(self._limits)
            result = await self._session.run(arguments["code"])
        except (OpenQwQError, OSError) as error:
            self.failure, self._lost = str(error), True
            await self.close()
            raise
        self._lost = result.status not in LASTING
        if self._lost:
            await self.close()
        if result.status == "error":
            self.failure = f"the sandbox failed: {result.error}"
            raise OpenQwQError(self.failure)
        return note + shown(result)


def shown(result: CaseResult) -> str:
    """What a model is told of a run: what it printed, then how it failed, if it did."""
    parts = [result.stdout, result.stderr]
    if result.status != "ok":
        parts.append(f"error: {result.status}: {result.error}".removesuffix(": "))
    text = "".join(part if part.endswith("\n") else f"{part}\n" for part in parts if part)
    return text.rstrip("\n") or "(no output)"
