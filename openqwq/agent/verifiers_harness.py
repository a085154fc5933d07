"""The program that plays an agent of `verifiers`: a chat loop inside this process.

The package's own harnesses start a program for each episode, and its default one gives the model a
shell on this machine. This one only talks, and calls the tools that the environment serves.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from types import ModuleType
from typing import Any

import httpx
from verifiers.v1 import Harness, HarnessConfig, ProgramResult
from verifiers.v1.dialects.chat import message_to_wire
from verifiers.v1.harnesses.utils.mcp import call_mcp, connect_mcp

HARNESS_ID = "openqwq_chat"  # the package finds a harness by the name of a module


class ChatHarness(Harness[HarnessConfig]):  # type: ignore[misc]  # the package may be absent
    """Asks, runs the reply's calls, and asks again until a reply makes no call."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_MCP = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: Any,
        trace: Any,
        runtime: Any,
        endpoint: str,
        secret: str,
        mcp_urls: Mapping[str, str],
        data: Any,
    ) -> Any:
        """See `verifiers.v1.Harness.launch`."""
        system, prompt = self.resolve_prompt(data)
        messages = opening(system, prompt)
        headers = {"Authorization": f"Bearer {secret}"}
        async with AsyncExitStack() as stack:
            servers: dict[str, dict[str, Any]] = {}
            for name, url in mcp_urls.items():
                servers[name] = {"url": url, "timeout": self.config.tool_timeout}
            tools, places, open_servers = await connect_mcp({"mcpServers": servers}, stack)
            client = await stack.enter_async_context(
                httpx.AsyncClient(base_url=endpoint, headers=headers, timeout=None)
            )
            while True:
                body: dict[str, Any] = {"model": ctx.model, "messages": messages}
                if tools:
                    body["tools"] = tools
                answer = await client.post("/chat/completions", json=body)
                if answer.status_code != 200:
                    # by a stop, or a lost endpoint
                    return ProgramResult(1, "", answer.text)
                reply = answer.json()["choices"][0]["message"]
                messages.append(reply)
                calls = reply.get("tool_calls") or []
                if not calls:
                    return ProgramResult(0, "", "")
                for call in calls:
                    messages.append(await _result(call, open_servers, places))


def opening(system: str | None, prompt: Any) -> list[dict[str, Any]]:
    """The first messages of a conversation, as OpenAI's chat API reads them."""
    messages: list[dict[str, Any]] = []
    if system is not None:
        messages.append({"role": "system", "content": system})
    if isinstance(prompt, str):
        messages.append({"role": "user", "content": prompt})
    else:
        messages += [message_to_wire(message) for message in prompt or []]
    return messages


async def _result(
    call: Mapping[str, Any], servers: Mapping[str, Any], places: Mapping[str, Any]
) -> dict[str, Any]:
    """The answer to one call; what goes wrong is text that the model reads."""
    function = call["function"]
    name = function["name"]
    content: Any
    if name not in places:
        content = (
            f"error: there is no tool {name!r}: there are {', '.join(places) or 'none'}"
        )
    else:
        try:
            content = await call_mcp(
                servers, places, name, json.loads(function["arguments"])
            )
        except Exception as error:  # the environment's tools are foreign code
            content = f"error: {error}"
    return {"role": "tool", "tool_call_id": call["id"], "content": content}


def register() -> None:
    """Make `ChatHarness` known to the package as `HARNESS_ID`."""
    module = ModuleType(HARNESS_ID)
    exported: Sequence[str] = ["ChatHarness"]
    module.__dict__.update({"__all__": exported, "ChatHarness": ChatHarness})
    sys.modules[HARNESS_ID] = module
