"""`qwq serve`: models behind OpenAI's and Anthropic's APIs, tokenizer routes, a web chat."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from openqwq import __version__
from openqwq.engine.open import OpenedModel
from openqwq.sandbox.ascii_json import AsciiJson
from openqwq.serve.catalogue import Catalogue
from openqwq.serve.guard import Guard
from openqwq.serve.page import page_routes
from openqwq.serve.protocol import ApiError, as_api_error, document, refusal
from openqwq.serve.routes_chat import ChatRoutes
from openqwq.serve.routes_embeddings import EmbeddingsRoutes
from openqwq.serve.routes_messages import MessagesRoutes
from openqwq.serve.routes_page import PageRoutes
from openqwq.serve.routes_responses import ResponsesRoutes
from openqwq.serve.service import ServerOptions, Service
from openqwq.types import OpenQwQError

__all__ = ["Server", "ServerOptions", "serve"]


class Server:
    """The application; a request for a model that is not served is refused."""

    def __init__(self, models: OpenedModel | Catalogue, options: ServerOptions) -> None:
        self.options = options
        self.catalogue = models if isinstance(models, Catalogue) else Catalogue.of(models)
        self.service = Service(self.catalogue, options)
        self.running = self.service.running

    async def health(self, _: Request) -> Response:
        """GET /health."""
        return AsciiJson({"status": "ok", "model": self.catalogue.names[0]})

    async def metrics(self, _: Request) -> Response:
        """GET /metrics."""
        text = generate_latest(self.running.registry)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, _: Request) -> Response:
        """GET /openapi.json."""
        own = document()
        security = own["security"] if self.options.access.api_key else []
        info = {**own["info"], "version": __version__}
        return AsciiJson({**own, "info": info, "security": security})

    async def answer_now(self, request: Request) -> Response:
        """POST /v1/chat/completions/{id}/answer_now, and the same of a response."""
        reply_id = request.path_params["id"]
        self.running.answer_now(reply_id)
        return AsciiJson({"id": reply_id, "object": "answer_now"})

    def app(self) -> ASGIApp:
        """The ASGI application behind its guard."""
        routes = [
            *ChatRoutes(self.service).routes(),
            *ResponsesRoutes(self.service).routes(),
            *PageRoutes(self.service).routes(),
            *MessagesRoutes(self.service).routes(),
            *EmbeddingsRoutes(self.service).routes(),
            Route(
                "/v1/chat/completions/{id}/answer_now", self.answer_now, methods=["POST"]
            ),
            Route("/v1/responses/{id}/answer_now", self.answer_now, methods=["POST"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
            *page_routes(self.options.connect),
        ]
        refused = (ApiError, OpenQwQError, HTTPException, Exception)
        handlers: dict[Any, Any] = dict.fromkeys(refused, _refuse)
        own = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._life)
        return Guard(own, self.options.access)

    @asynccontextmanager
    async def _life(self, _: Starlette) -> AsyncIterator[None]:
        yield
        await self.service.background.close()
        self.service.store.close()
        if self.service.feedback:
            self.service.feedback.close()


async def _refuse(request: Request, error: Exception) -> Response:
    match error:
        case ApiError():
            refused = error
        case OpenQwQError():
            refused = as_api_error(error)
        case HTTPException(status_code=status, detail=text, headers=headers):
            refused = ApiError(status, text, headers=headers)
        case _:
            refused = ApiError(500, f"the server failed: {error!r:.500}")
    return refusal(refused, request.scope["path"])


def listening(host: str, port: int) -> socket.socket:
    """A socket whose connections send each event at once; OpenQwQError where the port is taken.

    asyncio sees to that only where a socket names its protocol, which this one does not: each
    event would wait for the last one's receipt, up to 40 ms.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise OpenQwQError(
            f"cannot listen on {host}:{port} ({error}): choose another"
        ) from error
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def serve(catalogue: Catalogue, options: ServerOptions, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT, then let running replies finish; closes the models."""
    listener = listening(host, port)
    name, bound = listener.getsockname()[:2]
    shown = f"[{name}]" if ":" in name else name
    print(f"{_described(catalogue)} at http://{shown}:{bound}", flush=True)
    drain = int(options.drain_seconds) + 5  # streams end themselves first
    config = uvicorn.Config(
        Server(catalogue, options).app(),
        access_log=False,
        log_level="warning",
        server_header=False,
        http="h11",
        timeout_graceful_shutdown=drain,
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        catalogue.close()


def _described(catalogue: Catalogue) -> str:
    parts = []
    for entry in catalogue.entries.values():
        model = entry.model
        why = f"engine {model.engine}: {model.why}" if model else "loaded when asked for"
        parts.append(f"{entry.name} ({why})")
    return ", ".join(parts)
