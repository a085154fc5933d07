"""A `Sandbox` behind HTTP: the same requests and results, answered by `server.py`."""

import asyncio
import json
from dataclasses import asdict, replace
from typing import Any, Self

import httpx

from openqwq.sandbox.protocol import DEFAULT, CaseResult, Limits, RunRequest, RunResult
from openqwq.types import OpenQwQError


class RemoteSandbox:
    """A client of one server; waits up to `patience` seconds while the server is full.

    `api_key` is the server's, where it asks for one. `limits` are those of requests that name
    none; without them the server's own hold.

    A refused request is an OpenQwQError; a server that cannot be reached or fails is a result
    with the status `error`. Use as an async context manager.
    """

    def __init__(
        self,
        url: str,
        patience: float = 600.0,
        connections: int = 64,
        api_key: str = "",
        limits: Limits | None = None,
    ) -> None:
        pool = httpx.Limits(max_connections=connections)
        timeout = httpx.Timeout(3600.0, connect=10.0)
        headers = {}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self.client = httpx.AsyncClient(
            base_url=url, headers=headers, limits=pool, timeout=timeout
        )
        self.limits = limits or DEFAULT
        self._limits = limits  # sent, unless a request has its own
        self.patience = patience

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    async def run(self, request: RunRequest) -> RunResult:
        """Run every case on the server, once more where the connection breaks."""
        request = replace(request, limits=request.limits or self._limits)
        reason = ""
        for _ in range(2):
            try:
                return RunResult.from_json(
                    await self.ask("POST", "/run", request.to_json())
                )
            except httpx.HTTPError as error:
                reason = f"sandbox server: {error!r}"
        return RunResult("error", error=reason)

    async def session(self, limits: Limits | None = None) -> "RemoteSession":
        """Open a session on the server."""
        limits = limits or self._limits
        body = {"limits": asdict(limits)} if limits else {}
        answer = await self.ask("POST", "/sessions", body)
        return RemoteSession(self, answer["id"])

    async def ask(self, method: str, path: str, data: Any = None) -> Any:
        """Send one request, again while the server is full; raise OpenQwQError on a 4xx answer."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.patience
        body = None if data is None else json.dumps(data).encode()
        while True:
            answer = await self.client.request(method, path, content=body)
            if answer.status_code != 503 or loop.time() > deadline:
                break
            await asyncio.sleep(float(answer.headers.get("Retry-After", 1)))
        if answer.is_client_error:
            raise OpenQwQError(answer.json()["error"])
        answer.raise_for_status()
        return answer.json() if answer.content else None


class RemoteSession:
    """A `Session` on the server."""

    def __init__(self, sandbox: RemoteSandbox, name: str) -> None:
        self._sandbox = sandbox
        self._path = f"/sessions/{name}"

    async def run(self, source: str) -> CaseResult:
        """Run `source`; raise OpenQwQError where the session is over, saying why."""
        try:
            data = await self._sandbox.ask("POST", self._path + "/run", {"source": source})
        except httpx.HTTPError as error:
            return CaseResult("error", error=f"sandbox server: {error!r}")
        return CaseResult.from_json(data)

    async def close(self) -> None:
        """End the session."""
        await self._sandbox.ask("DELETE", self._path)
