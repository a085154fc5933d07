"""The routes of /v1/responses: made, stored, read again, streamed from any place, cancelled."""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import ExitStack

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from openqwq.sandbox.ascii_json import AsciiJson
from openqwq.serve.asking import ask_chat, shortened_chat
from openqwq.serve.asking_responses import chat_body, earlier_items, input_items
from openqwq.serve.format_responses import ResponsesFormat
from openqwq.serve.protocol import ApiError, Json
from openqwq.serve.running import EventStream, Job, sent
from openqwq.serve.service import Service

PAGE_ITEMS = 20  # of one answer, unless `limit` says otherwise
MOST_ITEMS = 100


class ResponsesRoutes:
    """The routes; a response that is stored can be gone on from by its id."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """The routes, by path and method."""
        one = "/v1/responses/{id}"
        return [
            Route("/v1/responses", self.create, methods=["POST"]),
            Route(one, self.read, methods=["GET"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(f"{one}/cancel", self.cancel, methods=["POST"]),
            Route(f"{one}/input_items", self.input_items, methods=["GET"]),
        ]

    async def create(self, request: Request) -> Response:
        """POST /v1/responses."""
        service = self._service
        body = await service.body(request, "ResponsesRequest")
        stored = body.get("store", True)
        if body.get("background") and not stored:
            raise ApiError(400, "background needs store: true", "background")
        reply_id = f"resp_{secrets.token_hex(12)}"
        suffix = reply_id.partition("_")[2]
        items = await asyncio.to_thread(input_items, body, suffix, service.store)
        earlier = await asyncio.to_thread(earlier_items, body, service.store)
        with ExitStack() as place:
            model = await service.lend(body, place)
            chat = chat_body(body, earlier + items)
            own = service.options.tools.wanted(chat)
            shown = {**chat, "tools": service.options.tools.specifications} if own else chat
            if body.get("truncation") == "auto":
                shown = await asyncio.to_thread(shortened_chat, model, shown)
                chat["messages"] = shown["messages"]
            ask = await asyncio.to_thread(ask_chat, model, shown)
            response = ResponsesFormat(reply_id, model.name, model.tokenizer, ask, body)

            async def keep() -> None:
                await asyncio.to_thread(service.store.save, response.snapshot(), items)

            background = body.get("background", False)
            replies = service.replies(model, chat, ask, own)
            job = Job(
                request.scope["route"].path,
                reply_id,
                1,
                response,
                replies,
                keep if stored and not background else None,
            )
            if not background:
                return await service.running.respond(
                    request, job, body.get("stream", False), place
                )
            queued = response.snapshot()
            events = service.running.events(job, place.pop_all())
            recording = await service.background.start(response, items, events)
        if body.get("stream"):
            return self._stream(recording.read(-1))
        return AsciiJson(queued)

    async def read(self, request: Request) -> Response:
        """GET /v1/responses/{id}: as it stands, or its events behind `starting_after`."""
        service = self._service
        name = request.path_params["id"]
        streamed = _truth(request, "stream")
        after = _number(request, "starting_after", -1)
        recording = service.background.running.get(name)
        if not streamed:
            if "starting_after" in request.query_params:
                raise ApiError(400, "starting_after needs stream=true", "starting_after")
            stored = await asyncio.to_thread(service.store.response, name)
            return AsciiJson(recording.response.snapshot() if recording else stored)
        if recording:
            return self._stream(recording.read(after))
        response = await asyncio.to_thread(service.store.response, name)
        if not response["background"]:
            text = f"response {name!r} has no stored events: only background responses have"
            raise ApiError(400, text, "stream")
        events = await asyncio.to_thread(service.store.events, name, after)
        return self._stream(_each(events))

    async def delete(self, request: Request) -> Response:
        """DELETE /v1/responses/{id}: ended if it runs, and forgotten."""
        service = self._service
        name = request.path_params["id"]
        await service.background.stop(name)
        await asyncio.to_thread(service.store.delete, name)
        return AsciiJson({"id": name, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        """POST /v1/responses/{id}/cancel: a background response ends as it is."""
        service = self._service
        name = request.path_params["id"]
        response = await asyncio.to_thread(service.store.response, name)
        if not response["background"]:
            raise ApiError(
                400, f"response {name!r} was not made with background: true", "id"
            )
        recording = service.background.running.get(name)
        await service.background.cancel(name)
        if recording:  # its end may not be stored yet
            return AsciiJson(recording.response.snapshot())
        return AsciiJson(await asyncio.to_thread(service.store.response, name))

    async def input_items(self, request: Request) -> Response:
        """GET /v1/responses/{id}/input_items: a page of them, the newest first."""
        store = self._service.store
        name = request.path_params["id"]
        items = await asyncio.to_thread(store.input_items, name)
        order = request.query_params.get("order", "desc")
        if order not in ("asc", "desc"):
            raise ApiError(400, f"order is {order!r}: it must be asc or desc", "order")
        if order == "desc":
            items.reverse()
        limit = _number(request, "limit", PAGE_ITEMS)
        if not 1 <= limit <= MOST_ITEMS:
            raise ApiError(
                400, f"limit is {limit}: it must be from 1 to {MOST_ITEMS}", "limit"
            )
        names = [item["id"] for item in items]
        first = 0
        if (after := request.query_params.get("after")) is not None:
            if after not in names:
                raise ApiError(404, f"item {after!r} is not an input of {name!r}", "after")
            first = names.index(after) + 1
        page = items[first : first + limit]
        return AsciiJson(
            {
                "object": "list",
                "data": page,
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
                "has_more": first + limit < len(items),
            }
        )

    def _stream(self, events: AsyncGenerator[Json, None]) -> Response:
        return EventStream(sent(events, None), self._service.options.drain_seconds)


async def _each(events: list[Json]) -> AsyncGenerator[Json, None]:
    for event in events:
        yield event


def _truth(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false")
    if text not in ("true", "false"):
        raise ApiError(400, f"{name} is {text!r}: it must be true or false", name)
    return text == "true"


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise ApiError(
            400, f"{name} is {text!r}: it must be a whole number of at least 0", name
        )
    return int(text)
