"""Our own tools offered to any MCP client, over standard streams or HTTP."""

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from openqwq import __version__
from openqwq.agent.call import DEFAULT_LIMITS, CallLimits, run_calls
from openqwq.agent.loop import Agent, Content, Ended, Thinking
from openqwq.agent.progress import report_progress
from openqwq.agent.tools import by_name, tool
from openqwq.types import Generate, OpenQwQError, SamplingParams, Tool, ToolCall

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server

    from openqwq.text.tokenizer import Tokenizer

BEAT_SECONDS = 5.0  # between two reports of progress


def mcp_server(
    tools: Sequence[Tool], limits: Mapping[str, CallLimits] | None = None
) -> "Server[Any]":
    """An MCP server of `tools`; failed calls are results marked as errors.

    `limits` are those of tools by name, where the usual ones do not suit them.
    """
    from mcp.server.lowlevel import Server
    from mcp.types import CallToolResult, ListToolsResult, TextContent
    from mcp.types import Tool as McpTool

    named = by_name([*tools])

    async def list_tools(_: Any, __: Any) -> ListToolsResult:
        listed = [
            McpTool(
                name=each.name,
                description=each.description,
                input_schema={**each.parameters},
            )
            for each in tools
        ]
        return ListToolsResult(tools=listed)

    async def call_tool(context: Any, request: Any) -> CallToolResult:
        call = ToolCall(name=request.name, arguments=request.arguments or {})
        own = (limits or {}).get(request.name, DEFAULT_LIMITS)
        news = _News(context.session)
        beating = asyncio.create_task(news.beat())
        try:
            (result,) = await run_calls(named, [call], limits=own, tell=news.tell)
        finally:
            beating.cancel()
        text = TextContent(type="text", text=result.text)
        return CallToolResult(content=[text], is_error=result.status != "ok")

    return Server(
        "openqwq", version=__version__, on_list_tools=list_tools, on_call_tool=call_tool
    )


class _News:
    """Tells a client every few seconds that its call goes on: without it some give up at 60."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._text = "running"

    def tell(self, text: str) -> None:
        """Note what the call says of itself, for the next beat."""
        self._text = text or self._text

    async def beat(self) -> None:
        """Report until cancelled; a client that asked for no progress gets none."""
        started = time.monotonic()
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            await self._session.report_progress(
                time.monotonic() - started, None, self._text
            )


async def serve_stdio(server: "Server[Any]") -> None:
    """Serve one client on standard input and output until it leaves."""
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


async def serve_http(server: "Server[Any]", host: str, port: int) -> None:
    """Serve any number of clients at http://host:port/mcp until SIGTERM or SIGINT."""
    import uvicorn

    app = server.streamable_http_app(host=host)
    print(f"MCP at http://{host}:{port}/mcp", file=sys.stderr)
    await uvicorn.Server(uvicorn.Config(app, host, port, log_level="warning")).serve()


def ask_tool(generate: Generate, tokenizer: "Tokenizer", params: SamplingParams) -> Tool:
    """The tool `ask`: a question to the model, which thinks and answers without tools."""

    async def ask(question: str) -> str:
        """Ask a reasoning model a question that takes thought.

        Args:
            question: everything it needs to know; it sees nothing else
        """
        said = ""
        reason = "cancelled"
        agent = Agent(generate, tokenizer, {})
        async for event in agent.run([{"role": "user", "content": question}], params):
            match event:
                case Thinking():
                    report_progress("thinking")
                case Content(text=text):
                    said += text
                    report_progress("answering")
                case Ended(reason=reason):
                    pass
        if reason != "answer":
            raise OpenQwQError(
                f"the model gave no answer ({reason}): ask a shorter question"
            )
        return said

    return tool(ask)
