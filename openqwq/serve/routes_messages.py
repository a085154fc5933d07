"""The routes of Anthropic's API: /v1/messages and its token count."""

import asyncio
import secrets
from contextlib import ExitStack

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from openqwq.sandbox.ascii_json import AsciiJson
from openqwq.serve.asking import ask_chat, chat_prompt
from openqwq.serve.asking_messages import chat_body, shows_thinking
from openqwq.serve.format_messages import MessagesFormat
from openqwq.serve.protocol import ANTHROPIC
from openqwq.serve.running import Job
from openqwq.serve.service import Service


class MessagesRoutes:
    """The routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """The routes, by path and method."""
        return [
            Route(ANTHROPIC, self.create, methods=["POST"]),
            Route(f"{ANTHROPIC}/count_tokens", self.count, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        """POST /v1/messages."""
        service = self._service
        body = await service.body(request, "MessagesRequest")
        with ExitStack() as place:
            model = await service.lend(body, place)
            chat = chat_body(body)
            ask = await asyncio.to_thread(ask_chat, model, chat)
            reply_id = f"msg_{secrets.token_hex(12)}"
            message = MessagesFormat(reply_id, model.name, ask, shows_thinking(body))
            replies = service.replies(model, chat, ask, own=False)
            job = Job(request.scope["route"].path, reply_id, 1, message, replies)
            return await service.running.respond(
                request, job, body.get("stream", False), place
            )

    async def count(self, request: Request) -> Response:
        """POST /v1/messages/count_tokens: the tokens of the prompt, as the template writes it."""
        body = await self._service.body(request, "CountTokensRequest")
        with ExitStack() as place:
            model = await self._service.lend(body, place)
            prompt_ids = await asyncio.to_thread(chat_prompt, model, chat_body(body))
        return AsciiJson({"input_tokens": len(prompt_ids)})
