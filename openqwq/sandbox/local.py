"""Runs programs in this machine's own workers: a pool that replaces whatever dies or hangs."""

import asyncio
import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

from openqwq.config import SandboxConfig
from openqwq.sandbox.doctor import LEVELS, REMEDIES, require
from openqwq.sandbox.installed import find_packages
from openqwq.sandbox.protocol import (
    DEFAULT,
    MAXIMUM,
    CaseResult,
    Limits,
    RunRequest,
    RunResult,
    Status,
)
from openqwq.sandbox.worker_process import Worker, WorkerDiedError, one_line
from openqwq.types import OpenQwQError

LASTING = ("ok", "compile_error", "runtime_error", "memory")  # a session outlives these
LOG = logging.getLogger(__name__)
# beyond its wall limit, what a case may take before its worker counts as hung
SLACK_SECONDS = 15.0


async def doctor(level: str = "full", packages: Sequence[str] = ()) -> dict[str, str]:
    """Try each layer of `level` here; return "" for one that holds, else why it does not.

    Raises OpenQwQError where a worker dies at its start.
    """
    worker = Worker(LEVELS[level], packages)
    try:
        failed = await worker.start()
        found: dict[str, str] = failed or await worker.ask({"probe": True}, seconds=60.0)
    except WorkerDiedError as error:
        blame = f"; one of {', '.join(packages)} may have ended it" if packages else ""
        raise OpenQwQError(f"the sandbox cannot start: {error}{blame}") from error
    finally:
        worker.kill()
    return {
        layer: found.get(layer, "not tried: a layer before it failed") for layer in REMEDIES
    }


class LocalSandbox:
    """A `Sandbox` on this machine; use as an async context manager, in one event loop.

    `limits` are those of requests that name none. Every program may import `packages`: installed
    ones by name, and all that a directory holds. Requests above `maximum` and more than
    `sessions` open sessions are OpenQwQErrors, as is a `level` that does not hold here.
    """

    def __init__(
        self,
        workers: int | None = None,
        level: str = "full",
        maximum: Limits = MAXIMUM,
        packages: Sequence[str] = (),
        sessions: int = 16,
        idle_seconds: float = 600.0,
        limits: Limits | None = None,
    ) -> None:
        if level not in LEVELS:
            raise OpenQwQError(f"level is {level!r}: it must be one of {', '.join(LEVELS)}")
        self.workers = workers or os.cpu_count() or 1
        self.level = level
        self.maximum = maximum
        self.packages = (packages,) if isinstance(packages, str) else tuple(packages)
        self._importable = {*self.packages, *find_packages(self.packages)}
        if limits:
            limits.check(maximum)
        self.limits = limits or DEFAULT.at_most(maximum)
        self.sessions = sessions
        self.idle_seconds = idle_seconds
        self.open_sessions: set[LocalSession] = set()
        self.deaths = 0
        self._opening = asyncio.Lock()
        self._slots: asyncio.Queue[tuple[Worker | None, int | None]] = asyncio.Queue()
        self._alive: set[Worker] = set()

    @classmethod
    def configured(cls, config: SandboxConfig) -> Self:
        """Make the sandbox that a config's table [sandbox] describes."""
        limits = Limits(
            wall_seconds=config.wall_seconds,
            cpu_seconds=config.cpu_seconds,
            memory_bytes=config.memory_bytes,
            output_bytes=config.output_bytes,
        )
        return cls(
            config.workers,
            config.level,
            maximum=MAXIMUM.at_least(limits),
            packages=config.packages,
            limits=limits,
        )

    async def start(self) -> None:
        """Check every layer of the level, then start the workers."""
        require(self.level, await doctor(self.level, self.packages))
        # A run whose processes keep to one core is a tenth faster; fewer workers would be in the
        # way of whatever else runs on theirs.
        cores: list[int | None] = [*sorted(os.sched_getaffinity(0))]
        if self.workers != len(cores):
            cores = [None] * self.workers
        for core in cores:
            self._slots.put_nowait((await self._worker(core), core))

    async def close(self) -> None:
        """Let the requests already made finish, then end every session and worker."""
        if self._alive:
            for _ in range(self.workers):
                await self._slots.get()
        for session in list(self.open_sessions):
            await session.close()
        for worker in list(self._alive):
            self._kill(worker)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def run(self, request: RunRequest) -> RunResult:
        """Run every case; a dead worker is replaced and its request tried once more.

        Raises OpenQwQError for limits above the maximum and for packages that are not here.
        """
        limits = request.limits or self.limits
        limits.check(self.maximum)
        self._check_packages(request.packages)
        request = replace(request, limits=limits)
        started = time.monotonic()
        error = ""
        for _ in range(2):
            try:
                cases = await self._attempt(request)
            except (WorkerDiedError, OSError) as failure:
                # OSError: no process could be started
                self.deaths += 1
                error = str(failure)
                LOG.warning("%s", error)
            else:
                seconds = time.monotonic() - started
                return RunResult(_first_failure(cases), tuple(cases), seconds=seconds)
        return RunResult("error", (), error, time.monotonic() - started)

    def _check_packages(self, needed: Sequence[str]) -> None:
        for name in needed:
            if name not in self._importable:
                offered = ", ".join(self.packages) or "none"
                raise OpenQwQError(
                    f"packages holds {name!r}, and this sandbox has {offered}: start it with "
                    "that package too ([sandbox] packages, qwq sandbox serve --packages)"
                )

    async def session(self, limits: Limits | None = None) -> "LocalSession":
        """Open a session with a new worker; raise OpenQwQError where too many are open."""
        limits = limits or self.limits
        limits.check(self.maximum)
        async with self._opening:
            if len(self.open_sessions) >= self.sessions:
                raise OpenQwQError(
                    f"{self.sessions} sessions are open, the maximum: close one"
                )
            return LocalSession(self, await self._worker(), limits)

    def pids(self) -> list[int]:
        """Return the process ids of the workers, those of sessions included."""
        return [worker.pid for worker in self._alive]

    async def _attempt(self, request: RunRequest) -> list[CaseResult]:
        worker, core = await self._slots.get()
        healthy = False
        cases: list[CaseResult] = []
        try:
            worker = worker or await self._worker(core)
            seconds = (request.limits or self.limits).wall_seconds + SLACK_SECONDS
            data = request.to_json()
            frames = [data]
            if request.form == "script":
                # apart, so that the program's process never holds it
                frames.append({"script": data["script"], "setup": request.setup})
                data["script"] = ""
            for _ in request.cases:
                cases.append(_result(await worker.ask(*frames, seconds=seconds)))
                frames = []
            # a script that was ended may not have read its text from the socket
            healthy = request.form != "script" or cases[0].status in (*LASTING, "unusable")
            return cases
        finally:  # also when cancelled: the program must not go on
            if worker and not healthy:
                self._kill(worker)
                worker = None  # its slot starts another one
            self._slots.put_nowait((worker, core))

    async def _worker(self, core: int | None = None) -> Worker:
        worker = Worker(LEVELS[self.level], self.packages, core)
        self._alive.add(worker)
        try:
            if failed := await worker.start():
                raise WorkerDiedError(f"a sandbox worker could not start: {failed}")
        except BaseException:
            self._kill(worker)
            raise
        return worker

    def _kill(self, worker: Worker) -> None:
        self._alive.discard(worker)
        worker.kill()


class LocalSession:
    """A `Session` with a worker of its own; closed by a time-out, its death, or idleness."""

    def __init__(self, sandbox: LocalSandbox, worker: Worker, limits: Limits) -> None:
        self._sandbox = sandbox
        self._worker = worker
        self._limits = limits
        self._frames: list[Any] = [{"session": vars(limits)}]
        self._turn = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self.ended = ""  # why the session is over
        sandbox.open_sessions.add(self)
        self._rest()

    def _rest(self) -> None:
        seconds = self._sandbox.idle_seconds
        reason = f"the session was idle for {seconds} s"
        self._idle = asyncio.get_running_loop().call_later(seconds, self._end, reason)

    def _end(self, reason: str) -> None:
        if not self.ended:
            self.ended = reason
            self._sandbox.open_sessions.discard(self)
            self._sandbox._kill(self._worker)
            if self._idle:
                self._idle.cancel()

    async def run(self, source: str) -> CaseResult:
        """Run `source`; raise OpenQwQError where the session is over, saying why."""
        async with self._turn:
            if self.ended:
                raise OpenQwQError(
                    f"{self.ended}: its variables are lost, open a new session"
                )
            if self._idle:
                self._idle.cancel()
            frames = [*self._frames, source]
            self._frames = []
            result = CaseResult("error")
            try:
                seconds = self._limits.wall_seconds + SLACK_SECONDS
                result = _result(await self._worker.ask(*frames, seconds=seconds))
            except WorkerDiedError as error:
                result = CaseResult("error", error=str(error))
            finally:  # a cancelled call leaves the interpreter in an unknown state
                if result.status in LASTING:
                    self._rest()
                else:
                    self._end(
                        f"the session ended with {result.status!r} {result.error}".rstrip()
                    )
            return result

    async def close(self) -> None:
        """Kill the interpreter."""
        self._end("the session was closed")


def _first_failure(cases: Sequence[CaseResult]) -> Status:
    """Return the status of the first case that is not ok."""
    for case in cases:
        if case.status not in ("ok", "skipped"):
            return case.status
    return "ok"


def _result(data: dict[str, Any]) -> CaseResult:
    told = one_line(data.get("error", ""))
    try:
        value = json.loads(data.get("value") or "null")
        return CaseResult.from_json({**data, "value": value, "error": told})
    except (ValueError, RecursionError) as error:  # only the program can have written it
        told = one_line(str(error))
        return CaseResult("runtime_error", data["stdout"], data["stderr"], error=told)
