"""A sandbox server that runs in this process, for the tests that ask one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from openqwq.sandbox.client import RemoteSandbox
from openqwq.sandbox.server import SandboxServer


@asynccontextmanager
async def serving(
    server: SandboxServer, **options: Any
) -> AsyncIterator[tuple[RemoteSandbox, uvicorn.Server]]:
    """Serve on a free port until the end of the block."""
    config = uvicorn.Config(server, port=0, log_level="warning", lifespan="on")
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0.01)
        assert not task.done()
    port = running.servers[0].sockets[0].getsockname()[1]
    async with RemoteSandbox(f"http://127.0.0.1:{port}", **options) as client:
        yield client, running
    running.should_exit = True
    await task
