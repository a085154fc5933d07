"""Plain data across a trust boundary: a flat JSON table, without recursion, classes or code."""

import math
import re
from collections import Counter, deque
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, ValuesView
from itertools import islice
from typing import Any

ITERATOR_ITEMS = 10_000  # an iterator crosses as its first items
HEX_DIGITS = 2**16  # of an integer; to make a decimal of more takes seconds
SAME_HASH = 100  # more keys of one hash than this are an attack on the reader's tables
HASHING = 2**20  # parts hashed, beyond the data's own size: nested tuples are hashed as often as
# they are shared, which may be exponential
SEQUENCES = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset", deque: "deque"}
SHELLS = {"list": list, "set": set, "dict": dict, "deque": deque, "iterator": list}


def _integer(text: str) -> int:
    if len(text) > HEX_DIGITS:
        raise ValueError("an integer is too long")
    return int(text, 16)


TYPES: dict[str, type] = {
    kind.__name__: kind for kind in (bool, int, float, str, bytes, list, tuple, set, dict)
}
SCALARS: Mapping[str, Callable[..., Any]] = {
    "int": _integer,
    "str": str,
    "float": float,
    "complex": lambda real, imag: complex(float(real), float(imag)),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "range": range,
    "type": TYPES.__getitem__,
}


def encode(value: Any) -> list[Any]:
    """Return `[reference, table]`, JSON that keeps types, shared parts and cycles.

    A reference is a JSON scalar or `[index into table]`. Instances of the program's own classes
    cross as class name and attributes, an `re.Match` as the tuple of its texts; anything else
    raises TypeError naming its type.
    """
    found: dict[int, int] = {}
    items: list[Any] = []

    def refer(item: Any) -> Any:
        kind = type(item)
        if item is None or kind in (bool, str) or (kind is int and -(2**63) < item < 2**63):
            return item
        if kind is float and math.isfinite(item):
            return item
        if id(item) not in found:
            found[id(item)] = len(items)
            items.append(item)
        return [found[id(item)]]

    root, table = refer(value), []
    for item in items:  # grows while we walk it; item i becomes row i
        table.append(_row(item, refer))  # noqa: PERF401
    return [root, table]


def _row(item: Any, refer: Callable[[Any], Any]) -> list[Any]:
    match item:
        case int():
            return ["int", format(int(item), "x")]
        case float():
            return ["float", float.__repr__(item)]
        case complex():
            return ["complex", repr(item.real), repr(item.imag)]
        case str():
            return ["str", str.__str__(item)]
        case bytes() | bytearray():
            return ["bytes" if isinstance(item, bytes) else "bytearray", item.hex()]
        case re.Match():
            return ["tuple", refer(item[0]), *map(refer, item.groups())]
        case range():
            return ["range", item.start, item.stop, item.step]
        case dict():
            return ["dict", *(refer(part) for pair in item.items() for part in pair)]
    for kind, name in SEQUENCES.items():
        if isinstance(item, kind):
            return [name, *map(refer, item)]
    if isinstance(item, type) and TYPES.get(item.__name__) is item:
        return ["type", item.__name__]
    if isinstance(item, KeysView | ValuesView | ItemsView):
        return ["list", *map(refer, item)]
    if isinstance(item, Iterator):
        return ["iterator", *map(refer, islice(item, ITERATOR_ITEMS))]
    if type(item).__module__ == "__main__" and hasattr(item, "__dict__"):
        attributes = (refer(part) for pair in vars(item).items() for part in pair)
        return ["object", type(item).__name__, *attributes]
    raise TypeError(f"a value of type {type(item).__name__!r} is not plain data")


def decode(data: Any, classes: Mapping[str, type] | None = None) -> Any:
    """Rebuild what `encode` wrote; instances only of `classes`, made without running their code.

    Raises ValueError on anything malformed: the writer may be hostile.
    """
    try:
        return _read(data[0], data[1], classes or {})
    except (LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"malformed data: {error}") from error


def _read(root: Any, table: list[list[Any]], classes: Mapping[str, type]) -> Any:
    """Make mutable parts empty, immutable ones from their parts, then fill the empty ones."""
    built: dict[int, Any] = {}
    empty: dict[int, Any] = {}
    cost: dict[int, int] = {}  # of hashing a row once, where it is more than 1
    left = HASHING + sum(map(len, table))

    def get(reference: Any) -> Any:
        if not isinstance(reference, list):
            return reference
        (index,) = reference
        if index not in built:
            built[index] = make(index, *table[index])
        return built[index]

    def total(references: list[Any]) -> int:
        return sum(cost.get(r[0], 1) if isinstance(r, list) else 1 for r in references)

    def keys(references: list[Any]) -> list[Any]:
        nonlocal left
        found = [get(reference) for reference in references]
        left -= total(references)
        if left < 0 or (
            len(found) > SAME_HASH and max(Counter(map(hash, found)).values()) > SAME_HASH
        ):
            raise ValueError("keys that take too long to hash or to tell apart")
        return found

    def make(index: int, tag: str, *parts: Any) -> Any:
        if tag in SCALARS:
            cost[index] = 1 + len(str(parts[0])) // 16 if tag == "int" else 1
            return SCALARS[tag](*parts)
        if tag in ("tuple", "frozenset"):
            items = [get(part) for part in parts] if tag == "tuple" else keys([*parts])
            cost[index] = min(1 + total([*parts]), 2**60)
            return tuple(items) if tag == "tuple" else frozenset(items)
        empty[index] = object.__new__(classes[parts[0]]) if tag == "object" else SHELLS[tag]()
        return iter(empty[index]) if tag == "iterator" else empty[index]

    value, _ = get(root), [get([index]) for index in range(len(table))]
    for index, part in empty.items():
        tag, *parts = table[index]
        if tag == "object":
            if any(callable(getattr(type(part), name, None)) for name in parts[1::2]):
                raise ValueError(f"attributes of {parts[0]!r} hide its methods")
            vars(part).update(zip(parts[1::2], map(get, parts[2::2]), strict=True))
        elif tag == "dict":
            part.update(zip(keys(parts[::2]), map(get, parts[1::2]), strict=True))
        elif tag == "set":
            part.update(keys(parts))
        else:
            part.extend(map(get, parts))
    return value
