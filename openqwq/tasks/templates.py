"""Templates of a config: text in which `{column}` stands for a column of a row."""

import difflib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from openqwq.types import OpenQwQError

_PIECES = re.compile(r"\{\{|\}\}|\{\}|\{([^{}]+)\}|[{}]")


class RowError(Exception):
    """A row that cannot be used: the field, what is wrong with it, and the remedy.

    Those who know the file and the row's number put both before it.
    """

    def __init__(self, field: str, said: str) -> None:
        super().__init__(f"{field}: {said}")


class Template:
    """Text with `{column}` in it; `key` is its key in the config, for errors.

    Dotted names reach into objects and lists. `{}` is itself, so that `\\boxed{}` works as written;
    `{{` and `}}` are single braces. Raises OpenQwQError for a brace without its partner.
    """

    def __init__(self, text: str, key: str) -> None:
        self.key = key
        self._pieces: list[tuple[str, str]] = []  # literal text, then a column ("": none)
        literal = ""
        end = 0
        for match in _PIECES.finditer(text):
            literal += text[end : match.start()]
            end = match.end()
            if match[1] is not None:
                self._pieces.append((literal, match[1].strip()))
                literal = ""
            elif match[0] in ("{", "}"):
                raise OpenQwQError(
                    f"{key} has a single {match[0]!r} after {text[: match.start()][-20:]!r}: write "
                    f"{match[0] * 2} for the brace itself, or {{column}}"
                )
            else:
                literal += "{}" if match[0] == "{}" else match[0][0]
        self._pieces.append((literal + text[end:], ""))

    @property
    def columns(self) -> list[str]:
        """The columns that it names, in their order."""
        return [column for _, column in self._pieces if column]

    @property
    def lone(self) -> bool:
        """Whether it is one column and nothing else, whose value is passed on as it is."""
        literals = [literal for literal, _ in self._pieces]
        return len(self.columns) == 1 and not any(literals)

    def fill(self, row: Mapping[str, Any]) -> Any:
        """The text for a row, or the value of a lone column.

        Raises RowError for a column that the row lacks or that is null.
        """
        if self.lone:
            return self.values(row)[0]
        parts: list[str] = []
        for literal, column in self._pieces:
            parts.append(literal)
            if column:
                parts.append(as_text(self._value(row, column)))
        return "".join(parts)

    def values(self, row: Mapping[str, Any]) -> list[Any]:
        """The values of its columns, in their order; raises RowError as `fill` does."""
        return [self._value(row, column) for column in self.columns]

    def _value(self, row: Mapping[str, Any], column: str) -> Any:
        try:
            value = lookup(row, column)
        except KeyError:
            known = ", ".join(map(repr, row))
            matches = difflib.get_close_matches(column, _names(row), n=1)
            near = f"did you mean {{{matches[0]}}}? " if matches else ""
            raise RowError(
                self.key,
                f"there is no column {column!r}: {near}the row has {known}; write {{{{ and }}}} "
                "for braces in the text",
            ) from None
        if is_missing(value):
            raise RowError(
                self.key, f"the column {column!r} is null: fill it, or leave the row out"
            )
        return value


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: null, or the NaN that pandas writes for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _names(row: Mapping[str, Any]) -> list[str]:
    """The columns of a row, and the fields of those that are objects."""
    names = list(row)
    for column, value in row.items():
        inside = from_json(value)
        if isinstance(inside, Mapping):
            names += [f"{column}.{field}" for field in inside]
    return names


def lookup(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column, or of `column.field` below it; KeyError if there is none.

    Objects and lists that are kept as JSON text are read.
    """
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = from_json(value)
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise KeyError(name)
    return value


def from_json(value: Any) -> Any:
    """The object or list that a text spells in JSON; any other value as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # the latter for thousands of brackets
        return value


def as_text(value: Any) -> str:
    """A value within a text: texts as they are, objects and lists as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping | list | tuple | bool):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
