"""Tools of MCP servers: started from a command line, or reached at an address."""

import asyncio
import re
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TextIO, TypeVar

from openqwq.agent.mcp_questions import AskUser, answered
from openqwq.agent.mcp_results import shown_prompt, shown_resource, shown_result
from openqwq.agent.mcp_settings import McpSettings, read_settings
from openqwq.agent.progress import reporter
from openqwq.types import OpenQwQError, Tool

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import ElicitRequestParams, ElicitResult
    from mcp.types import Tool as McpTool

CONNECT_SECONDS = 30.0
Asked = TypeVar("Asked")
LISTED = 30  # resources and prompts that are named to the model


class McpServer:
    """One server; use as an async context manager, then ask for its `tools`.

    It is started by its command (stdio) or reached at its address (streamable HTTP). A server that
    ends makes the call that is under way fail with a clear message, and is started or reached again
    by the next one. What it offers to read (resources, prompts) is read by tools of their own.
    `ask` puts a question of the server to the user. Raises OpenQwQError where it cannot be started,
    does not speak MCP, or lacks a tool that its settings name.
    """

    def __init__(self, settings: McpSettings | str, ask: AskUser | None = None) -> None:
        if isinstance(settings, str):
            (settings,) = read_settings(settings)
        self.settings = settings
        self._ask = ask
        self.target = settings.target
        self.name = settings.name
        self.tools: list[Tool] = []
        self._client: Client | None = None
        self._owner: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._connecting = asyncio.Lock()
        self._waiting: list[Callable[[str], None]] = []  # what tells of the calls under way

    async def __aenter__(self) -> Self:
        try:
            client = await self._connect()
            listed = await _all(client.list_tools, "tools")
            readers = await self._readers(client)
            self._require(
                self.settings.picked - {each.name for each in [*listed, *readers]}
            )
            offered = self.settings.offers
            self.tools = [self._tool(each) for each in listed if offered(each.name)]
            self.tools += [reader for reader in readers if offered(reader.name)]
            self.name = self.name or _short_name(client.server_info, self.target)
            return self
        except BaseException:
            await self._disconnect()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self._disconnect()

    def _require(self, missing: frozenset[str]) -> None:
        if missing:
            names = ", ".join(sorted(missing))
            raise OpenQwQError(
                f"the MCP server {self.target!r} has no tool {names}: correct allow or deny"
            )

    async def _readers(self, client: "Client") -> list[Tool]:
        """Tools that read what the server offers apart from its tools."""
        has = client.server_capabilities
        readers: list[Tool] = []
        if has.resources is not None:
            resources = await _all(client.list_resources, "resources")
            templates = await _all(client.list_resource_templates, "resource_templates")
            named = [f"{each.uri} ({each.name})" for each in resources]
            named += [f"{each.uri_template} ({each.name})" for each in templates]
            if named:
                text = f"Read one of these resources: {_listed(named)}"
                uri = {"type": "string", "description": "the resource's address"}
                parameters = _object({"uri": uri}, ["uri"])
                readers.append(
                    Tool("read_resource", text, parameters, self._read_resource, acts=True)
                )
        if has.prompts is not None:
            prompts = await _all(client.list_prompts, "prompts")
            named = [_prompt_line(each) for each in prompts]
            if named:
                text = f"Get one of these prompts, filled in: {_listed(named)}"
                values = {"type": "object", "additionalProperties": {"type": "string"}}
                fields = {"name": {"type": "string"}, "arguments": values}
                parameters = _object(fields, ["name"])
                readers.append(
                    Tool("get_prompt", text, parameters, self._get_prompt, acts=True)
                )
        return readers

    async def _read_resource(self, arguments: Mapping[str, Any]) -> str:
        uri = arguments["uri"]
        return shown_resource(await self._asked(lambda client: client.read_resource(uri)))

    async def _get_prompt(self, arguments: Mapping[str, Any]) -> str:
        name = arguments["name"]
        values = arguments.get("arguments", {})
        return shown_prompt(
            await self._asked(lambda client: client.get_prompt(name, values))
        )

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
        return Tool(
            listed.name, listed.description or "", listed.input_schema, call, acts=True
        )

    async def _call(self, name: str, arguments: Mapping[str, Any]) -> str:
        tell = reporter()  # here: the SDK reports from a task of its own
        self._waiting.append(tell)

        async def on_progress(
            progress: float, total: float | None, message: str | None
        ) -> None:
            whole = f" of {total:g}" if total else ""
            tell(message or f"{progress:g}{whole}")

        try:
            result = await self._asked(
                lambda client: client.call_tool(
                    name, dict(arguments), progress_callback=on_progress
                )
            )
        finally:
            self._waiting.remove(tell)
        if result.is_error:
            raise OpenQwQError(shown_result(result).removeprefix("error: "))
        return shown_result(result)

    async def _asked(self, ask: "Callable[[Client], Awaitable[Asked]]") -> Asked:
        """What a running server answers; the next call starts one again that has ended."""
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED

        client = await self._connect()
        try:
            return await ask(client)
        except MCPError as error:
            if error.code != CONNECTION_CLOSED:
                raise OpenQwQError(f"the MCP server says: {error}") from error
            await self._disconnect()
            raise OpenQwQError(
                f"the MCP server {self.target!r} ended during the call: the next call starts it"
                " again, without what it remembered"
            ) from error

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
            owner = self._owner
            self._owner = None
            self._client = None
            await asyncio.wait({owner})

    async def _own(self, ready: "asyncio.Future[Client]", stop: asyncio.Event) -> None:
        """Hold one connection until `stop`; what keeps it from starting goes to `ready`."""
        from mcp import Client

        with tempfile.TemporaryFile("w+", errors="replace") as log:  # a server's chatter
            try:
                async with AsyncExitStack() as stack:
                    transport = await self._transport(stack, log)
                    asked = self._answer if self._ask else None
                    client = Client(transport, elicitation_callback=asked)
                    async with asyncio.timeout(CONNECT_SECONDS) as starting:
                        async with client:
                            starting.reschedule(None)
                            ready.set_result(client)
                            await stop.wait()
            except Exception as error:
                # transports raise groups of whatever their libraries do
                log.seek(0)
                said = (log.read().strip() or _innermost(error)).splitlines()[-1][:500]
                if not ready.done():
                    ready.set_exception(
                        OpenQwQError(
                            f"the MCP server {self.target!r} cannot be reached ({said}): give a"
                            " command that speaks MCP on its standard streams, or its http address"
                        )
                    )

    async def _transport(self, stack: AsyncExitStack, log: TextIO) -> Any:
        """What carries messages to the server."""
        from mcp import StdioServerParameters, stdio_client
        from mcp.client.streamable_http import streamable_http_client
        from mcp.shared._httpx_utils import create_mcp_http_client

        own = self.settings
        if own.url:
            if not own.headers:
                return own.url
            http = await stack.enter_async_context(
                create_mcp_http_client(dict(own.headers))
            )
            return streamable_http_client(own.url, http_client=http)
        command, *arguments = own.command
        parameters = StdioServerParameters(
            command=command, args=arguments, env=dict(own.environment), cwd=own.folder
        )
        return stdio_client(parameters, errlog=log)

    async def _answer(self, context: Any, params: "ElicitRequestParams") -> "ElicitResult":
        assert self._ask is not None
        asking = asyncio.create_task(answered(self.name or self.target, params, self._ask))
        try:
            while not asking.done():
                await asyncio.wait({asking}, timeout=1.0)
                for tell in self._waiting:  # nobody hurries the user
                    tell("waiting for the user")
        finally:
            asking.cancel()
        return asking.result()


async def _all(ask: Any, field: str) -> list[Any]:
    """Every page of a list."""
    found: list[Any] = []
    cursor: str | None = None
    while True:
        page = await ask(cursor=cursor)
        found += getattr(page, field)
        cursor = page.next_cursor
        if not cursor:
            return found


def _object(properties: Mapping[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": required}


def _listed(lines: list[str]) -> str:
    shown = lines[:LISTED]
    if len(lines) > LISTED:
        shown.append(f"and {len(lines) - LISTED} more")
    return "; ".join(shown)


def _prompt_line(prompt: Any) -> str:
    names = ", ".join(argument.name for argument in prompt.arguments or ())
    described = f": {prompt.description}" if prompt.description else ""
    return f"{prompt.name}({names}){described}"


def _short_name(info: Any, target: str) -> str:
    """The server's own name as a prefix of its tools'."""
    name = getattr(info, "name", "") or target
    return re.sub(r"\W+", "_", name).strip("_")[:32] or "mcp"


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}".removesuffix(": ")
