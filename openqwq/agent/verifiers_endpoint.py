"""The model's side of an episode of `verifiers`: an endpoint on this machine.

The package asks for every reply over HTTP, and names the conversation it belongs to in a header.
Here each conversation is a `Line`: a question waits in it until somebody replies.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

SESSION_HEADER = "X-Session-ID"
LARGEST_REQUEST = 64 * 2**20  # bytes


@dataclass
class Question:
    """One request for a reply, with the OpenAI chat body that asks it."""

    session: str
    body: dict[str, Any]
    reply: asyncio.Future[dict[str, Any]]


@dataclass
class Line:
    """The questions of one episode, in the order in which they came."""

    questions: asyncio.Queue[Question] = field(default_factory=asyncio.Queue)
    waiting: list[Question] = field(default_factory=list)

    async def ask(self, session: str, body: dict[str, Any]) -> dict[str, Any]:
        """Put a question and wait for its reply."""
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        question = Question(session, body, reply)
        self.waiting.append(question)
        self.questions.put_nowait(question)
        try:
            return await reply
        finally:
            self.waiting.remove(question)

    def hang_up(self) -> None:
        """Leave every question without a reply."""
        for question in list(self.waiting):
            question.reply.cancel()


class Endpoint:
    """An OpenAI-compatible endpoint whose replies come from `lines`, by session."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen at a free port of this machine; `url` says where."""
        app = web.Application(client_max_size=LARGEST_REQUEST)
        app.router.add_post("/v1/chat/completions", self._chat)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/v1"
        self._runner = runner

    async def stop(self) -> None:
        """Stop listening; open questions get no reply."""
        for line in self.lines.values():
            line.hang_up()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _chat(self, request: web.Request) -> web.Response:
        session = request.headers.get(SESSION_HEADER, "")
        line = self.lines.get(session)
        if line is None:
            return _refusal(404, f"no episode has the session {session!r}")
        body = await request.json()
        if body.get("stream"):
            return _refusal(400, "replies are not streamed here")
        try:
            return web.json_response(await line.ask(session, body))
        except asyncio.CancelledError:
            return _refusal(503, "the episode is over: no reply will come")


def _refusal(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status)
