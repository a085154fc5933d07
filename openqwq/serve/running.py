"""Requests in progress: who is let in, who has left, what is counted, and how replies go out."""

import asyncio
import json
import logging
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Sequence,
)
from contextlib import ExitStack, aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from openqwq.sandbox.ascii_json import AsciiJson
from openqwq.serve.format import Format
from openqwq.serve.protocol import ApiError, Json, as_api_error
from openqwq.serve.reply import Finish, Piece, merged
from openqwq.types import OpenQwQError, Steering

Pieces = AsyncGenerator[tuple[int, Piece], None]
SEND_SECONDS = 60.0  # a client that reads nothing for this long is dropped
LOG = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Job:
    """A request that may run: `replies` makes its `n` replies, `format` writes them.

    `keep` is awaited once the reply is whole, before its reader learns that it is.
    """

    route: str
    id: str
    n: int
    format: Format
    replies: Callable[[Steering], Sequence[AsyncGenerator[Piece, None]]]
    keep: Callable[[], Awaitable[None]] | None = None


class Running:
    """`slots` replies run at once and `queue` more may wait; others are told to try again."""

    def __init__(self, slots: int, queue: int, drain_seconds: float) -> None:
        self.slots = slots
        self.queue = queue
        self._drain = drain_seconds
        self.admitted = 0  # replies that run or wait
        self.steering: dict[str, Steering] = {}
        self.registry = own = CollectorRegistry()
        self._requests = Counter(
            "openqwq_requests", "Requests by outcome", ["route", "outcome"], registry=own
        )
        self._tokens = Counter(
            "openqwq_tokens", "Tokens drawn, by kind", ["kind"], registry=own
        )
        self._first = Histogram(
            "openqwq_first_piece_seconds", "To the first piece", registry=own
        )
        self._whole = Histogram(
            "openqwq_request_seconds", "To the last piece", registry=own
        )
        running = Gauge("openqwq_replies_running", "Replies that hold a slot", registry=own)
        running.set_function(lambda: min(self.admitted, self.slots))
        waiting = Gauge(
            "openqwq_replies_waiting", "Replies that wait for a slot", registry=own
        )
        waiting.set_function(lambda: max(0, self.admitted - self.slots))

    def answer_now(self, reply_id: str) -> None:
        """End the thinking of a running reply; ApiError 404 if none has that id."""
        if reply_id not in self.steering:
            raise ApiError(404, f"no reply {reply_id!r} is running", "id", "not_found")
        self.steering[reply_id].answer_now = True

    async def respond(
        self, request: Request, job: Job, stream: bool, place: ExitStack
    ) -> Response:
        """The response to a request; ApiError 429 where there is no place for its replies.

        What `place` holds, such as the model, is freed by the caller or, of a stream, at its end.
        """
        pieces = self._begin(job, place)
        if stream:
            events = events_of(job, pieces)
            return EventStream(sent(events, job.format.done), self._drain, place.pop_all())
        return await _unless_disconnected(request, _whole(job, pieces))

    async def events(self, job: Job, place: ExitStack) -> AsyncGenerator[Json, None]:
        """The events of a job that has no reader; ApiError 429 where there is no place for it."""
        with place:
            async with aclosing(events_of(job, self._begin(job, place))) as events:
                async for event in events:
                    yield event

    def _begin(self, job: Job, place: ExitStack) -> Pieces:
        """The pieces of a job's replies, which hold places until `place` is closed."""
        try:
            steering = place.enter_context(self._place(job.id, job.n))
        except ApiError:
            self._requests.labels(job.route, "refused").inc()
            raise
        return self._counted(job, merged(job.replies(steering)))

    @contextmanager
    def _place(self, reply_id: str, n: int) -> Iterator[Steering]:
        if n > self.slots + self.queue:
            text = (
                f"n is {n}, but this server takes at most {self.slots + self.queue} replies"
            )
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

    async def _counted(self, job: Job, pieces: Pieces) -> Pieces:
        """`pieces`, with what they cost added to the metrics however they end."""
        started = time.perf_counter()
        first = True
        outcome = "aborted"
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
            self._requests.labels(job.route, outcome).inc()
            self._count_tokens(job.format.finishes)

    def _count_tokens(self, finishes: Sequence[Finish]) -> None:
        for finish in finishes:
            self._tokens.labels("completion").inc(finish.completion_tokens)
            self._tokens.labels("reasoning").inc(finish.reasoning_tokens)


class EventStream(EventSourceResponse):
    """Server-sent events that free what `place` holds when they end, however they end."""

    def __init__(
        self,
        events: AsyncGenerator[ServerSentEvent, None],
        drain: float,
        place: ExitStack | None = None,
    ) -> None:
        super().__init__(
            events,
            ping=30,
            sep="\n",
            send_timeout=SEND_SECONDS,
            shutdown_grace_period=drain,
        )
        self._place = place or ExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; a client that stops reading is dropped, which is no error."""
        with self._place, suppress(SendTimeoutError):
            await super().__call__(scope, receive, send)


async def events_of(job: Job, pieces: Pieces) -> AsyncGenerator[Json, None]:
    """The events of a reply; an error is an event too, since the headers have been sent."""
    try:
        for event in job.format.start():
            yield event
        async with aclosing(pieces):
            async for number, piece in pieces:
                for event in job.format.feed(number, piece):
                    yield event
        last = job.format.end()
    except Exception as error:
        last = job.format.fail(_as_api_error(error))
    await _keep(job)
    for event in last:
        yield event


async def sent(
    events: AsyncGenerator[Json, None], done: str | None
) -> AsyncGenerator[ServerSentEvent, None]:
    """Events in their plainest form: some clients look for bare newlines between them."""
    async with aclosing(events):
        async for event in events:
            yield ServerSentEvent(json.dumps(event), event=event.get("type"), sep="\n")
    if done:
        yield ServerSentEvent(done, sep="\n")


async def _whole(job: Job, pieces: Pieces) -> Response:
    try:
        async with aclosing(pieces):
            async for number, piece in pieces:
                job.format.feed(number, piece)
        answer = job.format.whole()
    except Exception as error:
        raise _as_api_error(error) from error
    await _keep(job)
    return AsciiJson(answer)


async def _keep(job: Job) -> None:
    """Store a whole reply; a failure is logged, and the client still gets the reply."""
    if job.keep is None:
        return
    try:
        await job.keep()
    except ApiError as error:
        LOG.warning("a response is not stored: %s", error)


def _as_api_error(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OpenQwQError):
        return as_api_error(error)
    return ApiError(500, f"the engine failed: {error!r:.500}")


async def _unless_disconnected(
    request: Request, answer: Coroutine[Any, Any, Response]
) -> Response:
    """The answer; the reply to a client that has disconnected is stopped at once."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answering = asyncio.create_task(answer)
    gone = asyncio.create_task(disconnected())
    try:
        await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
        return await answering if answering.done() else Response(status_code=499)
    finally:
        answering.cancel()
        gone.cancel()
        await asyncio.gather(answering, gone, return_exceptions=True)
