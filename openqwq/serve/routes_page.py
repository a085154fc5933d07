"""Routes that the web chat adds to OpenAI's: opinions about answers, and single tool calls."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from openqwq.agent.call import run_calls
from openqwq.agent.toolbox import toolbox
from openqwq.sandbox.ascii_json import AsciiJson
from openqwq.serve.feedback import FeedbackLockedError, FeedbackStore
from openqwq.serve.protocol import ApiError
from openqwq.serve.service import Service
from openqwq.types import OpenQwQError, ToolCall


class PageRoutes:
    """The routes; there is no feedback unless the server was started with a file for it."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """The routes, by path and method."""
        return [
            Route("/v1/tools", self.tools, methods=["GET"]),
            Route("/v1/tools/{name}", self.call, methods=["POST"]),
            Route("/v1/feedback", self.rate, methods=["POST"]),
            Route("/v1/feedback/{id}", self.withdraw, methods=["DELETE"]),
        ]

    async def tools(self, _: Request) -> Response:
        """GET /v1/tools: what the server can run, as OpenAI's function tools."""
        specifications = self._service.options.tools.specifications
        return AsciiJson({"object": "list", "data": list(specifications)})

    async def call(self, request: Request) -> Response:
        """POST /v1/tools/{name}: run one call, with a session of its own."""
        body = await self._service.body(request, "ToolCallRequest")
        own = self._service.options.tools
        name = request.path_params["name"]
        known = [tool["function"]["name"] for tool in own.specifications]
        if name not in known:
            text = f"tool {name!r} is not run here: start the server with --tools or --mcp"
            raise ApiError(404, text, "name", "not_found")
        call: ToolCall = {"name": name, "arguments": body["arguments"]}
        async with self._service.tool_places, toolbox(own.names, own.mcp_servers) as tools:
            (result,) = await run_calls(tools, [call])
        answer = {"object": "tool_result", "name": name, "result": result.text}
        seconds = round(result.seconds, 3)
        return AsciiJson({**answer, "error": result.status != "ok", "seconds": seconds})

    async def rate(self, request: Request) -> Response:
        """POST /v1/feedback: keep an opinion, in place of an earlier one with its id."""
        store = self._require_feedback()
        opinion = await self._service.body(request, "FeedbackRequest")
        await _kept(store.put, opinion)
        return AsciiJson({"id": opinion["id"], "object": "feedback"})

    async def withdraw(self, request: Request) -> Response:
        """DELETE /v1/feedback/{id}."""
        store = self._require_feedback()
        name = request.path_params["id"]
        await _kept(store.withdraw, name)
        return AsciiJson({"id": name, "object": "feedback", "deleted": True})

    def _require_feedback(self) -> FeedbackStore:
        if self._service.feedback is None:
            text = "this server keeps no feedback: start it with --feedback FILE.db"
            raise ApiError(404, text, code="not_found")
        return self._service.feedback


async def _kept(write: Any, value: Any) -> None:
    try:
        await asyncio.to_thread(write, value)
    except FeedbackLockedError as error:
        raise ApiError(
            503, str(error), code="locked", headers={"Retry-After": "2"}
        ) from error
    except OpenQwQError as error:
        raise ApiError(507, str(error), code="storage") from error
