"""The routes of chats and plain texts: /v1/chat/completions, /v1/completions, the tokenizer's."""

import asyncio
import secrets
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from openqwq.sandbox.ascii_json import AsciiJson
from openqwq.serve.asking import ask_chat, require_known
from openqwq.serve.asking_completions import ask_completion, continuation
from openqwq.serve.asking_tools import with_tools
from openqwq.serve.format_chat import ChatFormat
from openqwq.serve.format_completions import CompletionFormat
from openqwq.serve.history import messages
from openqwq.serve.running import Job
from openqwq.serve.service import Service
from openqwq.text.template import encode_chat


class ChatRoutes:
    """The routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """The routes, by path and method."""
        return [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{model:path}", self.one_model, methods=["GET"]),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/detokenize", self.detokenize, methods=["POST"]),
        ]

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        service = self._service
        body = with_tools(await service.body(request, "ChatRequest"))
        tools = service.options.tools
        own = tools.wanted(body)
        shown = {**body, "tools": tools.specifications} if own else body
        with ExitStack() as place:
            model = await service.lend(body, place)
            ask = await asyncio.to_thread(ask_chat, model, shown)
            reply_id = f"chatcmpl-{secrets.token_hex(12)}"
            reply_format = ChatFormat(reply_id, model.name, model.tokenizer, ask, body)
            replies = service.replies(model, body, ask, own)
            job = Job(request.scope["route"].path, reply_id, ask.n, reply_format, replies)
            return await service.running.respond(
                request, job, body.get("stream", False), place
            )

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions."""
        service = self._service
        body = await service.body(request, "CompletionRequest")
        with ExitStack() as place:
            model = await service.lend(body, place)
            asks = await asyncio.to_thread(ask_completion, model, body)
            reply_id = f"cmpl-{secrets.token_hex(12)}"
            reply_format = CompletionFormat(
                reply_id, model.name, model.tokenizer, asks, body
            )
            streams = [continuation(model, ask, i) for ask in asks for i in range(ask.n)]
            route = request.scope["route"].path
            job = Job(route, reply_id, len(streams), reply_format, lambda _: streams)
            return await service.running.respond(
                request, job, body.get("stream", False), place
            )

    async def models(self, _: Request) -> Response:
        """GET /v1/models, with what Anthropic's clients read in it."""
        listed = [self._described(name) for name in self._service.catalogue.names]
        page = {"has_more": False, "first_id": listed[0]["id"], "last_id": listed[-1]["id"]}
        return AsciiJson({"object": "list", "data": listed, **page})

    async def one_model(self, request: Request) -> Response:
        """GET /v1/models/{model}."""
        name = self._service.catalogue.own_name(request.path_params["model"])
        return AsciiJson(self._described(name))

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize: a text, or a chat as the template writes it."""
        body = await self._service.body(request, "TokenizeRequest")
        with ExitStack() as place:
            model = await self._service.lend(body, place)
            tokenizer = model.tokenizer
            if "text" in body:
                allow = body.get("allow_special", False)
                encode = partial(tokenizer.encode, body["text"], allow)
            else:
                turns = messages(body["messages"])
                encode = partial(encode_chat, tokenizer, turns, body.get("tools", ()))
            ids = await asyncio.to_thread(encode)
        return AsciiJson(
            {"tokens": ids, "count": len(ids), "context_length": model.context_length}
        )

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize."""
        body = await self._service.body(request, "DetokenizeRequest")
        with ExitStack() as place:
            model = await self._service.lend(body, place)
            require_known(model, body["tokens"], "tokens")
            return AsciiJson({"text": model.tokenizer.decode(body["tokens"])})

    def _described(self, name: str) -> dict[str, Any]:
        service = self._service
        entry = service.catalogue.entry(name)
        model = entry.model
        tools = [tool["function"]["name"] for tool in service.options.tools.specifications]
        aliases = [alias for alias, own in service.catalogue.aliases.items() if own == name]
        return {
            "id": name,
            "object": "model",
            "type": "model",
            "display_name": name,
            "created": service.started,
            "created_at": datetime.fromtimestamp(service.started, UTC).isoformat(),
            "owned_by": "openqwq",
            "context_length": model.context_length if model else None,
            "engine": model.engine if model else None,
            "loaded": model is not None,
            "aliases": aliases,
            "parent": entry.name if name != entry.name else None,
            "tools": tools,
            "feedback": service.feedback is not None,
        }
