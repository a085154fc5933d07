"""The execution server: a `LocalSandbox` over HTTP, with a bounded queue and metrics."""

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from openqwq.sandbox.ascii_json import AsciiJson
from openqwq.sandbox.doctor import require
from openqwq.sandbox.local import LocalSandbox, LocalSession, doctor
from openqwq.sandbox.protocol import DEFAULT, MAXIMUM, Limits, RunRequest
from openqwq.types import OpenQwQError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class SandboxServer:
    """The ASGI application, whose shutdown drains the sandbox.

    `queue` requests may wait or run, later ones are told to come again.

    With an `api_key` each request but GET /health must have it.
    """

    def __init__(
        self,
        sandbox: LocalSandbox,
        queue: int = 1024,
        body_bytes: int = 2**24,
        api_key: str = "",
    ) -> None:
        self.sandbox = sandbox
        self.queue = queue
        self.body_bytes = body_bytes
        self.api_key = api_key
        self.sessions: dict[str, LocalSession] = {}
        self.pending = 0
        self.counts: Counter[str] = Counter()
        self.seconds = 0.0
        routes = [
            Route("/run", self.run, methods=["POST"]),
            Route("/sessions", self.open, methods=["POST"]),
            Route("/sessions/{id}/run", self.call, methods=["POST"]),
            Route("/sessions/{id}", self.close, methods=["DELETE"]),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
        ]
        handlers: dict[Any, Any] = {OpenQwQError: _refuse, HTTPException: _refuse}
        self.routes = Starlette(
            routes=routes, exception_handlers=handlers, lifespan=self.lifespan
        )

    async def run(self, request: Request) -> Response:
        """POST /run: a RunRequest in, a RunResult out."""
        data = self._limited(await self._body(request))
        async with self._place():
            result = await self.sandbox.run(RunRequest.from_json(data))
        self.counts[result.status] += 1
        self.seconds += result.seconds
        return AsciiJson(result.to_json())

    async def open(self, request: Request) -> Response:
        """POST /sessions: `{"limits": {...}}` in, `{"id": ...}` out."""
        data = await self._body(request)
        if not isinstance(data, dict) or set(data) - {"limits"}:
            raise OpenQwQError('the body must be a JSON object with the one field "limits"')
        limits = Limits.from_json(self._limited(data)["limits"])
        if len(self.sessions) >= self.sandbox.sessions:
            self._forget_ended()
        if len(self.sessions) >= self.sandbox.sessions:
            raise HTTPException(503, "too many open sessions", {"Retry-After": "10"})
        name = secrets.token_urlsafe(16)
        self.sessions[name] = await self.sandbox.session(limits)
        return AsciiJson({"id": name}, 201)

    async def call(self, request: Request) -> Response:
        """POST /sessions/{id}/run: `{"source": ...}` in, a CaseResult out; 410 once it is over."""
        session = self._session(request)
        data = await self._body(request)
        if not isinstance(data, dict) or not isinstance(data.get("source"), str):
            raise OpenQwQError(
                'the body must be a JSON object with the text field "source"'
            )
        async with self._place():
            if session.ended:
                raise HTTPException(410, f"{session.ended}: open a new session")
            result = await session.run(data["source"])
        self.counts[result.status] += 1
        return AsciiJson(result.to_json())

    async def close(self, request: Request) -> Response:
        """DELETE /sessions/{id}."""
        await self._session(request).close()
        del self.sessions[request.path_params["id"]]
        return Response(status_code=204)

    async def health(self, _: Request) -> Response:
        """GET /health."""
        sandbox = self.sandbox
        state = {
            "level": sandbox.level,
            "workers": sandbox.workers,
            "pending": self.pending,
        }
        settings = {"limits": vars(sandbox.limits), "packages": sandbox.packages}
        sessions = len(sandbox.open_sessions)
        return AsciiJson({"status": "ok", **state, "sessions": sessions, **settings})

    async def metrics(self, _: Request) -> Response:
        """GET /metrics: the Prometheus text format."""
        values = {
            "pending gauge": self.pending,
            "sessions gauge": len(self.sandbox.open_sessions),
            "worker_deaths_total counter": self.sandbox.deaths,
            "run_seconds_total counter": self.seconds,
        }
        lines = ["# TYPE openqwq_sandbox_results_total counter"]
        for status, count in sorted(self.counts.items()):
            lines.append(f'openqwq_sandbox_results_total{{status="{status}"}} {count}')
        for entry, value in values.items():
            name = f"openqwq_sandbox_{entry.split()[0]}"
            lines += [f"# TYPE {name} {entry.split()[1]}", f"{name} {value}"]
        return PlainTextResponse(
            "\n".join(lines) + "\n", media_type="text/plain; version=0.0.4"
        )

    def _limited(self, data: Any) -> Any:
        """Fill in the limits that a request does not name: the sandbox's own."""
        if isinstance(data, dict) and data.get("limits", {}) is None:
            data = {**data, "limits": {}}
        if not isinstance(data, dict) or not isinstance(data.get("limits", {}), dict):
            return data  # malformed, as its reader will say
        return {**data, "limits": {**vars(self.sandbox.limits), **data.get("limits", {})}}

    def _forget_ended(self) -> None:
        for name, session in list(self.sessions.items()):
            if session.ended:
                del self.sessions[name]

    def _session(self, request: Request) -> LocalSession:
        try:
            return self.sessions[request.path_params["id"]]
        except KeyError:
            raise HTTPException(
                404, "no such session: open one with POST /sessions"
            ) from None

    async def _body(self, request: Request) -> Any:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self.body_bytes:
                raise HTTPException(
                    413, f"the body is above the maximum {self.body_bytes} bytes"
                )
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, f"the body is not JSON: {error}") from error

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self.pending >= self.queue:
            self.counts["refused"] += 1
            raise HTTPException(
                503, f"{self.queue} requests wait already", {"Retry-After": "1"}
            )
        self.pending += 1
        try:
            yield
        finally:
            self.pending -= 1

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Start the sandbox with the application and drain it at the end."""
        async with self.sandbox:
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on if it has the key and comes from no web page."""
        answer: ASGIApp = self.routes
        if scope["type"] == "http":
            answer = self._refusal(scope) or self.routes
        await answer(scope, receive, send)

    def _refusal(self, scope: Scope) -> AsciiJson | None:
        headers = Headers(scope=scope)
        if "origin" in headers:
            # a browser sends it: a page could use what listens on loopback
            return AsciiJson({"error": "requests of web pages are refused"}, 403)
        if not self.api_key or scope["path"] == "/health":
            return None
        sent = headers.get("authorization", "").encode()
        if secrets.compare_digest(sent, f"Bearer {self.api_key}".encode()):
            return None
        error = "the API key is missing or wrong: send it as Authorization: Bearer KEY"
        return AsciiJson({"error": error}, 401, {"WWW-Authenticate": "Bearer"})


async def _refuse(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return AsciiJson({"error": error.detail}, error.status_code, error.headers)
    return AsciiJson({"error": str(error)}, 400)


def limits_from(settings: Sequence[str], base: Limits = MAXIMUM) -> Limits:
    """Read "name=value" settings over `base`; raise OpenQwQError for one that is not a limit."""
    found = base
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in vars(MAXIMUM):
            names = ", ".join(vars(MAXIMUM))
            raise OpenQwQError(f"limit is {setting!r}: use NAME=VALUE with one of {names}")
        try:
            found = replace(found, **{name: type(getattr(MAXIMUM, name))(text)})
        except ValueError:
            raise OpenQwQError(f"limit {name} is {text!r}: it must be a number") from None
    return found


def serve(
    host: str = "127.0.0.1",
    port: int = 8182,
    maximum: Sequence[str] = (),
    limit: Sequence[str] = (),
    queue: int = 1024,
    api_key: str = "",
    insecure: bool = False,
    **options: Any,
) -> None:
    """Serve until SIGTERM or SIGINT, then let running requests finish (`options`: LocalSandbox).

    `maximum` and `limit` are "name=value": the most that a request may ask for, and what holds
    where it asks for nothing.

    Raises OpenQwQError for a public address without a key, and where the level does not hold.
    """
    if host not in LOOPBACK and not api_key and not insecure:
        raise OpenQwQError(
            f"host is {host!r}: others could run programs here; give --api-key (or the variable "
            "QWQ_SANDBOX_KEY), listen on 127.0.0.1, or say --insecure"
        )
    most = limits_from(maximum)
    limits = limits_from(limit, DEFAULT.at_most(most))
    sandbox = LocalSandbox(maximum=most, limits=limits, **options)
    require(sandbox.level, asyncio.run(doctor(sandbox.level, sandbox.packages)))
    app = SandboxServer(sandbox, queue, api_key=api_key)
    # kept longer than clients keep a connection, so that none is closed under a request
    uvicorn.run(app, host=host, port=port, access_log=False, timeout_keep_alive=75)
