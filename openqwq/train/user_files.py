"""The user's own Python in a run: copied, tied to the run by its hash, ready for other nodes."""

import json
from pathlib import Path

from openqwq.config import Config, RlStage
from openqwq.data.files import sha256_of, write_atomically
from openqwq.data.user_code import file_of
from openqwq.train.rewards import judges_used
from openqwq.types import OpenQwQError

FOLDER = "python"
HASHES = "sha256.json"


def code_files(config: Config) -> list[Path]:
    """Every file that a config names as `file.py:name`."""
    references: list[str] = []
    for table in config.data.values():
        references += [table.source, table.environment, table.verifier]
    for stage in config.stages:
        if isinstance(stage, RlStage):
            references += judges_used(stage)
    files: dict[Path, None] = {}
    for reference in references:
        file = file_of(reference)
        if file is not None:
            files[file] = None
    return list(files)


def keep_code(config: Config, run: Path) -> None:
    """Copy the files to RUN/python, with their hashes.

    Raises OpenQwQError for two files of one name, and for one that has changed since the run
    began.
    """
    folder = run / FOLDER
    known = _known(folder)
    hashes: dict[str, str] = {}
    for file in code_files(config):
        digest = sha256_of(file)
        if file.name in hashes:
            raise OpenQwQError(f"two files are named {file.name}: rename {file}")
        if known.get(file.name, digest) != digest:
            raise OpenQwQError(
                f"{file} has changed since the run began: restore it ({folder / file.name} is the "
                "file as it was), or begin a new run"
            )
        hashes[file.name] = digest
        if file.name not in known:
            write_atomically(folder / file.name, file.read_bytes())
    if hashes != known and hashes:
        write_atomically(
            folder / HASHES, json.dumps({**known, **hashes}, indent=1).encode()
        )


def _known(folder: Path) -> dict[str, str]:
    path = folder / HASHES
    return dict(json.loads(path.read_text())) if path.exists() else {}
