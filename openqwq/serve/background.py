"""Replies that run without a reader: recorded as they come, read from any place, cancelled by id.

What has been recorded goes to the store twice a second, so that little is lost with the server.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from openqwq.serve.format_responses import ResponsesFormat
from openqwq.serve.protocol import ApiError, Json
from openqwq.serve.store import ResponseStore

FLUSH_SECONDS = 0.5
RETRY_SECONDS = 2.0  # after the store could not be used
LOG = logging.getLogger("uvicorn.error")


class Recording:
    """The events of one reply so far; readers wait for more."""

    def __init__(self, response: ResponsesFormat, input_items: list[Json]) -> None:
        self.response = response
        self.input_items = input_items
        self.events: list[Json] = []
        self.stored = 0  # events that the store has
        self.ended = False
        self.drawing: asyncio.Task[list[Json]] | None = None  # all but the last events
        self.flushing: asyncio.Task[bool] | None = None
        self.task: asyncio.Task[None] | None = None  # never cancelled, so that it ends well
        self.given_up = asyncio.Event()  # where the store cannot be used
        self._grown = asyncio.Event()

    def add(self, events: list[Json], ended: bool = False) -> None:
        """Append events and wake the readers."""
        self.events += events
        self.ended = ended
        self._grown.set()
        self._grown = asyncio.Event()

    async def until_ended(self) -> None:
        """Wait for the last event."""
        while not self.ended:
            await self._grown.wait()

    async def read(self, after: int) -> AsyncGenerator[Json, None]:
        """The events whose sequence number is above `after`, as they come."""
        place = after + 1  # numbers count from 0 without gaps
        while True:
            grown = self._grown
            while place < len(self.events):
                yield self.events[place]
                place += 1
            if self.ended:
                return
            await grown.wait()


class Background:
    """The background responses that run now, by id."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store
        self.running: dict[str, Recording] = {}

    async def start(
        self,
        response: ResponsesFormat,
        input_items: list[Json],
        events: AsyncGenerator[Json, None],
    ) -> Recording:
        """Write `events` down from now on; raises what keeps the first from coming."""
        recording = Recording(response, input_items)
        recording.add([await anext(events)])
        try:
            await self._save(recording, [])
        except BaseException:
            await events.aclose()
            raise
        name = response.snapshot()["id"]
        self.running[name] = recording
        recording.drawing = asyncio.create_task(self._draw(recording, events))
        recording.task = asyncio.create_task(self._record(name, recording, events))
        return recording

    async def cancel(self, name: str) -> None:
        """End a response that runs; nothing where it has ended already."""
        recording = self.running.get(name)
        if recording is None or recording.drawing is None:
            return
        # a second time would stop the engine's clean-up
        if not recording.drawing.cancelling():
            recording.drawing.cancel()
        await recording.until_ended()

    async def stop(self, name: str) -> None:
        """The same, and its end is stored by now or never."""
        recording = self.running.get(name)
        if recording is None or recording.task is None:
            return
        await self.cancel(name)
        recording.given_up.set()
        await asyncio.wait({recording.task})

    async def close(self) -> None:
        """End every response that runs, as a server does that stops."""
        for name in list(self.running):
            await self.stop(name)

    async def _draw(
        self, recording: Recording, events: AsyncGenerator[Json, None]
    ) -> list[Json]:
        """Record events as they come, but for the last ones, which are returned.

        The end is shown only once it is stored: readers may go on from it at once.
        """
        flushed = time.monotonic()
        last: list[Json] = []
        try:
            async for event in events:
                if event["type"].startswith("response.") and _is_last(event):
                    last = [event]
                    continue
                recording.add([event])
                due = time.monotonic() - flushed > FLUSH_SECONDS
                if due and (recording.flushing is None or recording.flushing.done()):
                    # Readers do not wait for the store, which another program may hold.
                    recording.flushing = asyncio.create_task(self._keep(recording, []))
                    flushed = time.monotonic()
        except ApiError as error:
            last = recording.response.fail(error)
        return last

    async def _record(
        self, name: str, recording: Recording, events: AsyncGenerator[Json, None]
    ) -> None:
        last: list[Json] = []
        try:
            async with aclosing(events):
                assert recording.drawing
                await asyncio.wait({recording.drawing})
            last = recording.drawing.result()
        except asyncio.CancelledError:
            last = recording.response.cancel()
        finally:
            try:
                try:
                    if recording.flushing is not None:
                        await asyncio.wait({recording.flushing})
                    is_stored = await self._keep(recording, last)
                finally:  # whatever went wrong: readers wait for the end
                    recording.add(last, ended=True)
                while not is_stored and not recording.given_up.is_set():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(recording.given_up.wait(), RETRY_SECONDS)
                    is_stored = await self._keep(recording, [])
            finally:
                del self.running[name]

    async def _keep(self, recording: Recording, last: list[Json]) -> bool:
        """Store what has come since the last time; where that fails, the next time has it."""
        fresh = recording.events[recording.stored :]
        try:
            await self._save(recording, fresh + last)
        except ApiError as error:
            LOG.warning("response %s waits: %s", recording.response.snapshot()["id"], error)
            return False
        recording.stored += len(fresh)
        return True

    async def _save(self, recording: Recording, events: list[Json]) -> None:
        snapshot = recording.response.snapshot()
        await asyncio.to_thread(self._store.save, snapshot, recording.input_items, events)


def _is_last(event: Json) -> bool:
    kinds = ("completed", "incomplete", "failed", "cancelled")
    return event["type"] in {f"response.{kind}" for kind in kinds}
