"""Tables as models write them (CSV, TSV, JSON, JSONL, HTML, Markdown), read to be compared."""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

Rows = list[dict[str, str]]  # cells as text, by column


def read_table(text: str, form: str) -> Rows:
    """The rows of a table; raises ValueError for a text that is not a table, or an unknown form."""
    match form:
        case "csv" | "tsv":
            delimiter = {"csv": ",", "tsv": "\t"}[form]
            return _rows(csv.reader(text.strip().splitlines(), delimiter=delimiter))
        case "jsonl":
            lines = filter(str.strip, text.strip().splitlines())
            return [_cells(json.loads(line)) for line in lines]
        case "json":
            return _from_json(json.loads(text))
        case "html":
            reader = _HtmlTable()
            reader.feed(text)
            return _rows(reader.rows)
        case "markdown":
            rows = []
            for line in text.strip().splitlines():
                bare = line.strip().strip("|")
                if not re.fullmatch(r"[\s:|-]+", bare):  # the line below the header
                    rows.append(bare.split("|"))
            return _rows(rows)
    raise ValueError(f"unknown table format {form!r}")


def same_table(found: Rows, wanted: Rows) -> bool:
    """Whether rows are equal in order, columns in any; numbers may differ by a millionth."""
    return len(found) == len(wanted) and all(map(_same_row, found, wanted))


def _same_row(a: Mapping[str, str], b: Mapping[str, str]) -> bool:
    return a.keys() == b.keys() and all(_same_cell(a[key], b[key]) for key in b)


class _HtmlTable(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th", "tr")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


def _rows(lines: Iterable[Sequence[str]]) -> Rows:
    """The rows by their header, without an index column."""
    header: list[str] = []
    rows: Rows = []
    for line in filter(None, lines):
        cells = list(map(str.strip, line))
        if not header:
            header = cells
            continue
        row = dict(zip(header, cells, strict=False))
        row.pop("", None)
        row.pop("index", None)
        rows.append(row)
    if not header:
        raise ValueError("no table")
    return rows


def _from_json(value: Any) -> Rows:
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]  # pandas' "table" form
    entries = value.values() if isinstance(value, dict) else value
    return [_cells(entry) for entry in entries]


def _cells(entry: Any) -> dict[str, str]:
    if not isinstance(entry, dict):
        raise ValueError("a row is not an object")
    cells: dict[str, str] = {}
    for name, value in entry.items():
        cells[name.strip()] = "" if value is None else str(value).strip()
    cells.pop("index", None)
    return cells


def _same_cell(a: str, b: str) -> bool:
    try:
        return abs(float(a) - float(b)) < 1e-6 or a == b
    except ValueError:
        return a == b
