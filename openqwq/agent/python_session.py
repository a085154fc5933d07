"""The Python tool: one sandbox session for each conversation, opened by its first call."""

import asyncio
from collections.abc import Mapping
from typing import Any

from openqwq.agent.tools import said
from openqwq.sandbox.protocol import CaseResult, Limits, Sandbox, Session
from openqwq.tasks.tools import PYTHON
from openqwq.types import OpenQwQError, Tool

LIMITS = Limits(wall_seconds=10.0)
LASTING = ("ok", "compile_error", "runtime_error", "memory")  # the session outlives these


class PythonSession:
    """Runs a model's Python in `sandbox`; `failure` says why the sandbox itself broke, if it did.

    Calls run one after the other, in their order. A session that ends (a call ran too long, was
    given up or crashed, or none came for long) is replaced by the next call, which tells the model
    that its variables are lost.
    """

    def __init__(self, sandbox: Sandbox, limits: Limits = LIMITS) -> None:
        self._sandbox = sandbox
        self._limits = limits
        self._session: Session | None = None
        self._turn = asyncio.Lock()
        self._lost = False
        self.failure = ""

    def tool(self) -> Tool:
        """The tool as the model sees it. It acts on nothing outside the sandbox."""
        return Tool(**PYTHON["function"], call=self._call)

    async def close(self) -> None:
        """End the session."""
        if self._session:
            session = self._session
            self._session = None
            await session.close()

    async def _call(self, arguments: Mapping[str, Any]) -> str:
        async with self._turn:
            result = CaseResult("error")
            try:
                result = await self._run(arguments["code"])
            except Exception as error:
                # whatever a sandbox raises is its failure, not the model's
                result = CaseResult("error", error=said(error))
            finally:  # also when the call is given up
                note = "(a new session: earlier variables are lost)\n" if self._lost else ""
                self._lost = result.status not in LASTING
                if self._lost:
                    await self.close()
            if result.status == "error":
                self.failure = f"the sandbox failed: {result.error}"
                raise OpenQwQError(self.failure)
            return note + shown_run(result)

    async def _run(self, code: str) -> CaseResult:
        if self._session:
            try:
                return await self._session.run(code)
            except OpenQwQError:  # it was idle for too long
                self._lost = True
                await self.close()
        self._session = await self._sandbox.session(self._limits)
        return await self._session.run(code)


def shown_run(result: CaseResult) -> str:
    """What a model is told of a run: what it printed, then how it failed, if it did."""
    parts = [result.stdout, result.stderr]
    if result.status != "ok":
        parts.append(f"error: {result.status}: {result.error}".removesuffix(": "))

    text = ""
    for part in parts:
        text += part
        if part and not part.endswith("\n"):
            text += "\n"
    return text.rstrip("\n") or "(no output)"
