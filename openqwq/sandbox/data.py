"""Plain data across a trust boundary: a flat JSON table, without classes or code.

A value is `[reference, table]`. A reference is a JSON scalar, or `[index]` of a row of the table;
a row is a tag and the parts of one item, so shared parts and cycles are kept.
"""

import math
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import (
    Callable,
    ItemsView,
    Iterator,
    KeysView,
    Mapping,
    Sequence,
    ValuesView,
)
from importlib import import_module
from itertools import islice
from typing import Any

ITERATOR_ITEMS = 10_000  # an iterator crosses as its first items
HEX_DIGITS = 2**16  # of an integer; to make a decimal of more takes seconds
SAME_HASH = 100  # more keys of one hash than this are an attack on the reader's tables
# Parts hashed, beyond the data's own size: nested tuples are hashed as often as they are shared,
# which may be exponential.
HASHING = 2**20
GREATEST_COST = 2**60
SEQUENCES = {
    list: "list",
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    deque: "deque",
}
MAPPINGS = {Counter: "Counter", OrderedDict: "OrderedDict", defaultdict: "defaultdict"}
SHELLS = {"list": list, "set": set, "dict": dict, "deque": deque, "iterator": list}
SHELLS |= {"Counter": Counter, "OrderedDict": OrderedDict, "defaultdict": defaultdict}
# cross as text
TEXTS = {"decimal.Decimal", "datetime.datetime", "datetime.date", "datetime.time"}
TYPES: dict[str, type] = {
    kind.__name__: kind for kind in (bool, int, float, str, bytes, list, tuple, set, dict)
}


def _integer(text: str) -> int:
    if len(text) > HEX_DIGITS:
        raise ValueError("an integer is too long")
    return int(text, 16)


def _complex(real: str, imaginary: str) -> complex:
    return complex(float(real), float(imaginary))


def _library_value(name: str, *parts: Any) -> Any:
    """A number or a date of a module that is imported only where one crosses."""
    module, _, kind = name.partition(".")
    made = getattr(import_module(module), kind)
    if kind == "Fraction":
        return made(_integer(parts[0]), _integer(parts[1]))
    if kind == "timedelta":
        return made(*parts)
    text = str(parts[0])
    if len(text) > HEX_DIGITS or name not in TEXTS:
        raise ValueError(f"{name} is too long, or unknown")
    return made(text) if kind == "Decimal" else made.fromisoformat(text)


SCALARS: Mapping[str, Callable[..., Any]] = {
    "int": _integer,
    "str": str,
    "float": float,
    "complex": _complex,
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "range": range,
    "type": TYPES.__getitem__,
    "library": _library_value,
}


def encode(value: Any) -> list[Any]:
    """Return `[reference, table]`, JSON that keeps types, shared parts and cycles.

    Decimals, fractions, dates and named tuples cross too; a `defaultdict` loses its factory.
    Instances of the program's own classes cross as class name and attributes, an `re.Match` as
    the tuple of its texts; anything else raises TypeError naming its type.
    """
    writer = Writer()
    root = writer.refer(value)
    table = []
    for item in writer.items:  # grows while we walk it; item i becomes row i
        table.append(writer.row(item))
    return [root, table]


class Writer:
    """Gives each item that is not a JSON scalar its own row."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._rows: dict[int, int] = {}  # by the item's id

    def refer(self, item: Any) -> Any:
        """Return a reference to an item; a new one is put at the end of the items."""
        if _is_json_scalar(item):
            return item
        if id(item) not in self._rows:
            self._rows[id(item)] = len(self.items)
            self.items.append(item)
        return [self._rows[id(item)]]

    def row(self, item: Any) -> list[Any]:
        """Return the tag and the parts of an item."""
        match item:
            case int():
                return ["int", format(int(item), "x")]
            case float():
                return ["float", float.__repr__(item)]
            case complex():
                return ["complex", repr(item.real), repr(item.imag)]
            case str():
                return ["str", str.__str__(item)]
            case bytes():
                return ["bytes", item.hex()]
            case bytearray():
                return ["bytearray", item.hex()]
            case re.Match():
                return ["tuple", self.refer(item[0]), *map(self.refer, item.groups())]
            case range():
                return ["range", item.start, item.stop, item.step]
            case dict():
                return [MAPPINGS.get(type(item), "dict"), *self._pairs(item)]
        if isinstance(item, tuple) and hasattr(item, "_fields"):
            names = " ".join(item._fields)
            return ["namedtuple", type(item).__name__, names, *map(self.refer, item)]
        for kind, name in SEQUENCES.items():
            if isinstance(item, kind):
                return [name, *map(self.refer, item)]
        return self._library_row(item) or self.array_row(item) or self._other_row(item)

    def array_row(self, item: Any) -> list[Any] | None:
        """Return the row of what numpy made, as the number or the list that it holds."""
        if type(item).__module__ != "numpy" or not hasattr(item, "tolist"):
            return None
        plain = item.tolist()
        return None if type(plain) is type(item) else self.row(plain)

    def _library_row(self, item: Any) -> list[Any] | None:
        """Return the row of a decimal, a fraction, a date or a time."""
        kind = type(item)
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name in TEXTS:
            text = str(item) if name == "decimal.Decimal" else item.isoformat()
            return ["library", name, text]
        if name == "fractions.Fraction":
            return [
                "library",
                name,
                format(item.numerator, "x"),
                format(item.denominator, "x"),
            ]
        if name == "datetime.timedelta":
            return ["library", name, item.days, item.seconds, item.microseconds]
        return None

    def _other_row(self, item: Any) -> list[Any]:
        if isinstance(item, type) and TYPES.get(item.__name__) is item:
            return ["type", item.__name__]
        if isinstance(item, KeysView | ValuesView | ItemsView):
            return ["list", *map(self.refer, item)]
        if isinstance(item, Iterator):
            return ["iterator", *map(self.refer, islice(item, ITERATOR_ITEMS))]
        if type(item).__module__ == "__main__" and hasattr(item, "__dict__"):
            return ["object", type(item).__name__, *self._pairs(vars(item))]
        raise TypeError(f"a value of type {type(item).__name__!r} is not plain data")

    def _pairs(self, mapping: Mapping[Any, Any]) -> Iterator[Any]:
        """Return references to keys and values, by turns."""
        for key, value in mapping.items():
            yield self.refer(key)
            yield self.refer(value)


def _is_json_scalar(item: Any) -> bool:
    """Whether JSON holds an item as it is, of exactly its type."""
    kind = type(item)
    if item is None or kind is bool or kind is str:
        return True
    if kind is int:
        return bool(-(2**63) < item < 2**63)
    return kind is float and math.isfinite(item)


def decode(data: Any, classes: Mapping[str, type] | None = None) -> Any:
    """Rebuild what `encode` wrote; instances only of `classes`, made without running their code.

    Raises ValueError on anything malformed: the writer may be hostile.
    """
    try:
        root = data[0]
        table = data[1]
        return Reader(table, classes or {}).read(root)
    except (LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"malformed data: {error}") from error


class Reader:
    """Makes mutable items empty, immutable ones from their parts, then fills the empty ones."""

    def __init__(self, table: list[list[Any]], classes: Mapping[str, type]) -> None:
        self.table = table
        self.classes = classes
        self.built: dict[int, Any] = {}
        self.empty: dict[int, Any] = {}
        self.cost: dict[int, int] = {}  # of hashing a row once, where it is more than 1
        self.hashing_left = HASHING + sum(map(len, table))

    def read(self, root: Any) -> Any:
        """Return the value that `root` refers to."""
        value = self.get(root)
        for index in range(len(self.table)):
            self.get([index])
        for index, item in self.empty.items():
            self.fill(item, *self.table[index])
        return value

    def get(self, reference: Any) -> Any:
        """Return what a reference stands for, which may still be empty."""
        if not isinstance(reference, list):
            return reference
        (index,) = reference
        if index not in self.built:
            tag, *parts = self.table[index]
            self.built[index] = self.make(index, tag, parts)
        return self.built[index]

    def make(self, index: int, tag: str, parts: list[Any]) -> Any:
        """Return a scalar or an immutable item whole, any other one empty."""
        if tag in SCALARS:
            return self.make_scalar(index, tag, parts)
        if tag == "namedtuple":
            # as plain data; the other side of a script makes it what it was
            tag = "tuple"
            parts = parts[2:]
        if tag == "tuple":
            items = [self.get(part) for part in parts]
            self.cost[index] = self.cost_of_all(parts)
            return tuple(items)
        if tag == "frozenset":
            keys = self.keys(parts)
            self.cost[index] = self.cost_of_all(parts)
            return frozenset(keys)
        if tag == "object":
            self.empty[index] = object.__new__(self.classes[parts[0]])
        else:
            self.empty[index] = SHELLS[tag]()
        if tag == "iterator":
            return iter(self.empty[index])
        return self.empty[index]

    def make_scalar(self, index: int, tag: str, parts: list[Any]) -> Any:
        """Return a scalar; a long integer takes longer to hash."""
        self.cost[index] = 1
        if tag == "int":
            self.cost[index] += len(str(parts[0])) // 16
        return SCALARS[tag](*parts)

    def fill(self, item: Any, tag: str, *parts: Any) -> None:
        """Put its parts into an item that was made empty."""
        if tag == "object":
            name, *pairs = parts
            self.set_attributes(item, name, pairs)
        elif isinstance(item, dict):
            keys = self.keys(parts[::2])
            dict.update(item, zip(keys, map(self.get, parts[1::2]), strict=True))
        elif tag == "set":
            item.update(self.keys(parts))
        else:
            item.extend(map(self.get, parts))

    def set_attributes(self, item: Any, name: str, pairs: Sequence[Any]) -> None:
        """Set an instance's attributes; raise ValueError where one would hide a method."""
        for attribute in pairs[::2]:
            if callable(getattr(type(item), attribute, None)):
                raise ValueError(f"attributes of {name!r} hide its methods")
        values = map(self.get, pairs[1::2])
        vars(item).update(zip(pairs[::2], values, strict=True))

    def keys(self, references: Sequence[Any]) -> list[Any]:
        """Return the keys of a table; raise ValueError where they would keep the reader busy."""
        found = [self.get(reference) for reference in references]
        self.hashing_left -= self.cost_of(references)
        if self.hashing_left < 0:
            raise ValueError("keys that take too long to hash")
        if len(found) > SAME_HASH:
            (_, most), *_ = Counter(map(hash, found)).most_common(1)
            if most > SAME_HASH:
                raise ValueError("keys that take too long to tell apart")
        return found

    def cost_of(self, references: Sequence[Any]) -> int:
        """Return what hashing all of these once takes."""
        total = 0
        for reference in references:
            total += self.cost.get(reference[0], 1) if isinstance(reference, list) else 1
        return total

    def cost_of_all(self, parts: Sequence[Any]) -> int:
        """Return what hashing an item of these parts takes."""
        return min(1 + self.cost_of(parts), GREATEST_COST)
