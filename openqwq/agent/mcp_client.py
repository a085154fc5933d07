"""Tools of MCP servers: started from a command line, or reached at an address."""

import asyncio
import json
import shlex
import tempfile
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from openqwq.types import OpenQwQError, Tool

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult
    from mcp.types import Tool as McpTool

CONNECT_SECONDS = 30.0


class McpServer:
    """One server; use as an async context manager, then ask for its `tools`.

    `target` is a command line (stdio) or an http(s) address (streamable HTTP). A server that ends
    makes the call that is under way fail with a clear message, and is started or reached anew by
    the next one. Raises OpenQwQError where it cannot be started or speaks no MCP.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.tools: list[Tool] = []
        self._client: Client | None = None
        self._owner: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._connecting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        try:
            client, cursor = await self._connect(), None
            while True:
                page = await client.list_tools(cursor=cursor)
                self.tools += [self._tool(each) for each in page.tools]
                if not (cursor := page.next_cursor):
                    return self
        except BaseException:
            await self._disconnect()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self._disconnect()

    def _tool(self, listed: "McpTool") -> Tool:
        """Every one counts as acting: only its server knows what it does."""
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError

        try:
            Draft202012Validator.check_schema(listed.input_schema)
        except SchemaError as error:
            raise OpenQwQError(
                f"the tool {listed.name!r} of the MCP server {self.target!r} has a broken schema"
                f" ({error.message}): leave the server out or repair it"
            ) from error
        call = partial(self._call, listed.name)
        return Tool(listed.name, listed.description or "", listed.input_schema, call, acts=True)

    async def _call(self, name: str, arguments: Mapping[str, Any]) -> str:
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED

        client = await self._connect()
        try:
            result = await client.call_tool(name, dict(arguments))
        except MCPError as error:
            if error.code != CONNECTION_CLOSED:
                raise OpenQwQError(f"the MCP server says: {error}") from error
            await self._disconnect()
            raise OpenQwQError(
                f"the MCP server {self.target!r} ended during the call: the next call connects"
                " anew, without what it remembered"
            ) from error
        if result.is_error:
            raise OpenQwQError(shown(result).removeprefix("error: "))
        return shown(result)

    async def _connect(self) -> "Client":
        """The client of a running server; it lives in a task of its own, as its scopes must."""
        async with self._connecting:
            if self._client is None:
                await self._disconnect()  # an attempt whose call was given up
                ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
                self._stop = asyncio.Event()
                self._owner = asyncio.create_task(self._own(ready, self._stop))
                self._client = await ready
            return self._client

    async def _disconnect(self) -> None:
        if self._owner:
            self._stop.set()
            if self._client is None:  # still starting
                self._owner.cancel()
            owner, self._owner, self._client = self._owner, None, None
            await asyncio.wait({owner})

    async def _own(self, ready: "asyncio.Future[Client]", stop: asyncio.Event) -> None:
        """Hold one connection until `stop`; what keeps it from starting goes to `ready`."""
        from mcp import Client, StdioServerParameters, stdio_client

        with tempfile.TemporaryFile("w+", errors="replace") as log:  # a server's chatter
            try:
                if self.target.startswith(("http://", "https://")):
                    client = Client(self.target)
                else:
                    command, *arguments = shlex.split(self.target)
                    parameters = StdioServerParameters(command=command, args=arguments)
                    client = Client(stdio_client(parameters, errlog=log))
                async with asyncio.timeout(CONNECT_SECONDS) as starting:
                    async with client:
                        starting.reschedule(None)
                        ready.set_result(client)
                        await stop.wait()
            except Exception as error:  # transports raise groups of whatever their libraries do
                log.seek(0)
                said = (log.read().strip() or _innermost(error)).splitlines()[-1][:500]
                if not ready.done():
                    ready.set_exception(
                        OpenQwQError(
                            f"the MCP server {self.target!r} cannot be reached ({said}): give a"
                            " command that speaks MCP on its standard streams, or its http address"
                        )
                    )


def shown(result: "CallToolResult") -> str:
    """The text of a result; what is not text is named by its kind."""
    parts = []
    for block in result.content:
        match block.type:
            case "text":
                parts.append(block.text)
            case "resource" if hasattr(block.resource, "text"):
                parts.append(block.resource.text)
            case kind:
                parts.append(f"[{kind}: cannot be shown as text]")
    if not parts and result.structured_content is not None:
        parts.append(json.dumps(result.structured_content, ensure_ascii=False))
    return "\n".join(parts)


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}".removesuffix(": ")
