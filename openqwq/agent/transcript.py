"""What happened in a conversation, as JSON lines that can be shown again."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

from openqwq.agent.call import CallResult
from openqwq.agent.loop import Called, Content, Ended, Event, Returned, Thinking, Turns
from openqwq.data.files import write_atomically
from openqwq.types import OpenQwQError

_EVENTS = (Thinking, Content, Called, Returned, Turns, Ended)
_KINDS: dict[str, type] = {kind.__name__.lower(): kind for kind in _EVENTS}


@dataclass(frozen=True)
class Asked:
    """A person's question, which begins a run."""

    text: str


@dataclass
class Transcript:
    """A conversation so far. With a `path` each `save` replaces that file as a whole.

    Raises OpenQwQError where the file is there already, or no directory for it.
    """

    model: str
    path: Path | None = None
    entries: list[Asked | Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path and self.path.exists():
            raise OpenQwQError(f"{self.path} exists: name another transcript or remove it")
        if self.path and not self.path.parent.is_dir():
            raise OpenQwQError(
                f"{self.path.parent} is not a directory: make it, or name another"
            )

    def add(self, entry: Asked | Event) -> None:
        """Note what happened; pieces of one text become one entry."""
        last = self.entries[-1] if self.entries else None
        if isinstance(entry, Thinking | Content) and type(last) is type(entry):
            text = last.text + entry.text
            self.entries[-1] = replace(entry, text=text)
        else:
            self.entries.append(entry)

    def save(self) -> None:
        """Write all of it at once, or leave the file as it was."""
        if self.path is None:
            return
        lines = [{"event": "model", "name": self.model}]
        lines += [{"event": type(e).__name__.lower()} | asdict(e) for e in self.entries]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomically(self.path, text.encode())


def read_transcript(path: Path) -> tuple[str, list[Asked | Event]]:
    """The model's name and what happened; raises OpenQwQError naming the first bad line."""
    try:
        first, *rest = path.read_text(encoding="utf-8").splitlines()
        model = json.loads(first)["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OpenQwQError(
            f"{path} is not a transcript ({error}): name a file that qwq agent wrote"
        ) from error
    return model, list(_entries(path, rest))


def _entries(path: Path, lines: list[str]) -> Iterator[Asked | Event]:
    for number, line in enumerate(lines, 2):
        try:
            yield _entry(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise OpenQwQError(
                f"line {number} of {path} is not an entry of a transcript ({error}): remove it"
            ) from error


def _entry(data: dict[str, Any]) -> Asked | Event:
    kind = {"asked": Asked, **_KINDS}[data.pop("event")]
    if kind is Returned:
        data["result"] = CallResult(**data["result"])
    if set(data) != {each.name for each in fields(kind)}:
        raise ValueError(f"a {kind.__name__.lower()} has other fields")
    return cast(Asked | Event, kind(**data))
