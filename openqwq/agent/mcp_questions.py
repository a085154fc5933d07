"""What MCP servers ask of the user in the middle of a call, answered in the terminal.

Without a terminal our client does not offer to answer, and servers are told so by the protocol;
requests to sample from a model (`sampling`) are never offered.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp.types import ElicitRequestParams, ElicitResult

AskUser = Callable[[str], str]  # a question in, the line that the user typed out
TRUE = {"y", "yes", "true", "1"}
FALSE = {"n", "no", "false", "0"}


async def answered(
    server: str, params: "ElicitRequestParams", ask: AskUser
) -> "ElicitResult":
    """Ask the user for every field of the form; an empty answer to a needed one declines.

    An address to visit is never opened by us: it is declined, and said in the call's error.
    """
    from mcp.types import ElicitResult

    if params.mode != "form":
        return ElicitResult(action="decline")
    schema: dict[str, Any] = dict(params.requested_schema)
    required = set(schema.get("required", ()))
    content: dict[str, Any] = {}
    heading = f"{server} asks: {params.message}"
    for name, field in schema.get("properties", {}).items():
        question = f"{heading}\n{_label(name, field, name in required)}> "
        heading = ""
        value = await asyncio.to_thread(_value, ask, question.lstrip("\n"), field)
        if value is None and name in required:
            return ElicitResult(action="decline")
        if value is not None:
            content[name] = value
    return ElicitResult(action="accept", content=content)


def _label(name: str, field: dict[str, Any], required: bool) -> str:
    label = field.get("title") or name
    choices = field.get("enum") or [each["const"] for each in field.get("oneOf", ())]
    if choices:
        label += f" ({'/'.join(map(str, choices))})"
    elif field.get("type") == "boolean":
        label += " (yes/no)"
    if description := field.get("description"):
        label += f": {description}"
    return label if required else f"{label} (may be left empty)"


def _value(ask: AskUser, question: str, field: dict[str, Any]) -> Any:
    """What the user typed as the field's type; None for nothing, and for the third wrong try."""
    for _ in range(3):
        text = ask(question).strip()
        if not text:
            return field.get("default")
        try:
            return _converted(text, field)
        except ValueError as error:
            question = f"{error}> "
    return None


def _converted(text: str, field: dict[str, Any]) -> Any:
    choices = field.get("enum") or [each["const"] for each in field.get("oneOf", ())]
    if choices and text not in choices:
        raise ValueError(f"choose one of {', '.join(choices)}")
    match field.get("type"):
        case "boolean":
            if text.lower() not in TRUE | FALSE:
                raise ValueError("yes or no")
            return text.lower() in TRUE
        case "integer" | "number" as kind:
            try:
                return int(text) if kind == "integer" else float(text)
            except ValueError:
                raise ValueError(f"give a number ({kind})") from None
        case "array":
            return [part.strip() for part in text.split(",")]
    return text
