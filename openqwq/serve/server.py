"""`qwq serve`: one model behind OpenAI's API, its own tokenizer routes, metrics and a web chat."""

import asyncio
import mimetypes
import secrets
import socket
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from openqwq import __version__
from openqwq.engine.open import OpenedModel
from openqwq.serve.asking import ask_chat, messages, require_known
from openqwq.serve.chat import ChatForm, Form
from openqwq.serve.completions import CompletionForm, ask_completion, continuation
from openqwq.serve.guard import Access, Guard
from openqwq.serve.protocol import (
    Answer,
    ApiError,
    as_api_error,
    check,
    document,
    read_json,
    refusal,
)
from openqwq.serve.reply import Ask, reply
from openqwq.serve.responses import ResponsesForm, ask_response
from openqwq.serve.running import Running
from openqwq.serve.tool_steps import ServerTools
from openqwq.text.template import encode_chat
from openqwq.types import OpenQwQError

STATIC = Path(__file__).with_name("static")
NO_PAGE = (
    "<!doctype html><title>OpenQwQ</title><h1>OpenQwQ is running</h1><p>The web chat is not built"
    " here: run <code>npm ci &amp;&amp; npm run build</code> in <code>web/</code>. The API is at"
    " <code>/v1</code>, its document at <code>/openapi.json</code>.</p>"
)


@dataclass(frozen=True)
class ServerOptions:
    """How a server runs. `connect` are origins other than its own that the web chat may call."""

    access: Access = field(default_factory=Access)
    slots: int = 8
    queue: int = 64
    drain_seconds: float = 30.0
    connect: tuple[str, ...] = ()
    tools: ServerTools = field(default_factory=ServerTools)

    def __post_init__(self) -> None:
        for name, least in (("slots", 1), ("queue", 0), ("drain_seconds", 0)):
            if getattr(self, name) < least:
                raise OpenQwQError(f"{name} is {getattr(self, name)}: it must be at least {least}")


class Server:
    """The routes; a request for another model than the one that is served is refused."""

    def __init__(self, model: OpenedModel, options: ServerOptions) -> None:
        self.model, self.options = model, options
        self.running = Running(options.slots, options.queue, options.drain_seconds)
        self._started = int(time.time())
        self._tool_places = asyncio.Semaphore(options.slots)

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        body = await self._body(request, "ChatRequest")
        tools = self.options.tools
        own = tools.wanted(body)
        shown = {**body, "tools": tools.specifications} if own else body
        ask = await asyncio.to_thread(ask_chat, self.model, shown)
        reply_id = f"chatcmpl-{secrets.token_hex(12)}"
        form = ChatForm(reply_id, self.model.name, self.model.tokenizer, ask, body)
        if not own:
            return await self._reply(request, reply_id, form, ask, body)
        run = partial(tools.reply, self.model, body, ask, self._tool_places)
        return await self.running.respond(
            request,
            reply_id,
            form,
            lambda steering: [run(i, steering) for i in range(ask.n)],
            ask.n,
            body.get("stream", False),
        )

    async def respond(self, request: Request) -> Response:
        """POST /v1/responses."""
        body = await self._body(request, "ResponsesRequest")
        ask = await asyncio.to_thread(ask_response, self.model, body)
        reply_id = f"resp_{secrets.token_hex(12)}"
        form = ResponsesForm(reply_id, self.model.name, ask, body)
        return await self._reply(request, reply_id, form, ask, body)

    async def _reply(
        self, request: Request, reply_id: str, form: Form, ask: Ask, body: dict[str, Any]
    ) -> Response:
        return await self.running.respond(
            request,
            reply_id,
            form,
            lambda steering: [reply(self.model, ask, i, steering) for i in range(ask.n)],
            ask.n,
            body.get("stream", False),
        )

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions."""
        body = await self._body(request, "CompletionRequest")
        asks = await asyncio.to_thread(ask_completion, self.model, body)
        reply_id = f"cmpl-{secrets.token_hex(12)}"
        form = CompletionForm(reply_id, self.model.name, self.model.tokenizer, asks, body)
        streams = [continuation(self.model, ask, i) for ask in asks for i in range(ask.n)]
        return await self.running.respond(
            request, reply_id, form, lambda _: streams, len(streams), body.get("stream", False)
        )

    async def answer_now(self, request: Request) -> Response:
        """POST /v1/chat/completions/{id}/answer_now, and the same of a response."""
        reply_id = request.path_params["id"]
        self.running.answer_now(reply_id)
        return Answer({"id": reply_id, "object": "answer_now"})

    async def models(self, _: Request) -> Response:
        """GET /v1/models."""
        return Answer({"object": "list", "data": [self._model()]})

    async def one_model(self, request: Request) -> Response:
        """GET /v1/models/{model}."""
        self._require_model(request.path_params["model"])
        return Answer(self._model())

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize: a text, or a chat as the template writes it."""
        body = await self._body(request, "TokenizeRequest")
        tokenizer = self.model.tokenizer
        if "text" in body:
            encode = partial(tokenizer.encode, body["text"], body.get("allow_special", False))
        else:
            encode = partial(
                encode_chat, tokenizer, messages(body["messages"]), body.get("tools", ())
            )
        ids = await asyncio.to_thread(encode)
        return Answer(
            {"tokens": ids, "count": len(ids), "context_length": self.model.context_length}
        )

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize."""
        body = await self._body(request, "DetokenizeRequest")
        require_known(self.model, body["tokens"], "tokens")
        return Answer({"text": self.model.tokenizer.decode(body["tokens"])})

    async def health(self, _: Request) -> Response:
        """GET /health."""
        return Answer({"status": "ok", "model": self.model.name})

    async def metrics(self, _: Request) -> Response:
        """GET /metrics."""
        text = generate_latest(self.running.registry)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, _: Request) -> Response:
        """GET /openapi.json."""
        own = document()
        security = own["security"] if self.options.access.api_key else []
        return Answer(
            {**own, "info": {**own["info"], "version": __version__}, "security": security}
        )

    def app(self) -> ASGIApp:
        """The ASGI application behind its guard."""
        post, get = ["POST"], ["GET"]
        routes = [
            Route("/v1/chat/completions", self.chat, methods=post),
            Route("/v1/chat/completions/{id}/answer_now", self.answer_now, methods=post),
            Route("/v1/completions", self.complete, methods=post),
            Route("/v1/responses", self.respond, methods=post),
            Route("/v1/responses/{id}/answer_now", self.answer_now, methods=post),
            Route("/v1/models", self.models, methods=get),
            Route("/v1/models/{model:path}", self.one_model, methods=get),
            Route("/tokenize", self.tokenize, methods=post),
            Route("/detokenize", self.detokenize, methods=post),
            Route("/health", self.health, methods=get),
            Route("/metrics", self.metrics, methods=get),
            Route("/openapi.json", self.openapi, methods=get),
            *page_routes(self.options.connect),
        ]
        refused = (ApiError, OpenQwQError, HTTPException, Exception)
        handlers: dict[Any, Any] = dict.fromkeys(refused, _refuse)
        return Guard(Starlette(routes=routes, exception_handlers=handlers), self.options.access)

    async def _body(self, request: Request, schema: str) -> dict[str, Any]:
        body = check(await read_json(request), schema)
        if "model" in body:
            self._require_model(body["model"])
        if "stream_options" in body and not body.get("stream"):
            raise ApiError(400, "stream_options needs stream: true", "stream_options")
        return body

    def _require_model(self, name: str) -> None:
        if name != self.model.name:
            text = f"model {name!r} is not served here: the model is {self.model.name!r}"
            raise ApiError(404, text, "model", "model_not_found")

    def _model(self) -> dict[str, Any]:
        names = [tool["function"]["name"] for tool in self.options.tools.specifications]
        fixed = {"object": "model", "created": self._started, "owned_by": "openqwq"}
        model = {"id": self.model.name, **fixed, "context_length": self.model.context_length}
        return {**model, "engine": self.model.engine, "tools": names}


async def _refuse(_: Request, error: Exception) -> Response:
    match error:
        case ApiError():
            return refusal(error)
        case OpenQwQError():
            return refusal(as_api_error(error))
        case HTTPException(status_code=status, detail=text, headers=headers):
            return refusal(ApiError(status, text, headers=headers))
    return refusal(ApiError(500, f"the server failed: {error!r:.500}"))


def page_routes(connect: tuple[str, ...], folder: Path = STATIC) -> list[Route]:
    """One route a file of the web chat, each with a policy that lets no other code in."""
    origins = " ".join(("'self'", *connect))
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self';"
        f" img-src 'self' data:; connect-src {origins}; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    bodies = {f"/{path.relative_to(folder).as_posix()}": path for path in files}
    if "/index.html" in bodies:
        bodies["/"] = bodies["/index.html"]

    def route(path: str, file: Path) -> Route:
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"

        async def send(_: Request) -> Response:
            return Response(file.read_bytes(), headers=headers, media_type=kind)

        return Route(path, send, methods=["GET"])

    routes = [route(path, file) for path, file in bodies.items()]
    return routes or [Route("/", _no_page, methods=["GET"])]


async def _no_page(_: Request) -> Response:
    return HTMLResponse(NO_PAGE)


def serve(model: OpenedModel, options: ServerOptions, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT, then let running replies finish; closes the model."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise OpenQwQError(f"cannot listen on {host}:{port} ({error}): choose another") from error
    name, bound = listener.getsockname()[:2]
    shown = f"[{name}]" if ":" in name else name
    print(
        f"{model.name} at http://{shown}:{bound}  (engine {model.engine}: {model.why})", flush=True
    )
    drain = int(options.drain_seconds) + 5  # streams end themselves first
    config = uvicorn.Config(
        Server(model, options).app(),
        access_log=False,
        log_level="warning",
        server_header=False,
        http="h11",
        timeout_graceful_shutdown=drain,
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        model.close()
