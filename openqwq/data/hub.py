"""Files of the Hugging Face hub, and the lock that ties a run to the bytes it began with."""

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from openqwq.data.files import sha256_of, write_atomically
from openqwq.types import OpenQwQError

SCHEME = "hf://"
_REFERENCE = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?/([^/].*)")


@dataclass(frozen=True)
class HubFile:
    """A file of a dataset repository at a revision (a branch, a tag or a commit)."""

    repository: str
    path: str
    revision: str = "main"


def parse_reference(reference: str) -> HubFile:
    """The file that `hf://datasets/OWNER/NAME@REVISION/path` names; the revision may be left out.

    A `/` within a revision is written `%2F`. Raises OpenQwQError for any other form.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise OpenQwQError(
            f"{reference} does not name a file of the hub: write "
            "hf://datasets/OWNER/NAME@REVISION/path (@REVISION may be left out), or download it"
        )
    repository, revision, path = match.groups()
    return HubFile(repository, path, unquote(revision) if revision else "main")


def fetch(file: HubFile) -> Path:
    """The file on this disk: from the hub's cache, else downloaded; raises as `from_hub` does."""
    return from_hub(
        f"{file.path} of the dataset {file.repository} at {file.revision}",
        f"datasets/{file.repository}/tree/{file.revision}",
        "data",
        lambda client: client.hf_hub_download(
            file.repository, file.path, repo_type="dataset", revision=file.revision
        ),
    )


def from_hub(what: str, page: str, extra: str, download: Callable[[Any], str]) -> Path:
    """The path that `download` returns, which is given the module huggingface_hub.

    `what` names what is fetched and `page` where the hub shows it. Raises OpenQwQError where the
    client is missing (the package's `extra` installs it), where the hub cannot be reached and the
    cache has no copy, and for what the hub does not have or does not give.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise OpenQwQError(
            f"fetching {what} needs huggingface_hub ({error}): pip install 'openqwq[{extra}]', or "
            "name a local copy"
        ) from error

    # Its retries are not worth a line each: the error below says what happened.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return Path(download(huggingface_hub))
    except errors.GatedRepoError as error:
        raise OpenQwQError(
            f"{what} is gated: accept its terms on the hub and run `hf auth login`"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise OpenQwQError(
            f"{what} is not in the hub's cache, and the hub cannot be reached (offline): connect "
            "once, or name a local copy"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise OpenQwQError(
            f"the hub does not have {what}: check its name; if it is private, run `hf auth login`"
        ) from error
    except (errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
        raise OpenQwQError(
            f"the hub does not have {what}: see https://huggingface.co/{page}"
        ) from error
    except Exception as error:  # which transport library fails depends on the release
        raise OpenQwQError(
            f"the download of {what} failed ({error}): try again, it resumes where it stopped, or "
            "name a local copy"
        ) from error


@dataclass(frozen=True)
class LockedFile:
    """What a reference stood for: the file's hash and, for a file of the hub, its commit."""

    sha256: str
    commit: str = ""


@dataclass
class DataLock:
    """The files that a run reads; once a reference is in it, its bytes may not change.

    `file` is where it is saved (RUN/data.lock); None keeps it in memory.
    """

    file: Path | None = None
    files: dict[str, LockedFile] = field(default_factory=dict)
    # found and hashed in this process
    _known: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def load(cls, file: Path) -> "DataLock":
        """The lock that was saved in `file`, empty if there is none; OpenQwQError if damaged."""
        if not file.exists():
            return cls(file)
        try:
            saved = json.loads(file.read_text("utf-8"))
            files = {name: LockedFile(**entry) for name, entry in saved.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise OpenQwQError(
                f"{file} is damaged ({error}): restore it, or remove it to take the data as it is "
                "now"
            ) from error
        return cls(file, files=files)

    def save(self) -> None:
        """Write the lock to `file`."""
        if self.file is not None:
            plain: Mapping[str, object] = {
                k: asdict(v) for k, v in sorted(self.files.items())
            }
            write_atomically(self.file, (json.dumps(plain, indent=1) + "\n").encode())

    def path(self, reference: str) -> Path:
        """The file of a path or an `hf://` reference, locked from now on.

        Raises OpenQwQError where it is missing, or other bytes than the locked ones.
        """
        if reference in self._known:
            return self._known[reference]
        locked = self.files.get(reference)
        if "://" in reference:
            path, commit = self._fetched(reference, locked)
        else:
            path = Path(reference).expanduser()
            commit = ""
            if not path.is_file():
                return path  # the reader says what is wrong with it
        digest = sha256_of(path)
        if locked is not None and locked.sha256 != digest:
            raise OpenQwQError(
                f"{reference} has changed since the run began (sha256 {digest}, then "
                f"{locked.sha256}): restore the file, or begin a new run"
            )
        self.files[reference] = LockedFile(digest, commit)
        self._known[reference] = path
        return path

    def _fetched(self, reference: str, locked: LockedFile | None) -> tuple[Path, str]:
        """The hub's file at the locked commit, or at what its revision means today."""
        wanted = parse_reference(reference)
        if locked is not None and locked.commit:
            wanted = HubFile(wanted.repository, wanted.path, locked.commit)
        path = fetch(wanted)
        return path, commit_of(path) or wanted.revision


def commit_of(path: Path) -> str:
    """The commit of a file in the hub's cache (`snapshots/COMMIT/path`); "" elsewhere."""
    folders = path.parts
    if "snapshots" not in folders:
        return ""
    place = len(folders) - 1 - folders[::-1].index("snapshots")
    return folders[place + 1]
