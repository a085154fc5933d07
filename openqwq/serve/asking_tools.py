"""Which tools a chat request shows to the model, and whether it must call one of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openqwq.serve.protocol import ApiError
from openqwq.serve.schemas import without_null_keywords


@dataclass(frozen=True)
class ToolChoice:
    """The tools that the model is shown, and whether a call is demanded, perhaps of one by name."""

    tools: list[dict[str, Any]]
    demanded: bool = False
    name: str | None = None


def with_tools(body: Mapping[str, Any]) -> dict[str, Any]:
    """A ChatRequest whose deprecated `functions` and `function_call` are tools and their choice.

    A reply to functions has one call at most. Raises ApiError where both spellings are given.
    """
    modern = dict(body)
    for older, newer in (("functions", "tools"), ("function_call", "tool_choice")):
        if older in body and newer in body:
            raise ApiError(400, f"{older} and {newer} are given: give {newer}", older)
    if "functions" in body:
        modern["tools"] = [{"type": "function", "function": f} for f in body["functions"]]
        modern["parallel_tool_calls"] = False
    match body.get("function_call"):
        case {"name": name}:
            modern["tool_choice"] = {"type": "function", "function": {"name": name}}
        case str(choice):
            modern["tool_choice"] = choice
    return modern


def chosen_tools(body: Mapping[str, Any]) -> ToolChoice:
    """What `tools` and `tool_choice` of a ChatRequest ask for; ApiError where they do not fit."""
    tools = [_without_nulls(tool) for tool in body.get("tools", [])]
    names = [tool["function"]["name"] for tool in tools]
    if len(set(names)) < len(names):
        raise ApiError(
            400, f"tools share a name among {sorted(names)}: rename one", "tools"
        )
    choice = body.get("tool_choice", "auto")
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)
        tools = _allowed(tools, allowed["tools"])
        choice = allowed["mode"]
    match choice:
        case "none":
            return ToolChoice([])
        case "auto":
            return ToolChoice(tools)
        case "required":
            if not tools:
                text = "tool_choice is 'required' but there are no tools"
                raise ApiError(400, text, "tool_choice")
            return ToolChoice(tools, demanded=True)
    name = choice["function"]["name"]
    _require_offered(name, names)
    return ToolChoice(tools, demanded=True, name=name)


def _allowed(
    tools: Sequence[dict[str, Any]], references: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Those of the tools that a request allows, as if it had brought no others."""
    names = [tool["function"]["name"] for tool in tools]
    wanted: set[str] = set()
    for reference in references:
        name = reference.get("function", reference)["name"]
        _require_offered(name, names)
        wanted.add(name)
    return [tool for tool in tools if tool["function"]["name"] in wanted]


def _require_offered(name: str, names: Sequence[str]) -> None:
    if name not in names:
        text = f"tool_choice names {name!r}, not a tool of {list(names)}"
        raise ApiError(400, text, "tool_choice")


def _without_nulls(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as templates read it."""
    given = tool["function"].items()
    function = {key: value for key, value in given if value is not None}
    if "parameters" in function:
        function["parameters"] = without_null_keywords(function["parameters"], "tools")
    return {"type": "function", "function": function}
