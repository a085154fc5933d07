"""Which MCP servers to use, and how: from a command line, an address, or a file of several.

A file holds `mcpServers`, as the settings of other MCP clients do:

    {"mcpServers": {
        "files": {"command": "npx", "args": ["-y", "server", "."], "env": {"TOKEN": "${TOKEN}"}},
        "wiki": {"url": "https://example.org/mcp", "bearer_token": "${WIKI}", "deny": ["delete"]}}}
"""

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openqwq.types import OpenQwQError

VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_KINDS = {
    "stdio": "command",
    "http": "url",
    "streamable-http": "url",
    "streamableHttp": "url",
}
_KEYS = {
    *("type", "command", "args", "env", "cwd", "url", "headers", "bearer_token"),
    *("allow", "deny", "disabled", "description"),
}


@dataclass(frozen=True)
class McpSettings:
    """One server: a `command` to start or a `url` to reach; `target` is either, as errors show it.

    `name` is put before a tool's name where another tool has the same. `environment` is added to
    what such a process gets anyway. Of its tools those are offered that `allow` names (None: all)
    and `deny` does not.
    """

    target: str
    name: str = ""
    command: tuple[str, ...] = ()
    url: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    allow: frozenset[str] | None = None
    deny: frozenset[str] = frozenset()

    def offers(self, tool: str) -> bool:
        """Whether a tool of the server may be used."""
        return tool not in self.deny and (self.allow is None or tool in self.allow)

    @property
    def picked(self) -> frozenset[str]:
        """The tools that are named, which the server must have."""
        return self.deny | (self.allow or frozenset())


def read_settings(text: str) -> list[McpSettings]:
    """The servers that one `--mcp` names; raises OpenQwQError for what cannot be understood."""
    if text.startswith(("http://", "https://")):
        return [McpSettings(text, url=text)]
    if text.endswith(".json"):
        return _read_file(Path(text).expanduser())
    try:
        command = tuple(shlex.split(text))
    except ValueError as error:
        raise OpenQwQError(
            f"the MCP server {text!r} is not a command line: {error}"
        ) from error
    if not command:
        raise OpenQwQError("an MCP server is empty: give its command line or http address")
    return [McpSettings(text, command=command)]


def _read_file(path: Path) -> list[McpSettings]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["mcpServers"]
        items = list(entries.items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        form = '{"mcpServers": {NAME: {"command": ...} or {"url": ...}}}'
        raise OpenQwQError(
            f"cannot read {path} ({error!r}): it must hold {form}"
        ) from error
    servers: list[McpSettings] = []
    for name, entry in items:
        if isinstance(entry, dict) and entry.get("disabled"):
            continue
        servers.append(_entry(name, entry, f"{path}: {name}"))
    return servers


def _entry(name: str, entry: Any, where: str) -> McpSettings:
    if not isinstance(entry, dict):
        raise OpenQwQError(f"{where} is {entry!r:.100}: it must be an object")
    unknown = sorted(entry.keys() - _KEYS)
    if unknown:
        raise OpenQwQError(
            f"{where}: unknown {unknown[0]!r}: use {', '.join(sorted(_KEYS))}"
        )
    kind = entry.get("type", "http" if "url" in entry else "stdio")
    if kind not in _KINDS:
        raise OpenQwQError(f"{where}: type is {kind!r}: use one of {', '.join(_KINDS)}")
    needed = _KINDS[kind]
    if not isinstance(entry.get(needed), str):
        raise OpenQwQError(f"{where}: {needed} is missing: give it as text")

    headers = _texts(entry, "headers", where)
    if "bearer_token" in entry:
        headers["Authorization"] = f"Bearer {_expanded(entry['bearer_token'], where)}"
    target = _expanded(entry[needed], where)
    command: tuple[str, ...] = ()
    url = target
    if needed == "command":
        arguments = [_expanded(text, where) for text in _list(entry, "args", where) or []]
        command = (target, *arguments)
        target = shlex.join(command)
        url = ""

    folder: Path | None = None
    if "cwd" in entry:
        folder = Path(entry["cwd"]).expanduser()
    allow = _list(entry, "allow", where)
    deny = _list(entry, "deny", where)
    return McpSettings(
        target,
        name,
        command,
        url,
        _texts(entry, "env", where),
        headers,
        folder,
        None if allow is None else frozenset(allow),
        frozenset(deny or ()),
    )


def _list(entry: Mapping[str, Any], key: str, where: str) -> Sequence[str] | None:
    value = entry.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise OpenQwQError(f"{where}: {key} is {value!r:.100}: give a list of texts")
    return value


def _texts(entry: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    value = entry.get(key, {})
    if not isinstance(value, dict):
        raise OpenQwQError(f"{where}: {key} is {value!r:.100}: give an object of texts")
    return {name: _expanded(text, f"{where}: {key}.{name}") for name, text in value.items()}


def _expanded(text: Any, where: str) -> str:
    """`text` with ${NAME} and ${NAME:-default} replaced from our own environment."""
    if not isinstance(text, str):
        raise OpenQwQError(f"{where}: {text!r:.100} is not text: put it in quotes")

    def value(found: re.Match[str]) -> str:
        name, default = found.groups()
        given = os.environ.get(name, default)
        if given is None:
            raise OpenQwQError(f"{where}: the environment has no {name}: set it")
        return given

    return VARIABLE.sub(value, text)
