"""`qwq rollouts`: every attempt of a run's RL stages, as one page to read or as JSON lines."""

import argparse
import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from openqwq.data.files import write_atomically
from openqwq.types import OpenQwQError, ScoreStatus

PAGE_ATTEMPTS = 4000  # on one page; a browser stays quick with them
FOLDER = "rollouts"


@dataclass(frozen=True)
class Filter:
    """Which attempts are wanted; None and empty mean all."""

    stage: str = ""
    kind: str = ""
    status: str = ""
    task: str = ""
    first: int | None = None  # step
    last: int | None = None

    def takes(self, row: dict[str, Any]) -> bool:
        """Whether an attempt is wanted."""
        wanted = {"kind": self.kind, "status": self.status, "task": self.task}
        for key, value in wanted.items():
            if value and row[key] != value:
                return False
        if self.first is not None and row["step"] < self.first:
            return False
        return self.last is None or row["step"] <= self.last


@dataclass(frozen=True)
class ShownAttempts:
    """The attempts of a page: all that were found, or every n-th group of them."""

    rows: list[dict[str, Any]]
    found: int
    one_in: int  # 1: all groups are shown


def read_attempts(run: Path, wanted: Filter) -> Iterator[dict[str, Any]]:
    """The attempts of a run in the order of its steps, each with its `stage`.

    Raises OpenQwQError for a directory without rollouts, an unknown stage, or a damaged line.
    """
    folder = run / FOLDER
    files = sorted(folder.glob("*.jsonl"), key=lambda file: file.stat().st_mtime)
    names = [file.stem for file in files]
    if not files:
        raise OpenQwQError(
            f"{run} has no rollouts yet: name a run directory whose RL stage has begun"
        )
    if wanted.stage and wanted.stage not in names:
        known = ", ".join(names)
        raise OpenQwQError(f"{run} has no rollouts of {wanted.stage!r}: there are {known}")
    statuses = get_args(ScoreStatus)
    if wanted.status and wanted.status not in statuses:
        known = ", ".join(statuses)
        raise OpenQwQError(f"--status is {wanted.status!r}: it must be one of {known}")
    for file in files:
        if wanted.stage not in ("", file.stem):
            continue
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row: dict[str, Any] = {"stage": file.stem, **json.loads(line)}
                except ValueError as error:
                    if not line.endswith("\n"):
                        break  # cut by a kill; a resumed run writes it again
                    where = f"{file}:{number}"
                    raise OpenQwQError(
                        f"{where} is damaged ({error}): remove it"
                    ) from error
                if wanted.takes(row):
                    yield row


def selected(rows: Sequence[dict[str, Any]], limit: int = PAGE_ATTEMPTS) -> ShownAttempts:
    """At most about `limit` attempts: whole groups, evenly over the run."""
    one_in = max(1, -(-len(rows) // limit))
    groups = list(dict.fromkeys((row["stage"], row["group"]) for row in rows))
    kept = set(groups[::one_in])
    shown = [row for row in rows if (row["stage"], row["group"]) in kept]
    return ShownAttempts(shown, len(rows), one_in)


def write_page(run: Path, wanted: Filter, target: Path) -> int:
    """Write the page; returns how many attempts it shows."""
    import jinja2

    chosen = selected(list(read_attempts(run, wanted)))
    folder = Path(__file__).parent
    script = (folder / "rollouts.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # `<` is escaped so that no text of a model can end the element that holds it.
    data = json.dumps(chosen.rows).replace("<", "\\u003c")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
    )
    html = environment.get_template("rollouts.html.jinja").render(
        name=run.resolve().name,
        chosen=chosen,
        wanted={
            key: value for key, value in asdict(wanted).items() if value not in ("", None)
        },
        data=data,
        script=script,
        digest=digest,
    )
    write_atomically(target, html.encode(errors="replace"))
    return len(chosen.rows)


def add_rollouts_verb(parser: argparse.ArgumentParser) -> None:
    """The arguments of `qwq rollouts`."""
    parser.add_argument("run", type=Path, help="the directory of a run")
    parser.add_argument("--stage", default="", help="only this stage")
    parser.add_argument("--data", default="", metavar="NAME", help="only this table")
    parser.add_argument(
        "--status",
        default="",
        help="only this status: correct, wrong, truncated, error, ...",
    )
    parser.add_argument(
        "--task", default="", metavar="ID", help="only this prompt, all through training"
    )
    parser.add_argument("--steps", type=int, nargs=2, metavar=("FIRST", "LAST"))
    parser.add_argument(
        "--json", action="store_true", help="print JSON lines instead of writing a page"
    )
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="where to write the page (default: RUN/rollouts.html)",
    )
    parser.set_defaults(verb=rollouts_verb)


def rollouts_verb(options: argparse.Namespace) -> None:
    """`qwq rollouts`: a page of attempts, or their JSON."""
    first, last = options.steps or (None, None)
    wanted = Filter(options.stage, options.data, options.status, options.task, first, last)
    if options.json:
        for row in read_attempts(options.run, wanted):
            print(json.dumps(row))
        return
    target = options.html or options.run / "rollouts.html"
    count = write_page(options.run, wanted, target)
    print(f"Rollouts:    {target} ({count:,} attempts)")
