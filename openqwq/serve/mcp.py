"""`qwq mcp`: the tools that a user names, and a model to ask, as one MCP server."""

from collections.abc import Sequence
from contextlib import AsyncExitStack

from openqwq.agent.call import CallLimits
from openqwq.agent.mcp_server import ask_tool, mcp_server, serve_http, serve_stdio
from openqwq.agent.toolbox import toolbox
from openqwq.types import SamplingParams

ASK_LIMITS = CallLimits(seconds=600.0, characters=32_000)  # a long thinking, a long answer


async def serve_tools(names: Sequence[str], model: str | None, port: int | None) -> None:
    """Serve until the client leaves (standard streams), or at `port` until it is told to stop."""
    async with AsyncExitStack() as stack:
        tools = [*(await stack.enter_async_context(toolbox(names))).values()]
        if model:
            from openqwq.engine.open import open_model  # and torch: most clients wait for neither

            opened = open_model(model, slots=4)
            stack.callback(opened.close)
            limit = max(1, opened.context_length // 2)  # the other half is for the question
            params = SamplingParams(max_tokens=limit, stop_token_ids=opened.tokenizer.eos_ids)
            tools.append(ask_tool(opened.generate, opened.tokenizer, params))
        server = mcp_server(tools, {"ask": ASK_LIMITS})
        await (serve_stdio(server) if port is None else serve_http(server, "127.0.0.1", port))
