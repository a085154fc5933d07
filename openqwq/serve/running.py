"""Requests in progress: who is let in, who has left, what is counted, and how replies go out."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager, suppress
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from openqwq.serve.chat import Form
from openqwq.serve.protocol import Answer, ApiError, as_api_error
from openqwq.serve.reply import Finish, Piece, merged
from openqwq.types import OpenQwQError, Steering

Replies = Callable[[Steering], Sequence[AsyncGenerator[Piece, None]]]
SEND_SECONDS = 60.0  # a reader that takes nothing for so long is given up
LOG = logging.getLogger("uvicorn.error")


class Running:
    """`slots` replies run at once and `queue` more may wait; others are told to come again."""

    def __init__(self, slots: int, queue: int, drain_seconds: float) -> None:
        self.slots, self.queue, self._drain = slots, queue, drain_seconds
        self.admitted = 0  # replies that run or wait
        self.steering: dict[str, Steering] = {}
        self.registry = own = CollectorRegistry()
        self._requests = Counter(
            "openqwq_requests", "Requests by outcome", ["route", "outcome"], registry=own
        )
        self._tokens = Counter("openqwq_tokens", "Tokens drawn, by kind", ["kind"], registry=own)
        self._first = Histogram("openqwq_first_piece_seconds", "To the first piece", registry=own)
        self._whole = Histogram("openqwq_request_seconds", "To the last piece", registry=own)
        running = Gauge("openqwq_replies_running", "Replies that hold a slot", registry=own)
        running.set_function(lambda: min(self.admitted, self.slots))
        waiting = Gauge("openqwq_replies_waiting", "Replies that wait for a slot", registry=own)
        waiting.set_function(lambda: max(0, self.admitted - self.slots))

    def answer_now(self, reply_id: str) -> None:
        """End the thinking of a running reply; ApiError 404 if none has that id."""
        if reply_id not in self.steering:
            raise ApiError(404, f"no reply {reply_id!r} is running", "id", "not_found")
        self.steering[reply_id].answer_now = True

    async def respond(
        self, request: Request, reply_id: str, form: Form, replies: Replies, n: int, stream: bool
    ) -> Response:
        """The response of `n` replies; ApiError 429 where there is no place for them."""
        route, place = request.scope["route"].path, ExitStack()
        try:
            steering = place.enter_context(self._place(reply_id, n))
        except ApiError:
            self._requests.labels(route, "refused").inc()
            raise
        pieces = self._counted(route, form, merged(replies(steering)))
        if stream:
            return _Stream(_events(form, pieces), place, self._drain)
        with place:
            return await _unless_disconnected(request, _whole(form, pieces))

    @contextmanager
    def _place(self, reply_id: str, n: int) -> Iterator[Steering]:
        if n > self.slots + self.queue:
            text = f"n is {n}, but this server takes at most {self.slots + self.queue} replies"
            raise ApiError(400, text, "n")
        if self.admitted + n > self.slots + self.queue:
            text = f"{self.admitted} replies run or wait already: try again"
            raise ApiError(429, text, code="queue_full", headers={"Retry-After": "1"})
        self.admitted += n
        self.steering[reply_id] = Steering()
        try:
            yield self.steering[reply_id]
        finally:
            self.admitted -= n
            del self.steering[reply_id]

    async def _counted(
        self, route: str, form: Form, pieces: AsyncGenerator[tuple[int, Piece], None]
    ) -> AsyncGenerator[tuple[int, Piece], None]:
        """`pieces`, with what they cost added to the metrics however they end."""
        started, first, outcome = time.perf_counter(), True, "aborted"
        try:
            async with aclosing(pieces):
                async for item in pieces:
                    if first:
                        self._first.observe(time.perf_counter() - started)
                        first = False
                    yield item
            outcome = "completed"
        except OpenQwQError:
            outcome = "refused"
            raise
        except Exception:
            outcome = "failed"
            LOG.exception("the engine failed")
            raise
        finally:
            self._whole.observe(time.perf_counter() - started)
            self._requests.labels(route, outcome).inc()
            self._count_tokens(form.finishes)

    def _count_tokens(self, finishes: Sequence[Finish]) -> None:
        for finish in finishes:
            self._tokens.labels("completion").inc(finish.completion_tokens)
            self._tokens.labels("reasoning").inc(finish.reasoning_tokens)


class _Stream(EventSourceResponse):
    """Server-sent events that free their place when they end, however they end."""

    def __init__(
        self, events: AsyncGenerator[ServerSentEvent, None], place: ExitStack, drain: float
    ) -> None:
        super().__init__(
            events, ping=30, sep="\n", send_timeout=SEND_SECONDS, shutdown_grace_period=drain
        )
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; a reader that has stopped reading is left, not an error."""
        with self._place, suppress(SendTimeoutError):
            await super().__call__(scope, receive, send)


async def _events(
    form: Form, pieces: AsyncGenerator[tuple[int, Piece], None]
) -> AsyncGenerator[ServerSentEvent, None]:
    named = False
    try:
        for event in form.start():
            named = "type" in event
            yield _sent(event)
        async with aclosing(pieces):
            async for number, piece in pieces:
                for event in form.feed(number, piece):
                    yield _sent(event)
        for event in form.end():
            yield _sent(event)
    except Exception as error:  # the headers are out: the reader learns of it by an event
        yield _event(json.dumps(_as_api_error(error).body()), "error" if named else None)
    if not named:
        yield _event("[DONE]")


def _sent(event: dict[str, Any]) -> ServerSentEvent:
    return _event(json.dumps(event), event.get("type"))


def _event(data: str, name: str | None = None) -> ServerSentEvent:
    """An event in the plainest form: some clients look for bare newlines between events."""
    return ServerSentEvent(data, event=name, sep="\n")


async def _whole(form: Form, pieces: AsyncGenerator[tuple[int, Piece], None]) -> Response:
    try:
        async with aclosing(pieces):
            async for number, piece in pieces:
                form.feed(number, piece)
    except Exception as error:
        raise _as_api_error(error) from error
    return Answer(form.whole())


def _as_api_error(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OpenQwQError):
        return as_api_error(error)
    return ApiError(500, f"the engine failed: {error!r:.500}")


async def _unless_disconnected(request: Request, answer: Coroutine[Any, Any, Response]) -> Response:
    """The answer; or nothing for a client that has gone, whose reply ends at once."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answering, gone = asyncio.create_task(answer), asyncio.create_task(disconnected())
    try:
        await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
        return await answering if answering.done() else Response(status_code=499)
    finally:
        answering.cancel()
        gone.cancel()
        await asyncio.gather(answering, gone, return_exceptions=True)
