"""The start of a run: everything resolved first, then its directory."""

import asyncio
import sys
from pathlib import Path

from openqwq.config import Config
from openqwq.data.hub import DataLock
from openqwq.evaluation.progress import Display
from openqwq.train.lengths import fit_rows, skipped_rows
from openqwq.train.placement import Placement
from openqwq.train.prepare import Prepared, prepare
from openqwq.train.run import LOCK, Run
from openqwq.train.stages import run_stages
from openqwq.train.user_files import keep_code
from openqwq.types import OpenQwQError


def start_run(
    directory: Path, config: Config, resume: bool, skip_bad_rows: bool = False
) -> tuple[Run, Prepared]:
    """Open the tables of a config, resolve its names, and only then make or take up a directory.

    Raises OpenQwQError for whatever would stop the run later, with the directory left as it was.
    """
    if directory.exists() and not directory.is_dir():
        raise OpenQwQError(
            f"{directory} is a file: name a directory for the run with --out"
        )
    path = directory / LOCK
    lock = DataLock.load(path) if resume else DataLock()
    prepared = fit_rows(prepare(config, lock, skip_bad_rows), skip_bad_rows)
    for row in skipped_rows(prepared):
        print(row, file=sys.stderr)
    run = Run(directory, config, resume)
    keep_code(config, directory)
    lock.file = path
    lock.save()
    return run, prepared


def run_config(
    directory: Path,
    config: Config,
    resume: bool = False,
    placement: Placement | None = None,
) -> Run:
    """All stages of a config in `directory`, from start to end; the run, closed."""
    run, prepared = start_run(directory, config, resume)
    try:
        asyncio.run(run_stages(run, prepared, Display(), placement))
    finally:
        run.close()
    return run
