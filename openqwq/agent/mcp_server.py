"""Our own tools offered to any MCP client, over standard streams or HTTP."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from openqwq import __version__
from openqwq.agent.call import DEFAULT_LIMITS, CallLimits, run_calls
from openqwq.agent.loop import Agent, Content, Ended
from openqwq.agent.tools import by_name, tool
from openqwq.types import Generate, OpenQwQError, SamplingParams, Tool, ToolCall

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server

    from openqwq.text.tokenizer import Tokenizer


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
            McpTool(name=each.name, description=each.description, input_schema={**each.parameters})
            for each in tools
        ]
        return ListToolsResult(tools=listed)

    async def call_tool(_: Any, request: Any) -> CallToolResult:
        call = ToolCall(name=request.name, arguments=request.arguments or {})
        own = (limits or {}).get(request.name, DEFAULT_LIMITS)
        (result,) = await run_calls(named, [call], limits=own)
        text = TextContent(type="text", text=result.text)
        return CallToolResult(content=[text], is_error=result.status != "ok")

    return Server("openqwq", version=__version__, on_list_tools=list_tools, on_call_tool=call_tool)


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
        said, reason = "", "cancelled"
        agent = Agent(generate, tokenizer, {})
        async for event in agent.run([{"role": "user", "content": question}], params):
            match event:
                case Content(text=text):
                    said += text
                case Ended(reason=reason):
                    pass
        if reason != "answer":
            raise OpenQwQError(f"the model gave no answer ({reason}): ask a shorter question")
        return said

    return tool(ask)
