"""Tables as models write them (CSV, TSV, JSON, JSONL, HTML, Markdown), read to be compared."""

import csv
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

Rows = list[dict[str, str]]  # cells as text, by column


def read_table(text: str, form: str) -> Rows:
    """The rows of a table; raises ValueError for a text that is none, or an unknown form."""
    match form:
        case "csv" | "tsv":
            lines = text.strip().splitlines()
            return _rows(list(csv.reader(lines, delimiter="," if form == "csv" else "\t")))
        case "jsonl":
            return [_cells(json.loads(line)) for line in text.strip().splitlines() if line.strip()]
        case "json":
            return _from_json(json.loads(text))
        case "html":
            reader = _HtmlTable()
            reader.feed(text)
            return _rows(reader.rows)
        case "markdown":
            lines = [line.strip().strip("|") for line in text.strip().splitlines()]
            cells = [line.split("|") for line in lines if not re.fullmatch(r"[\s:|-]+", line)]
            return _rows(cells)
    raise ValueError(f"unknown table format {form!r}")


def same_table(found: Rows, wanted: Rows) -> bool:
    """Whether rows are equal in order, columns in any; numbers may differ by a millionth."""
    return len(found) == len(wanted) and all(
        a.keys() == b.keys() and all(_same(a[key], b[key]) for key in b)
        for a, b in zip(found, wanted, strict=True)
    )


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


def _rows(lines: Sequence[Sequence[str]]) -> Rows:
    lines = [line for line in lines if line]
    if not lines:
        raise ValueError("no table")
    header = [name.strip() for name in lines[0]]
    rows = [dict(zip(header, map(str.strip, line), strict=False)) for line in lines[1:]]
    return [{k: v for k, v in row.items() if k not in ("", "index")} for row in rows]


def _from_json(value: Any) -> Rows:
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]  # pandas' "table" form
    entries = value.values() if isinstance(value, dict) else value
    return [_cells(entry) for entry in entries]


def _cells(entry: Any) -> dict[str, str]:
    if not isinstance(entry, dict):
        raise ValueError("a row is no object")
    texts = {k.strip(): "" if v is None else str(v).strip() for k, v in entry.items()}
    return {k: v for k, v in texts.items() if k != "index"}


def _same(a: str, b: str) -> bool:
    try:
        return abs(float(a) - float(b)) < 1e-6 or a == b
    except ValueError:
        return a == b
