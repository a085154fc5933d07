"""Where benchmarks come from: pinned files of the Hugging Face hub, or a directory of the same."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from openqwq.data.files import sha256_of
from openqwq.data.hub import HubFile, fetch
from openqwq.data.rows import Row, read_rows
from openqwq.types import OpenQwQError


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
        found = sha256_of(path)
        if expected and found != expected and not self.allow_changed:
            raise OpenQwQError(
                f"{path} has sha256 {found}, expected {expected}: get the file again, or take it as"
                " it is with --allow-changed-data"
            )
        self.hashes[file.local] = found
        yield from read_rows(path)

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
        return fetch(HubFile(file.repo, file.path, file.revision))
    except OpenQwQError as error:
        raise OpenQwQError(
            f"{error}; or keep it as DIR/{file.local} (--data DIR of qwq eval, --benchmarks DIR of "
            "qwq data, benchmark_data of [evaluation])"
        ) from error
