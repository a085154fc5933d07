"""The pipe between a program and its trusted tests: requests go both ways, and what is not data
stays where it is and is named by a number.

A message is a request or its answer. Requests nest: while the program works on a call it may call
a function that the tests gave it, which may call the program again.
"""

import json
import re
from collections import namedtuple
from importlib import import_module
from typing import Any, ClassVar

from openqwq.sandbox.data import Reader, Writer
from openqwq.sandbox.program import receive, send

MUTABLE = {
    "list",
    "set",
    "dict",
    "deque",
    "Counter",
    "OrderedDict",
    "defaultdict",
    "object",
}
TUPLE_METHODS = set(dir(tuple))
ARRAY_TYPE = re.compile(r"[<>|=]?[biufU]\d+")  # of numpy: numbers and texts


class LinkWriter(Writer):
    """Writes what is not data as its side of the link names it."""

    def __init__(self, side: "Side") -> None:
        super().__init__()
        self.side = side

    def row(self, item: Any) -> list[Any]:
        """See `Writer.row`."""
        return self.side.name_of(item) or super().row(item)

    def array_row(self, item: Any) -> list[Any] | None:
        """Return the row of what numpy made: an array crosses as one."""
        if type(item).__name__ != "ndarray" or not ARRAY_TYPE.fullmatch(item.dtype.str):
            return super().array_row(item)
        return ["ndarray", item.dtype.str, json.dumps(item.tolist())]


class LinkReader(Reader):
    """Reads such names; `mine` are items of this side, by row, that take the new contents."""

    def __init__(self, table: list[list[Any]], side: "Side", mine: dict[int, Any]) -> None:
        super().__init__(table, side.classes)
        self.side = side
        self.mine = mine

    def make(self, index: int, tag: str, parts: list[Any]) -> Any:
        """See `Reader.make`."""
        if tag in self.side.TAGS:
            return self.side.named(tag, *parts)
        if tag == "ndarray":
            return _array(*parts)
        if tag == "namedtuple":
            name, fields, *references = parts
            return self.side.named_tuple(
                name, fields, [self.get(part) for part in references]
            )
        if index in self.mine and tag in MUTABLE:
            item = self.mine[index]
            emptied = vars(item) if tag == "object" else item
            emptied.clear()
            self.empty[index] = item
            return item
        return super().make(index, tag, parts)


def _array(kind: str, items: str) -> Any:
    if not ARRAY_TYPE.fullmatch(kind):
        raise ValueError(f"an array of {kind!r}")
    return import_module("numpy").array(json.loads(items), dtype=kind)


class Side:
    """One end: sends requests, answers those of the other end, and keeps what it has named."""

    TAGS: ClassVar[set[str]] = set()

    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self.sink = sink
        self.classes: dict[str, type] = {}
        self.tuples: dict[tuple[str, str], Any] = {}

    def name_of(self, item: Any) -> list[Any] | None:
        """The row for an item that stays here; None for data."""
        raise NotImplementedError

    def named(self, tag: str, *parts: Any) -> Any:
        """What a row names."""
        raise NotImplementedError

    def answer(self, kind: str, *parts: Any) -> list[Any]:
        """The answer to a request of the other side."""
        raise NotImplementedError

    def write(self, value: Any) -> tuple[list[Any], list[Any]]:
        """A value as it crosses, and the items of its rows."""
        writer = LinkWriter(self)
        root = writer.refer(value)
        table = []
        for item in writer.items:  # grows while we walk it
            table.append(writer.row(item))
        return [root, table], writer.items

    def read(
        self, data: Any, mine: dict[int, Any] | None = None
    ) -> tuple[Any, dict[int, Any]]:
        """The value that crossed, and the mutable items of its rows; ValueError if malformed."""
        try:
            root, table = data
            reader = LinkReader(table, self, mine or {})
            value = reader.read(root)
        except (
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
            OverflowError,
        ) as error:
            raise ValueError(f"malformed data: {error}") from error
        changing = {}
        for index, row in enumerate(table):
            if row[0] in MUTABLE:
                changing[index] = reader.built[index]
        return value, changing

    def named_tuple(self, name: str, fields: str, items: list[Any]) -> Any:
        """A named tuple of this side's own class, or of one made for it."""
        kind = self.classes.get(name)
        if kind is None or getattr(kind, "_fields", None) != tuple(fields.split()):
            for field, item in zip(fields.split(), items, strict=True):
                if field in TUPLE_METHODS and callable(item):
                    raise ValueError(f"the field {field!r} hides a method")
            if (name, fields) not in self.tuples:
                self.tuples[name, fields] = namedtuple(name, fields)
            kind = self.tuples[name, fields]
        return tuple.__new__(kind, items)

    def ask(self, request: list[Any]) -> list[Any]:
        """Send a request; answer the other side's until the answer comes."""
        send(self.sink, request)
        while True:
            message = receive(self.source)
            if message[0] in ("value", "raise"):
                return list(message)
            send(self.sink, self.answer(*message))
