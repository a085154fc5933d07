"""What every route shares: the models, the places, the tools, the store."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request

from openqwq.engine.open import OpenedModel
from openqwq.serve.background import Background
from openqwq.serve.catalogue import Catalogue
from openqwq.serve.feedback import FeedbackStore
from openqwq.serve.guard import Access
from openqwq.serve.protocol import ApiError, check, read_body
from openqwq.serve.reply import Ask, Piece, reply
from openqwq.serve.running import Running
from openqwq.serve.store import ResponseStore
from openqwq.serve.tool_steps import ServerTools
from openqwq.types import OpenQwQError, Steering

Replies = Callable[[Steering], Sequence[AsyncGenerator[Piece, None]]]


@dataclass(frozen=True)
class ServerOptions:
    """How a server runs. `connect` are origins other than its own that the web chat may call.

    `store` is the file of stored responses; without one they end with the server. `feedback` is
    the file of readers' ratings; without one none are kept.
    """

    access: Access = field(default_factory=Access)
    slots: int = 8
    queue: int = 64
    drain_seconds: float = 30.0
    connect: tuple[str, ...] = ()
    tools: ServerTools = field(default_factory=ServerTools)
    store: Path | None = None
    feedback: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("slots", 1), ("queue", 0), ("drain_seconds", 0)):
            if getattr(self, name) < least:
                raise OpenQwQError(
                    f"{name} is {getattr(self, name)}: it must be at least {least}"
                )


class Service:
    """The state behind the routes."""

    def __init__(self, catalogue: Catalogue, options: ServerOptions) -> None:
        self.catalogue = catalogue
        self.options = options
        self.running = Running(options.slots, options.queue, options.drain_seconds)
        self.store = ResponseStore(options.store)
        self.background = Background(self.store)
        self.feedback = FeedbackStore(options.feedback) if options.feedback else None
        self.tool_places = asyncio.Semaphore(options.slots)
        self.started = int(time.time())

    async def body(self, request: Request, schema: str) -> dict[str, Any]:
        """The checked body of a request; ApiError for one that the document does not allow."""
        body = check(await read_body(request), schema)
        if "model" in body:
            self.catalogue.entry(body["model"])
        if "stream_options" in body and not body.get("stream"):
            raise ApiError(400, "stream_options needs stream: true", "stream_options")
        return body

    async def lend(self, body: dict[str, Any], place: ExitStack) -> OpenedModel:
        """The model that a body names, or the first; `place` holds it until it is closed."""
        name = body.get("model") or self.catalogue.names[0]
        return place.enter_context(await self.catalogue.lend(name))

    def replies(
        self, model: OpenedModel, body: dict[str, Any], ask: Ask, own: bool
    ) -> Replies:
        """What makes the replies to a chat; with `own` the server runs its tools itself."""

        def started(steering: Steering) -> list[AsyncGenerator[Piece, None]]:
            numbers = range(ask.n)
            if not own:
                return [reply(model, ask, number, steering) for number in numbers]
            run = self.options.tools.reply
            places = self.tool_places
            return [run(model, body, ask, places, number, steering) for number in numbers]

        return started
