"""What MCP servers return, as text that a model reads: links and media are said as such."""

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp.types import CallToolResult, GetPromptResult, ReadResourceResult


def shown_result(result: "CallToolResult") -> str:
    """The text of a call's result."""
    parts = [_block(block) for block in result.content]
    if not parts and result.structured_content is not None:
        parts.append(json.dumps(result.structured_content, ensure_ascii=False))
    return "\n".join(parts)


def shown_resource(result: "ReadResourceResult") -> str:
    """The text of what a resource holds."""
    return "\n".join(_contents(each) for each in result.contents)


def shown_prompt(result: "GetPromptResult") -> str:
    """The turns of a prompt, each behind its role."""
    return "\n\n".join(f"{turn.role}: {_block(turn.content)}" for turn in result.messages)


def _block(block: Any) -> str:
    match block.type:
        case "text":
            return str(block.text)
        case "resource":
            return f"[resource {block.resource.uri}]\n{_contents(block.resource)}"
        case "resource_link":
            kind = f", {block.mime_type}" if block.mime_type else ""
            description = f": {block.description}" if block.description else ""
            return f"[link to {block.name}: {block.uri}{kind}{description}]"
        case "image" | "audio":
            return _media(block.type, block.mime_type, block.data)
        case kind:
            return f"[{kind}: cannot be shown as text]"


def _contents(contents: Any) -> str:
    if hasattr(contents, "text"):
        return str(contents.text)
    return _media("data", contents.mime_type, contents.blob)


def _media(kind: str, mime_type: str | None, data: str) -> str:
    try:
        size = f"{len(base64.b64decode(data, validate=True)):,} bytes"
    except binascii.Error:
        size = "not valid base64"
    return f"[{kind}: {mime_type or 'of unknown type'}, {size}: cannot be shown as text]"
