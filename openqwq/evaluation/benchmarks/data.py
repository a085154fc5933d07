"""Where benchmarks come from: pinned files of the Hugging Face hub, or a directory of the same."""

import gzip
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openqwq.types import OpenQwQError

Row = dict[str, Any]


@dataclass(frozen=True)
class DataFile:
    """One file. `local` is its path below --data; a dataset `repo` at a commit holds `path`.

    The hashes, where known, are those that the local and the hub's bytes must have.
    """

    local: str
    repo: str
    path: str
    revision: str
    sha256: str | None = None
    local_sha256: str | None = None


@dataclass
class Library:
    """Opens data files and remembers their hashes, which a run records.

    With a `directory` nothing is fetched. `allow_changed` takes files with other hashes.
    """

    directory: Path | None = None
    allow_changed: bool = False
    hashes: dict[str, str] = field(default_factory=dict)

    def rows(self, file: DataFile) -> Iterator[Row]:
        """The rows of a file; OpenQwQError where it is missing, changed or not of its form."""
        path = self._local(file) if self.directory else _from_hub(file)
        expected = file.local_sha256 if self.directory else file.sha256
        found = _sha256(path)
        if expected and found != expected and not self.allow_changed:
            raise OpenQwQError(
                f"{path} has sha256 {found}, expected {expected}: get the file again, or take it as"
                " it is with --allow-changed-data"
            )
        self.hashes[file.local] = found
        try:
            yield from _read(path)
        except (ValueError, OSError, EOFError) as error:
            raise OpenQwQError(
                f"{path} is damaged ({error}): get {file.local} again; see docs/evaluation.md"
            ) from error

    def _local(self, file: DataFile) -> Path:
        assert self.directory
        path = self.directory / file.local
        for candidate in (path, path.with_name(path.name.removesuffix(".gz"))):
            if candidate.is_file():
                return candidate
        raise OpenQwQError(
            f"{path} does not exist: put {file.repo}'s {file.path} there, or leave --data out to"
            " fetch it from the hub"
        )


def _from_hub(file: DataFile) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError:
        raise OpenQwQError(
            "fetching benchmarks needs huggingface_hub: pip install 'openqwq[eval]', or give --data"
        ) from None
    # Its retries are no news: the error below says all.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    where = f"{file.path} of dataset {file.repo} at {file.revision}"
    try:
        return Path(
            hf_hub_download(file.repo, file.path, repo_type="dataset", revision=file.revision)
        )
    except LocalEntryNotFoundError as error:
        raise OpenQwQError(
            f"{where} is not in the cache and the hub cannot be reached: connect once, or give"
            f" --data DIR with {file.local}"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise OpenQwQError(f"cannot fetch {where} ({error}): give --data DIR instead") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read(path: Path) -> Iterator[Row]:
    if path.suffix == ".parquet":
        try:
            from pyarrow import parquet
        except ImportError:
            raise OpenQwQError(
                f"reading {path} needs pyarrow: pip install 'openqwq[eval]', or give --data"
            ) from None
        yield from parquet.read_table(path).to_pylist()
        return
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())
