"""MCP servers by settings: names, environment, headers, lists of tools, questions, progress."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from openqwq.agent import mcp_server as mcp_server_module
from openqwq.agent.call import CallLimits, run_calls
from openqwq.agent.mcp_results import shown_result
from openqwq.agent.mcp_server import mcp_server
from openqwq.agent.mcp_settings import read_settings
from openqwq.agent.progress import report_progress
from openqwq.agent.toolbox import toolbox
from openqwq.agent.tools import tool
from openqwq.types import OpenQwQError

mcp = pytest.importorskip("mcp", reason="needs the extra `agent`")

# A server with everything that servers offer, by the SDK's own high-level class.
RICH = """
import asyncio, os, sys
from pydantic import BaseModel
from mcp.server import MCPServer
from typing import Annotated
from mcp.server.mcpserver import Context, Elicit, ElicitationResult, Resolve

server = MCPServer("rich server")

class Form(BaseModel):
    name: str
    age: int = 3

@server.tool()
def secret() -> str:
    return os.environ.get("SECRET", "none")

@server.tool()
def search(query: str) -> str:
    return f"rich: {query}"

@server.tool()
async def slow(ctx: Context) -> str:
    for step in range(8):
        await asyncio.sleep(0.2)
        await ctx.report_progress(step, 8, f"step {step}")
    return "done"

def form() -> Elicit[Form]:
    return Elicit("Who are you?", Form)

@server.tool()
async def asks(answer: Annotated[ElicitationResult[Form], Resolve(form)]) -> str:
    return f"{answer.action} {getattr(answer, 'data', None)}"

@server.resource("memo://today")
def memo() -> str:
    "What is to be done."
    return "buy milk"

@server.prompt()
def greet(name: str) -> str:
    "A greeting."
    return f"Greet {name}!"

server.run()
"""


@pytest.fixture
def rich(tmp_path: Path) -> list[str]:
    path = tmp_path / "rich.py"
    path.write_text(RICH)
    return [sys.executable, str(path)]


def settings_file(folder: Path, **servers: Any) -> str:
    path = folder / "servers.json"
    path.write_text(json.dumps({"mcpServers": servers}))
    return str(path)


async def said(
    tools: Any, tool_name: str, seconds: float = 30.0, **arguments: object
) -> str:
    call: Any = {"name": tool_name, "arguments": arguments}
    (result,) = await run_calls(tools, [call], limits=CallLimits(seconds=seconds))
    return result.text


async def test_a_file_names_servers_with_their_environment_and_their_tools(
    rich: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "s3cret")
    entry = {"command": rich[0], "args": rich[1:], "env": {"SECRET": "${TOKEN}${NO:-!}"}}
    file = settings_file(tmp_path, a={**entry, "allow": ["secret", "read_resource"]})
    async with toolbox([], [file]) as tools:
        assert set(tools) == {"secret", "read_resource"}  # readers are picked by name too
        assert await said(tools, "secret") == "s3cret!"


async def test_a_name_that_two_servers_have_gets_the_servers_in_front(
    rich: list[str], tmp_path: Path
) -> None:
    entry = {"command": rich[0], "args": rich[1:], "allow": ["search"]}
    file = settings_file(tmp_path, one=entry, two=entry)
    async with toolbox([], [file]) as tools:
        assert set(tools) == {"one_search", "two_search"}
        assert await said(tools, "two_search", query="x") == "rich: x"
    command = " ".join(rich)
    async with toolbox(["calculator"], [command, command]) as tools:
        assert {"calculator", "rich_server_search", "rich_server2_search"} <= set(tools)


async def test_what_is_denied_is_not_offered_and_a_wrong_name_is_said(
    rich: list[str], tmp_path: Path
) -> None:
    entry = {"command": rich[0], "args": rich[1:]}
    file = settings_file(tmp_path, a={**entry, "deny": ["secret", "slow", "get_prompt"]})
    async with toolbox([], [file]) as tools:
        assert set(tools) == {"search", "asks", "read_resource"}
    wrong = settings_file(tmp_path, a={**entry, "deny": ["delete"]})
    with pytest.raises(OpenQwQError, match="has no tool delete"):
        async with toolbox([], [wrong]):
            pass


async def test_resources_and_prompts_are_read_by_tools(rich: list[str]) -> None:
    async with toolbox([], [" ".join(rich)]) as tools:
        assert "memo://today" in tools["read_resource"].description
        assert await said(tools, "read_resource", uri="memo://today") == "buy milk"
        assert "greet(name): A greeting." in tools["get_prompt"].description
        got = await said(tools, "get_prompt", name="greet", arguments={"name": "Ada"})
        assert got == "user: Greet Ada!"


async def test_a_call_that_tells_of_progress_may_take_longer(rich: list[str]) -> None:
    async with toolbox([], [" ".join(rich)]) as tools:
        news: list[str] = []
        calls: Any = [{"name": "slow", "arguments": {}}]
        (result,) = await run_calls(
            tools, calls, limits=CallLimits(seconds=0.8), tell=news.append
        )
        assert (result.text, result.status) == ("done", "ok") and "step 3" in news


async def test_endless_progress_is_given_up_all_the_same() -> None:
    async def busy() -> str:
        "Never ends."
        while True:
            await asyncio.sleep(0.01)
            report_progress()

    own = {"busy": tool(busy)}
    assert "took longer than" in await said(own, "busy", seconds=0.05)


async def test_our_own_server_tells_its_clients_that_a_call_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mcp_server_module, "BEAT_SECONDS", 0.05)

    async def long() -> str:
        "Takes its time."
        report_progress("half way")
        await asyncio.sleep(0.4)
        return "done"

    news: list[str | None] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        news.append(message)

    async with mcp.Client(mcp_server([tool(long)])) as client:
        result = await client.call_tool("long", {}, progress_callback=heard)
        await client.call_tool("long", {})
    assert shown_result(result) == "done" and len(news) >= 3 and set(news) == {"half way"}


async def test_a_servers_question_is_put_to_the_user_or_refused(rich: list[str]) -> None:
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        last = question.splitlines()[-1]
        return "Ada" if last.startswith("Name") else "x" if last.startswith("Age") else "7"

    async with toolbox([], [" ".join(rich)], ask) as tools:
        got = await said(tools, "asks")
    assert got == "accept name='Ada' age=7", (got, asked)
    assert "rich_server asks: Who are you?" in asked[0]
    async with toolbox([], [" ".join(rich)]) as tools:
        refused = await said(tools, "asks")
    assert refused.startswith("error") and "licitation" in refused, refused


async def test_headers_and_tokens_reach_a_server_over_http(tmp_path: Path) -> None:
    import uvicorn

    seen: list[dict[bytes, bytes]] = []
    app = mcp_server([]).streamable_http_app(host="127.0.0.1")

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append(dict(scope["headers"]))
        await app(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(noting, port=0, log_level="error"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    entry = {"url": f"http://127.0.0.1:{port}/mcp", "headers": {"X-Team": "a"}}
    file = settings_file(tmp_path, web={**entry, "bearer_token": "t0ken"})
    async with toolbox([], [file]) as tools:
        assert not tools
    server.should_exit = True
    await running
    assert all(headers[b"x-team"] == b"a" for headers in seen) and seen
    assert seen[0][b"authorization"] == b"Bearer t0ken"


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"command": "x", "frobnicate": 1}, "unknown 'frobnicate'"),
        ({"args": []}, "command is missing"),
        ({"type": "sse", "url": "http://x"}, "type is 'sse'"),
        ({"command": "x", "env": {"A": "${MISSING_VARIABLE}"}}, "has no MISSING_VARIABLE"),
        ({"command": "x", "args": "y"}, "args is 'y'"),
        ({"command": "x", "allow": [1]}, "allow is"),
        ({"url": "http://x", "headers": {"A": 1}}, "is not text"),
        ("x", "must be an object"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant_are_refused(
    tmp_path: Path, entry: Any, text: str
) -> None:
    assert "MISSING_VARIABLE" not in os.environ
    with pytest.raises(OpenQwQError, match=text):
        read_settings(settings_file(tmp_path, a=entry))


@pytest.mark.parametrize("text", ["", "'unclosed", "/no/such/file.json"])
def test_a_server_that_is_not_named_rightly_is_refused(text: str) -> None:
    with pytest.raises(OpenQwQError):
        read_settings(text)


def test_a_disabled_server_is_left_out(tmp_path: Path) -> None:
    assert (
        read_settings(settings_file(tmp_path, a={"command": "x", "disabled": True})) == []
    )


def test_links_and_media_in_a_result_are_said_as_such() -> None:
    from mcp.types import (
        AudioContent,
        CallToolResult,
        EmbeddedResource,
        ImageContent,
        ResourceLink,
        TextResourceContents,
    )

    link = ResourceLink(name="report", uri="file:///r.pdf", mime_type="application/pdf")
    text = TextResourceContents(uri="memo://a", text="milk")
    blocks: list[Any] = [
        link,
        ImageContent(data="aGk=", mime_type="image/png"),
        AudioContent(data="!", mime_type="audio/wav"),
        EmbeddedResource(resource=text),
    ]
    lines = shown_result(CallToolResult(content=blocks)).splitlines()
    assert lines == [
        "[link to report: file:///r.pdf, application/pdf]",
        "[image: image/png, 2 bytes: cannot be shown as text]",
        "[audio: audio/wav, not valid base64: cannot be shown as text]",
        "[resource memo://a]",
        "milk",
    ]
