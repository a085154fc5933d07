"""The table of docs/serving.md: what requests may hold, read from the document that checks them.

`python -m openqwq.serve.leniency docs/serving.md` writes it there, between its two marks.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from openqwq.serve.protocol import document
from openqwq.types import OpenQwQError

BEGIN, END = "<!-- leniency: generated -->", "<!-- end of leniency -->"
REQUESTS = {
    "/v1/chat/completions": "ChatRequest",
    "/v1/completions": "CompletionRequest",
    "/v1/responses": "ResponsesRequest",
    "/v1/messages": "MessagesRequest",
}
# What stands inside a history: other fields of it are ignored.
HISTORIES = {
    "system or developer message": "SystemMessage",
    "user message": "UserMessage",
    "assistant message": "AssistantMessage",
    "tool or function message": "ToolMessage",
    "part of a content": "TextPart",
    "part of an assistant's content: `thinking`": "ThinkingPart",
    "call of a tool": "PastCall",
    "message of /v1/messages": "MessagesMessage",
}
NEUTRAL = "Only the neutral value"


def table() -> str:
    """Both tables, as Markdown."""
    lines = ["| request | obeyed | accepted, changes nothing | neutral value only |"]
    lines.append("| --- | --- | --- | --- |")
    for path, name in REQUESTS.items():
        obeyed, idle, neutral = _sorted_fields(_schema(name)["properties"])
        lines.append(f"| `{path}` | {obeyed} | {idle} | {neutral} |")
    lines += [
        "",
        "| inside a history | read; every other field is ignored |",
        "| --- | --- |",
    ]
    for title, name in HISTORIES.items():
        lines.append(f"| {title} | {_names(_schema(name)['properties'])} |")
    for kind, fields in _kinds(_schema("ResponsesItem")["anyOf"]):
        lines.append(f"| item of /v1/responses: `{kind}` | {_names(fields)} |")
    for kind, fields in _kinds(_schema("MessagesBlock")["oneOf"]):
        lines.append(f"| block of /v1/messages: `{kind}` | {_names(fields)} |")
    return "\n".join(lines)


def with_tables(text: str) -> str:
    """`text` with the tables between their marks; raises OpenQwQError where those are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise OpenQwQError(f"the text lacks the marks {BEGIN} and {END}: add both")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _schema(name: str) -> Any:
    return document()["components"]["schemas"][name]


def _sorted_fields(fields: Mapping[str, Any]) -> tuple[str, str, str]:
    idle = [name for name, field in fields.items() if field.get("x-effect") == "none"]
    neutral = [
        name for name, field in fields.items() if NEUTRAL in field.get("description", "")
    ]
    obeyed = [name for name in fields if name not in idle and name not in neutral]
    return _names(obeyed), _names(idle), _names(neutral)


def _kinds(alternatives: list[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for each in alternatives:
        if "$ref" in each:
            each = _schema(each["$ref"].rpartition("/")[2])
        kind = each["properties"]["type"]
        names = [name for name in kind.get("enum", [kind.get("const")]) if name]
        fields = {key: field for key, field in each["properties"].items() if key != "type"}
        yield "`, `".join(names), fields


def _names(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names) or "–"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(with_tables(target.read_text(encoding="utf-8")), encoding="utf-8")
