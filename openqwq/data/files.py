"""Files that are written whole or not at all, and their hashes."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from openqwq.types import OpenQwQError


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Replace the file at `path` by `data`, or leave it as it was.

    Raises OpenQwQError where the file cannot be written (a full disk, no permission).
    """
    with open_atomically(path) as file:
        file.write(data)


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that replaces `path` once the block ends without an exception.

    The bytes go to disk as they are written, so a large file needs no copy in memory. Missing
    parent directories are made. Raises OpenQwQError where the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    with removed_on_failure(partial), explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        flush(path.parent)


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Yield an empty directory that becomes `target` once the block ends without an exception.

    Raises OpenQwQError if `target` holds anything, or cannot be written.
    """
    partial = target.with_name(f".{target.name}.partial")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OpenQwQError(f"{target} exists already: name a new directory, or remove it")
    with removed_on_failure(partial), explained(target):
        shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
        partial.mkdir(parents=True)
        yield partial
        for path in [*partial.rglob("*"), partial]:
            flush(path)
        partial.rename(target)
        flush(target.parent)


def flush(path: Path) -> None:
    """Make sure that a file, or a directory's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise an OSError of the block as an OpenQwQError that names `path` and the remedy."""
    try:
        yield
    except OSError as error:
        raise OpenQwQError(
            f"cannot write {path}: {error.strerror or error}; free space and run the same command "
            "with --resume, or choose another place with --out"
        ) from error


@contextmanager
def removed_on_failure(partial: Path) -> Iterator[None]:
    """Remove `partial`, a file or a directory, if the block leaves it behind."""
    try:
        yield
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        elif partial.exists():
            partial.unlink()
