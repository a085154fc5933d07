"""Who may act: tools that change something outside run only if a policy lets them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from openqwq.types import Tool

Permission = Literal["yes", "no", "always"]
AskPermission = Callable[[Tool, Mapping[str, Any]], Awaitable[Permission]]


@dataclass
class Approval:
    """Lets tools through that do not act and those `allowed` by name; `ask` decides the others.

    Without `ask` the others are refused. The answer "always" allows a tool from then on.
    """

    allowed: set[str] = field(default_factory=set)
    ask: AskPermission | None = None

    async def __call__(self, tool: Tool, arguments: Mapping[str, Any]) -> str:
        """The reason to refuse a call, "" for none."""
        if not tool.acts or tool.name in self.allowed:
            return ""
        if self.ask is None:
            return f"{tool.name} acts on the outside and is not among the allowed tools"
        answer = await self.ask(tool, arguments)
        if answer == "always":
            self.allowed.add(tool.name)
        return "the user refused this call" if answer == "no" else ""
