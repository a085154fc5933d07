"""`qwq mcp`: the tools that a user names, and a model to ask, as one MCP server."""

from contextlib import AsyncExitStack
from typing import Any

from openqwq.agent.call import CallLimits
from openqwq.agent.mcp_server import ask_tool, mcp_server, serve_http, serve_stdio
from openqwq.agent.toolbox import toolbox
from openqwq.types import SamplingParams

ASK_LIMITS = CallLimits(seconds=600.0, characters=32_000)  # a long thinking, a long answer


async def serve_tools(options: Any) -> None:
    """Serve by the command line's `options`: until the client leaves, or told to stop at a port."""
    names = [name for name in options.tools.split(",") if name]
    port = options.http
    async with AsyncExitStack() as stack:
        tools = [*(await stack.enter_async_context(toolbox(names))).values()]
        if options.model:
            # it imports torch, which most clients need not wait for
            from openqwq.serve.terminal import opened

            model = opened(options, slots=4)
            stack.callback(model.close)
            limit = max(1, model.context_length // 2)  # the other half is for the question
            params = SamplingParams(
                max_tokens=limit, stop_token_ids=model.tokenizer.eos_ids
            )
            tools.append(ask_tool(model.generate, model.tokenizer, params))
        server = mcp_server(tools, {"ask": ASK_LIMITS})
        await (
            serve_stdio(server) if port is None else serve_http(server, "127.0.0.1", port)
        )
