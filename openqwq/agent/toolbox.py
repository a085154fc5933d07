"""The tools that a user names on a command line, opened together and closed together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from openqwq.agent.calculator import calculator
from openqwq.agent.files import Folder
from openqwq.agent.mcp_client import McpServer
from openqwq.agent.python_session import PythonSession
from openqwq.agent.tools import by_name, tool
from openqwq.sandbox.local import LocalSandbox
from openqwq.types import OpenQwQError, Tool


@asynccontextmanager
async def toolbox(
    names: Sequence[str], mcp_servers: Sequence[str] = ()
) -> AsyncIterator[dict[str, Tool]]:
    """Tools by name: `python`, `calculator`, `files:DIR`, and all those of `mcp_servers`.

    Each of `mcp_servers` is a command line or an address, see `McpServer`. Raises OpenQwQError for
    what is unknown or cannot be opened, and where two tools share a name.
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
        for target in mcp_servers:
            tools += (await stack.enter_async_context(McpServer(target))).tools
        yield by_name(tools)
