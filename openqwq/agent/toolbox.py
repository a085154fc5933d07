"""The tools that a user names on a command line, opened together and closed together."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from openqwq.agent.calculator import calculator
from openqwq.agent.files import Folder
from openqwq.agent.mcp_client import McpServer
from openqwq.agent.mcp_questions import AskUser
from openqwq.agent.mcp_settings import read_settings
from openqwq.agent.python_session import PythonSession
from openqwq.agent.tools import by_name, tool
from openqwq.sandbox.local import LocalSandbox
from openqwq.types import OpenQwQError, Tool


@asynccontextmanager
async def toolbox(
    names: Sequence[str], mcp_servers: Sequence[str] = (), ask: AskUser | None = None
) -> AsyncIterator[dict[str, Tool]]:
    """Tools by name: `python`, `calculator`, `files:DIR`, and those of `mcp_servers`.

    Each of `mcp_servers` is a command line, an address or a settings file, see `mcp_settings`; one
    of their tools whose name another has too gets its server's name in front. `ask` puts a server's
    question to the user. Raises OpenQwQError for what is unknown or cannot be opened, and where two
    of our own tools share a name.
    """
    tools: list[Tool] = []
    async with AsyncExitStack() as stack:
        for name in names:
            match name.partition(":"):
                case ("python", "", ""):
                    sandbox = await stack.enter_async_context(LocalSandbox(workers=1))
                    session = PythonSession(sandbox)
                    stack.push_async_callback(session.close)
                    tools.append(session.tool())
                case ("calculator", "", ""):
                    tools.append(tool(calculator))
                case ("files", ":", directory) if directory:
                    tools += Folder(Path(directory)).tools()
                case _:
                    raise OpenQwQError(
                        f"unknown tool {name!r}: use python, calculator or files:DIRECTORY"
                    )
        servers: list[McpServer] = []
        for text in mcp_servers:
            for settings in read_settings(text):
                servers.append(await stack.enter_async_context(McpServer(settings, ask)))
        yield {**by_name(tools), **_distinct(servers, [each.name for each in tools])}


def _distinct(servers: Sequence[McpServer], taken: Sequence[str]) -> dict[str, Tool]:
    """The servers' tools; a name that is not one tool's alone gets a prefix, then a number."""
    counts = Counter(taken)
    for server in servers:
        counts.update(each.name for each in server.tools)
    found: dict[str, Tool] = {}
    for server in servers:
        for each in server.tools:
            name = each.name if counts[each.name] == 1 else f"{server.name}_{each.name}"
            number = 2
            while name in found or name in taken:
                name = f"{server.name}{number}_{each.name}"
                number += 1
            found[name] = replace(each, name=name)
    return found
