"""The one reader of row files: JSON lines, JSON lists, parquet, CSV and TSV, packed or not."""

import csv
import difflib
import gzip
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from openqwq.types import OpenQwQError

Row = dict[str, Any]
_SURROGATE = re.compile(r"\\ud[89a-f]")  # in JSON; a lone one is not text
TEXT_FORMS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
FORMS = (*TEXT_FORMS, ".parquet")
GZIP = b"\x1f\x8b"  # how packed files begin
LIST = " (a file that is one JSON list is named .json)"


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, one after the other; its name's ending says how it is read.

    Text forms may be packed (`.gz`). Values of CSV and TSV files are texts. Raises OpenQwQError
    naming the file and the row for what is missing, damaged or not a row.
    """
    for _, row in numbered_rows(path):
        yield row


def numbered_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """The rows of a file with the numbers that errors name.

    In JSON lines a row's number is that of its line, elsewhere its place from 1.
    """
    _require_file(path)
    form = form_of(path)
    try:
        if form == ".parquet":
            yield from enumerate(_parquet_rows(path), 1)
            return
        with _opened(path) as file:
            if form in (".csv", ".tsv"):
                yield from enumerate(
                    _table_rows(file, path, "\t" if form == ".tsv" else ","), 1
                )
            elif form == ".json":
                yield from _json_rows(file, path)
            else:
                yield from _json_lines(file, path)
    except UnicodeDecodeError as error:
        remedy = "convert it, e.g. with iconv"
        if path.suffix.lower() != ".gz" and _is_packed(path):
            remedy = "it is packed by gzip, so add .gz to its name"
        raise OpenQwQError(f"{path} is not UTF-8 ({error}): {remedy}") from error
    except (OSError, EOFError, zlib.error) as error:
        remedy = "get the file again"
        if path.suffix.lower() == ".gz" and not _is_packed(path):
            remedy = "if it is text, name it without .gz"
        raise OpenQwQError(f"{path} cannot be read ({error}): {remedy}") from error


def text_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """`numbered_rows` for a tokenizer: raises OpenQwQError too for half a character."""
    for number, row in numbered_rows(path):
        if _SURROGATE.search(json.dumps(row, default=str)):
            _require_text(row, path, number)
        yield number, row


def _require_text(row: Row, path: Path, number: int) -> None:
    """Raise OpenQwQError where a string of the row has half of a surrogate pair."""
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise OpenQwQError(
            f"{path} row {number} has half a character, {half!a}: remove it"
        ) from error


def form_of(path: Path) -> str:
    """The ending that says how a file is read, without `.gz`; OpenQwQError for another one."""
    name = path.name.lower().removesuffix(".gz")
    form = next((ending for ending in FORMS if name.endswith(ending)), None)
    if form is None or (form == ".parquet" and path.suffix.lower() == ".gz"):
        known = ", ".join(FORMS)
        raise OpenQwQError(
            f"{path} is not a file of rows: its name must end with one of {known}, text forms also "
            "with .gz"
        )
    return form


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise OpenQwQError(f"{path} is a directory: {_files_inside(path)}")
    if not path.is_file():
        raise OpenQwQError(f"{path} does not exist: {_file_like(path)}")


def _files_inside(folder: Path) -> str:
    """Which files of a folder to name instead of it."""
    names = [each.name for each in folder.iterdir() if each.name.endswith(FORMS)]
    if not names:
        return "it holds no file of rows"
    names.sort()
    return f"name one of {', '.join(names[:5])}"


def _file_like(path: Path) -> str:
    """The file next to a missing one that was probably meant."""
    names: list[str] = []
    if path.parent.is_dir():
        names = [each.name for each in path.parent.glob("*")]
    matches = difflib.get_close_matches(path.name, names, n=1)
    if not matches:
        return "check the path"
    return f"did you mean {matches[0]!r}?"


def _opened(path: Path) -> TextIO:
    """The file's text; a byte order mark is not part of it, and CSV wants its own line ends."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open("r", encoding="utf-8-sig", newline="")


def _is_packed(path: Path) -> bool:
    """Whether a file begins as gzip's do."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(len(GZIP)) == GZIP
    return True


def _json_lines(lines: Iterable[str], path: Path) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, _object(line, path, number)


def _json_rows(file: TextIO, path: Path) -> Iterator[tuple[int, Row]]:
    """The objects of a list; JSON lines under the name `.json` are read as such."""
    text = file.read()
    if not text.lstrip().startswith("["):
        _refuse_object(text, path)
        yield from _json_lines(text.split("\n"), path)
        return
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OpenQwQError(f"{path} is not JSON ({error}): correct it") from error
    for number, row in enumerate(rows, 1):
        yield number, _checked(row, path, number)


def _refuse_object(text: str, path: Path) -> None:
    """Raise OpenQwQError for a file that is one JSON object over several lines."""
    if text.lstrip().partition("\n")[0].strip() != "{":
        return
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return
    raise OpenQwQError(
        f"{path} holds one object with {', '.join(map(repr, found))}: it must be a list of rows"
    )


def _object(line: str, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        advice = LIST * (line.strip() == "[")
        raise OpenQwQError(
            f"{path} row {number} is not JSON ({error}): write one object a line{advice}"
        ) from error
    return _checked(row, path, number)


def _checked(row: Any, path: Path, number: int) -> Row:
    if not isinstance(row, dict):
        advice = LIST * isinstance(row, list)
        raise OpenQwQError(
            f"{path} row {number} is {row!r:.80}: it must be an object{advice}"
        )
    return row


def _table_rows(file: TextIO, path: Path, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # a hidden test may be long
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        # pandas leaves the name of its index empty
        names = [name.strip() for name in next(reader, [])]
        header = [name or f"unnamed {i}" for i, name in enumerate(names)]
        if len(header) == 1 and re.search(r"[;\t|,]", header[0]):
            raise OpenQwQError(
                f"{path} has the one column {header[0]!r}: separate columns by commas in .csv, by "
                "tabs in .tsv"
            )
        if len(set(header)) != len(header):
            raise OpenQwQError(
                f"{path} has the columns {header}: the first line must name each column once"
            )
        for number, cells in enumerate((line for line in reader if line), 1):
            if len(cells) != len(header):
                raise OpenQwQError(
                    f"{path} row {number} has {len(cells)} cells, the header {len(header)}: quote "
                    "cells that hold separators or line ends"
                )
            yield dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise OpenQwQError(
            f"{path} line {reader.line_num} cannot be read ({error}): check its quotes"
        ) from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise OpenQwQError(
            f"reading {path} needs pyarrow ({error}): pip install 'openqwq[data]', or convert the "
            "file to JSON lines"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise OpenQwQError(
            f"{path} is not a whole parquet file ({error}): get it again"
        ) from error
