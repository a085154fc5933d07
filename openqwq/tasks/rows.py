"""A `[data.NAME]` table over files of rows: tasks and pairs to train on, and those held out."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from openqwq.config import DataConfig
from openqwq.data.hub import DataLock
from openqwq.data.rows import text_rows
from openqwq.tasks.columns import is_object
from openqwq.tasks.formats import Reading, RowReader
from openqwq.tasks.table import permuted
from openqwq.tasks.templates import RowError
from openqwq.types import OpenQwQError, Pair, Rule, Task
from openqwq.verify.toolcalls import TOOL_CALLS, RightCalls, require_right_calls

Item = TypeVar("Item")
# What a task needs so that a judge of this name can work.
NEEDED = {"math": "answer", "code": "tests", "instructions": "rules"}


@dataclass(frozen=True)
class RowPlace:
    """Where a row stands: its file as the config names it, and its number."""

    file: str
    number: int

    def __str__(self) -> str:
        """As errors name it."""
        return f"{self.file} row {self.number}"


@dataclass(frozen=True)
class SkippedRow:
    """A row that was left out because it could not be used, and why."""

    place: RowPlace
    reason: str

    def __str__(self) -> str:
        """As errors and reports name it."""
        return f"{self.place}, {self.reason}"


@dataclass(frozen=True)
class UsableRow:
    """A row as a task, and as a pair where it states a preference."""

    place: RowPlace
    problem: str  # equal for rows that ask the same
    task: Task
    pair: Pair | None


@dataclass(frozen=True)
class RowTable:
    """The rows of a table, which are tasks, pairs, or both; see `DataTable`.

    `rows` are trained on, `held_out_rows` never; `skipped` could not be used, and `beyond_limit`
    rows more were not asked for. `read` counts all that the training file holds.
    """

    name: str
    rows: Sequence[UsableRow]
    held_out_rows: Sequence[UsableRow]
    skipped: Sequence[SkippedRow] = ()
    beyond_limit: int = 0
    read: int = 0

    @property
    def size(self) -> int:
        """How many rows are trained on."""
        return len(self.rows)

    def draw(
        self, number: int, seed: str, thinking_share: float = 1.0, tool_share: float = 1.0
    ) -> Task:
        """See `DataTable.draw`; rows are learned as they are written, whatever the shares."""
        if not self.rows:
            raise OpenQwQError(
                f"data.{self.name} has no rows to train on: all of them are held out, or limit is 0"
            )
        return self.rows[permuted(len(self.rows), number, seed)].task

    def held_out(self, limit: int, seed: int) -> list[Task]:
        """The first `limit` held-out rows: of a file in its order, of a share by their hashes."""
        return [row.task for row in self.held_out_rows[:limit]]

    @property
    def pairs(self) -> Sequence[Pair]:
        """See `DataTable.pairs`; the prompts of pairs are tasks as well."""
        return [row.pair for row in self.rows if row.pair is not None]

    @property
    def held_out_pairs(self) -> Sequence[Pair]:
        """See `DataTable.held_out_pairs`."""
        return [row.pair for row in self.held_out_rows if row.pair is not None]

    def only_held_out(self) -> "RowTable":
        """The table for evaluation alone: where nothing was held out, all rows are."""
        held_out = self.held_out_rows or self.rows
        return replace(self, rows=(), held_out_rows=held_out)


def open_rows(
    name: str, config: DataConfig, lock: DataLock, *, skip_bad_rows: bool = False
) -> RowTable:
    """The table `name`, all of its rows read and checked.

    A row that cannot be used, has another row's id or equals a held-out row stops the run, or
    with `skip_bad_rows` is left out and listed. Raises OpenQwQError naming table, file, row and
    field.
    """
    opener = _Opener(name, config, lock)
    rows = opener.read(config.rows)
    held_out: list[UsableRow] = []
    if isinstance(config.held_out, str):
        held_out = opener.read(config.held_out)
        rows = opener.without_held_out(rows, held_out)
    if opener.skipped and not skip_bad_rows:
        raise OpenQwQError(
            f"data.{name}: {opener.skipped[0]}{_and_more(len(opener.skipped) - 1)}; or leave such "
            "rows out with --skip-bad-rows"
        )
    if not rows and not held_out:
        advice = ": give it some"
        if opener.skipped:
            advice = f"; the first of them: {opener.skipped[0]}"
        raise OpenQwQError(
            f"data.{name}: {config.rows} has no rows that can be used{advice}"
        )

    if isinstance(config.held_out, float):
        held_out, rows = split_by_hash(rows, config.held_out, _problem)
        if not held_out:
            raise OpenQwQError(
                f"data.{name}.held_out is {config.held_out}, which is none of the {len(rows)} "
                f"rows of {config.rows}: hold out a larger share, or a file"
            )
    kept = rows[: config.limit]
    beyond = len(rows) - len(kept)
    return RowTable(
        name, kept, held_out, tuple(opener.skipped), beyond, opener.counts[config.rows]
    )


def require_apart(trained: Iterable[RowTable], held_out: Iterable[RowTable]) -> None:
    """Raise OpenQwQError if a row that one table trains on is held out by another."""
    kept: dict[str, tuple[str, RowPlace]] = {}
    for table in held_out:
        for row in table.held_out_rows:
            kept.setdefault(row.problem, (table.name, row.place))
    for table in trained:
        for row in table.rows:
            if row.problem in kept:
                other, place = kept[row.problem]
                raise OpenQwQError(
                    f"data.{table.name} would train on {row.place}, which data.{other} holds "
                    f"out ({place}): hold it out of both, or of neither"
                )


class _Opener:
    """Reads the files of one table and collects the rows that cannot be used."""

    def __init__(self, name: str, config: DataConfig, lock: DataLock) -> None:
        self.name = name
        self.config = config
        self.lock = lock
        self.reader = RowReader(name, config)
        self.skipped: list[SkippedRow] = []
        self.counts: Counter[str] = Counter()  # rows of each file

    def read(self, reference: str) -> list[UsableRow]:
        """The usable rows of a file."""
        path = self.lock.path(reference)
        shown = Path(reference).name if "://" not in reference else reference
        prefix = "" if reference == self.config.rows else "held_out-"
        ids: dict[str, RowPlace] = {}
        usable: list[UsableRow] = []
        first: tuple[RowPlace, Reading] | None = None
        for number, row in text_rows(path):
            place = RowPlace(shown, number)
            self.counts[reference] += 1
            try:
                reading = self.reader.read(row)
                first = first or (place, reading)
                _require_alike(place, reading, first)
                identity = reading.identity or f"{prefix}{number}"
                if identity in ids:
                    raise RowError(
                        "id",
                        f"{identity!r} is also that of row {ids[identity].number}: ids differ",
                    )
                ids[identity] = place
                usable.append(self._usable(place, identity, reading, row))
            except RowError as error:
                self.skipped.append(SkippedRow(place, str(error)))
        return usable

    def without_held_out(
        self, rows: Sequence[UsableRow], held_out: Sequence[UsableRow]
    ) -> list[UsableRow]:
        """The training rows that are not held-out rows; the others are not used."""
        kept = {row.problem: row.place for row in held_out}
        apart: list[UsableRow] = []
        for row in rows:
            if row.problem in kept:
                twin = kept[row.problem]
                reason = f"held_out: it asks the same as the held-out {twin}: remove one"
                self.skipped.append(SkippedRow(row.place, reason))
            else:
                apart.append(row)
        return apart

    def _usable(
        self, place: RowPlace, identity: str, reading: Reading, row: Mapping[str, Any]
    ) -> UsableRow:
        verifier = self.config.verifier or reading.judge
        if (
            not self.config.verifier
            and verifier == "math"
            and is_object(reading.answer or "")
        ):
            verifier = ""  # rules or tests of an unknown form
        needed = NEEDED.get(verifier)
        if needed is not None and not getattr(reading, needed):
            raise RowError(
                needed,
                f"the verifier {verifier!r} needs it, and the row has none: set "
                f"data.{self.name}.{needed}, or another verifier",
            )
        if verifier == "instructions":
            _require_known(reading.rules)
        right_calls: RightCalls | None = None
        if verifier.startswith(TOOL_CALLS):
            right_calls = _right_calls(reading.answer or "", reading.tools)
        environment = "" if self.config.environment == "none" else self.config.environment
        task = Task(
            id=f"{self.name}:{identity}",
            kind=self.name,
            messages=reading.prompt,
            verifier=verifier,
            environment=environment,
            answer=reading.answer,
            reference=right_calls,
            tests=reading.tests,
            rules=reading.rules,
            tools=reading.tools,
            solution=reading.solution,
            demonstration=reading.demonstration,
            row=row,
        )
        pair = Pair(reading.chosen, reading.rejected) if reading.chosen else None
        return UsableRow(place, reading.problem, task, pair)


def _require_known(rules: Sequence[Rule]) -> None:
    """Raise RowError for a rule that the verifier does not know."""
    from openqwq.verify.instructions import known_rule  # loads langdetect

    for rule in rules:
        try:
            known_rule(rule.id, rule.arguments)
        except OpenQwQError as error:
            raise RowError("rules", f"{error}, or name a verifier of yours") from error


def _right_calls(answer: str, tools: Sequence[Mapping[str, Any]]) -> RightCalls:
    try:
        right = RightCalls.read(answer)
        require_right_calls([tool["function"] for tool in tools], right.calls)
    except ValueError as error:
        raise RowError(
            "answer",
            f"the right calls are not JSON ({error}): list {{function: {{argument: [values]}}}}",
        ) from error
    except OpenQwQError as error:
        raise RowError("answer", f"{error}: correct the answer or the tools") from error
    return right


def _require_alike(
    place: RowPlace, reading: Reading, first: tuple[RowPlace, Reading]
) -> None:
    """All rows of a file have one format, and all or none can be judged or imitated."""
    first_place, like = first
    if reading.form != like.form:
        raise RowError(
            "format",
            f"its format is {reading.form!r}, that of {first_place} {like.form!r}: put them into "
            "two tables",
        )
    for what, here, there in (
        ("answer, tests or rules", bool(reading.judge), bool(like.judge)),
        ("recorded reply", bool(reading.demonstration), bool(like.demonstration)),
    ):
        if here != there:
            has = "has" if here else "has no"
            raise RowError(
                "format",
                f"it {has} {what}, unlike {first_place}: complete the row, or put such rows into "
                "another table",
            )


def split_by_hash(
    items: Sequence[Item], share: float, problem: Callable[[Item], str]
) -> tuple[list[Item], list[Item]]:
    """The `share` of `items` to hold out, in the order of their hashes, and the others.

    `problem` says what is asked, which alone decides on which side an item falls.
    """
    held_out: list[tuple[float, Item]] = []
    others: list[Item] = []
    for item in items:
        place = _hash(problem(item))
        if place < share:
            held_out.append((place, item))
        else:
            others.append(item)
    held_out.sort(key=itemgetter(0))
    return [item for _, item in held_out], others


def _and_more(count: int) -> str:
    """That `count` rows more are like the one that was named."""
    if not count:
        return ""
    return f" ({count} more {'row' if count == 1 else 'rows'} cannot be used)"


def _problem(row: UsableRow) -> str:
    return row.problem


def _hash(problem: str) -> float:
    """A number from 0 to 1 that only `problem` decides."""
    digest = hashlib.sha256(problem.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
