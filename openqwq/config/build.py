"""Plain data into frozen dataclasses: every key and every value is checked against its type."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any, Literal

from openqwq.config.stages import STAGE_KINDS, Stage
from openqwq.types import OpenQwQError


def build(kind: Any, value: Any, path: str, where: str) -> Any:
    """`value` as `kind`; `path` names it within the files `where`.

    Raises OpenQwQError naming the key, its value and what it must be.
    """
    if kind == Stage:
        return _build_stage(value, path, where)
    if dataclasses.is_dataclass(kind):
        return build_dataclass(typing.cast(type, kind), value, path, where)

    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _build_union(kind, value, path, where)
    if origin is tuple:
        return _build_tuple(kind, value, path, where)
    if origin is Mapping or origin is dict:
        return _build_mapping(kind, value, path, where)
    return _checked_scalar(kind, value, path, where)


def build_dataclass(kind: type, value: Any, path: str, where: str) -> Any:
    """An instance of the dataclass `kind` with the fields that the table `value` gives."""
    if not isinstance(value, Mapping):
        raise OpenQwQError(f"{path} in {where} is {value!r}: it must be a table")

    hints = {key_of(name): hint for name, hint in typing.get_type_hints(kind).items()}
    fields = dataclasses.fields(kind)
    changes: dict[str, Any] = {}
    for key, item in value.items():
        full = joined(path, key)
        if key not in hints:
            raise OpenQwQError(f"unknown key {full} in {where}: {_known_keys(key, hints)}")
        changes[name_of(key)] = build(hints[key], item, full, where)

    for entry in fields:
        has_default = entry.default is not MISSING or entry.default_factory is not MISSING
        if not has_default and entry.name not in changes:
            raise OpenQwQError(f"{path} in {where} lacks {key_of(entry.name)!r}: give it")
    return kind(**changes)


def joined(path: str, key: str) -> str:
    """The dotted name of `key` below `path`."""
    return f"{path}.{key}" if path else key


def key_of(name: str) -> str:
    """The key of a dataclass field: `from_` is `from`, which Python keeps for itself."""
    return "from" if name == "from_" else name


def name_of(key: str) -> str:
    """The dataclass field of a key."""
    return "from_" if key == "from" else key


def near(word: str, known: typing.Iterable[str]) -> str:
    """The one of `known` that is spelt most like `word`; empty if there is none."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)
    return matches[0] if matches else ""


def _known_keys(word: str, known: typing.Iterable[str]) -> str:
    """The key that was meant, if one is spelt like it; else all there are."""
    names = list(known)
    matches = difflib.get_close_matches(word, names, n=1)
    if matches:
        return f"did you mean {matches[0]!r}?"
    return f"there are {', '.join(names)}"


def _build_stage(value: Any, path: str, where: str) -> Stage:
    if not isinstance(value, Mapping):
        raise OpenQwQError(f"{path} in {where} is {value!r}: it must be a table")
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in STAGE_KINDS:
        known = ", ".join(STAGE_KINDS)
        raise OpenQwQError(f"{path}.kind in {where} is {kind!r}: it must be one of {known}")
    for key in value:
        others = [name for name, each in STAGE_KINDS.items() if _has_field(each, key)]
        if others and kind not in others:
            raise OpenQwQError(
                f"{path}.{key} in {where} is a key of {' and '.join(others)} stages, and this is "
                f"of kind {kind!r}: leave it out"
            )
    stage: Stage = build_dataclass(STAGE_KINDS[kind], value, path, where)
    return stage


def _has_field(kind: type, key: str) -> bool:
    return key in map(key_of, typing.get_type_hints(kind))


def _build_union(kind: Any, value: Any, path: str, where: str) -> Any:
    """The first member of a union that takes the value; tables go to its dataclass."""
    members = [member for member in typing.get_args(kind) if member is not type(None)]
    tables = [member for member in members if dataclasses.is_dataclass(member)]
    if isinstance(value, Mapping) and tables:
        return build(tables[0], value, path, where)

    for member in members:
        try:
            return build(member, value, path, where)
        except OpenQwQError:
            continue
    wanted = " or ".join(_described(member) for member in members)
    raise OpenQwQError(f"{path} in {where} is {value!r}: it must be {wanted}")


def _build_tuple(kind: Any, value: Any, path: str, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise OpenQwQError(f"{path} in {where} is {value!r}: it must be a list")
    member = typing.get_args(kind)[0]
    built: list[Any] = []
    for i, item in enumerate(value):
        named = item.get("name") if member == Stage and isinstance(item, Mapping) else None
        built.append(build(member, item, f"{path}.{named or i}", where))
    return tuple(built)


def _build_mapping(kind: Any, value: Any, path: str, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise OpenQwQError(f"{path} in {where} is {value!r}: it must be a table")
    _, member = typing.get_args(kind)
    if member is Any:
        return dict(value)
    return {
        key: build(member, item, joined(path, key), where) for key, item in value.items()
    }


def _checked_scalar(kind: Any, value: Any, path: str, where: str) -> Any:
    if typing.get_origin(kind) is Literal:
        fits = value in typing.get_args(kind)
    elif kind is float and type(value) is int:
        return float(value)
    else:
        is_bool = isinstance(value, bool)
        fits = isinstance(value, kind) and (kind is bool or not is_bool)
    if not fits:
        raise OpenQwQError(f"{path} in {where} is {value!r}: it must be {_described(kind)}")
    return value


def _described(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    if dataclasses.is_dataclass(kind):
        return "a table"
    return str(getattr(kind, "__name__", kind))
