"""What a run needs before its directory is made: every table opened, every name resolved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from openqwq.config import Config, DistillStage, RewardModelStage, RlStage, SftStage, Stage
from openqwq.data.hub import DataLock
from openqwq.data.user_code import is_reference, load_object
from openqwq.engine import hub
from openqwq.tasks.rows import RowTable
from openqwq.tasks.table import DataTable
from openqwq.tasks.tables import open_tables
from openqwq.train.benchmark_tables import BenchmarkTable, benchmark_tables
from openqwq.train.evaluation_checks import (
    check_epochs,
    check_evaluation,
    check_keeps_best,
)
from openqwq.train.judges import (
    VERIFIERS_PACKAGE,
    check_environment,
    check_judge,
    environment_options,
    make_environment,
)
from openqwq.train.own_environments import own_tasks
from openqwq.train.rewards import VERIFIER, judges_used
from openqwq.train.teachers import is_endpoint, open_endpoint
from openqwq.train.trackers import check_trackers
from openqwq.types import OpenQwQError, Task

START, PREVIOUS, BEST = "start", "previous", ":best"
REWARD_MODEL, LANGUAGE_MODEL = "stage:", "model:"


@dataclass(frozen=True)
class Prepared:
    """A config whose every name stands for something, with its tables open."""

    config: Config
    tables: Mapping[str, DataTable]

    def of(self, stage: Stage) -> dict[str, DataTable]:
        """The tables of a stage."""
        return {name: self.tables[name] for name in stage.data}

    def first_task(self, name: str) -> Task | None:
        """The first training task of a table; None where it holds preference pairs alone."""
        table = self.tables[name]
        if table.size == 0:
            return None
        return table.draw(0, f"{self.config.seed}/first/{name}")

    def tasks_to_judge(self, name: str) -> Sequence[Task]:
        """Tasks of a table that name every judge it needs: rows may each have another."""
        table = self.tables[name]
        if isinstance(table, RowTable):
            return [row.task for row in (*table.rows, *table.held_out_rows)]
        if isinstance(table, BenchmarkTable):
            return table.items
        first = self.first_task(name)
        trained = [] if first is None else [first]
        return [*trained, *table.held_out(1, self.config.evaluation.seed)]


def check_names_of_tables(config: Config) -> None:
    """Raise OpenQwQError for a name in a table that stands for nothing."""
    for name, table in config.data.items():
        if table.verifier:
            check_judge(table.verifier, f"data.{name}.verifier")
        if table.environment not in ("", "none"):
            check_environment(table.environment, f"data.{name}.environment")
        if table.environment.startswith(VERIFIERS_PACKAGE) and (table.rows or table.source):
            raise OpenQwQError(
                f"data.{name} has an origin next to {table.environment}, which brings its own "
                "tasks: leave rows and source out"
            )
        if is_reference(table.source):
            load_object(table.source)


def prepare(config: Config, lock: DataLock, skip_bad_rows: bool = False) -> Prepared:
    """Open the tables of `config` and resolve its names.

    Raises OpenQwQError for the first thing that would stop the run later: a name that stands for
    nothing, a table that cannot be drawn from, a stage whose data it cannot use.
    """
    check_trackers(config.trackers)
    check_names_of_tables(config)
    earlier: list[Stage] = []
    for stage in config.stages:
        _check_names(config, stage, earlier)
        earlier.append(stage)

    for table in config.data.values():
        if is_reference(table.environment):
            make_environment(table.environment, environment_options(table))
    tables = open_tables(config, lock, skip_bad_rows=skip_bad_rows, own_tasks=own_tasks)
    prepared = Prepared(config, {**tables, **benchmark_tables(config)})
    for stage in config.stages:
        for name in stage.data:
            _check_usable(prepared, stage, name)
        check_epochs(config, prepared.tables, stage)
        check_evaluation(config, prepared.tables, stage)
        _check_best(prepared, stage)
    return prepared


def _check_names(config: Config, stage: Stage, earlier: Sequence[Stage]) -> None:
    path = f"stages.{stage.name}"
    _check_origin(stage.from_, f"{path}.from", config, earlier)
    if stage.lora == "continue" and not config.model and not earlier:
        raise OpenQwQError(
            f"{path}.lora is 'continue', but no adapter was made before: give a rank"
        )
    _check_lora(config, stage)
    if isinstance(stage, RlStage):
        for use in judges_used(stage):
            _check_use(use, f"{path}.rewards", earlier)
        if stage.reference != START:
            _check_origin(stage.reference, f"{path}.reference", config, earlier)
    if isinstance(stage, DistillStage):
        _check_teacher(config, stage, earlier)


def _check_teacher(config: Config, stage: DistillStage, earlier: Sequence[Stage]) -> None:
    path = f"stages.{stage.name}"
    if not stage.teacher:
        raise OpenQwQError(
            f"{path}.teacher is empty: name a checkpoint, an earlier stage or an endpoint"
        )
    if not is_endpoint(stage.teacher):
        _check_origin(stage.teacher, f"{path}.teacher", config, earlier)
        return
    if stage.temperature != 1.0:
        raise OpenQwQError(
            f"{path}.temperature is {stage.temperature} with the endpoint {stage.teacher} as "
            "teacher, whose log-probs are those of temperature 1: leave temperature out, or name a "
            "checkpoint as teacher"
        )
    try:
        open_endpoint(stage)
    except OpenQwQError as error:
        raise OpenQwQError(f"{path}.teacher: {error}") from error


def _check_lora(config: Config, stage: Stage) -> None:
    """Where adapters cannot be trained."""
    path = f"stages.{stage.name}"
    if stage.lora is None:
        return
    if config.deterministic:
        raise OpenQwQError(
            f"{path}.lora with deterministic = true: train whole weights there"
        )
    if isinstance(stage, RewardModelStage):
        raise OpenQwQError(f"{path}.lora: a reward model is trained whole; leave lora out")


def _check_over_sampling(config: Config, stage: RlStage, task: Task | None) -> None:
    """What is left unfinished can be taken up in one process, in a single reply."""
    path = f"stages.{stage.name}.over_sampling"
    if config.cluster.learners:
        raise OpenQwQError(
            f"{path} with cluster.learners {config.cluster.learners}: on a cluster a step need not "
            'wait with cluster.mode = "asynchronous"'
        )
    if task is not None and task.environment:
        raise OpenQwQError(
            f"{path} with the table {task.kind!r}, which the environment {task.environment!r} "
            "answers: replies that are over-sampled are single turns; leave the table or the key "
            "out"
        )


def _check_origin(origin: str, path: str, config: Config, earlier: Sequence[Stage]) -> None:
    """A `from` names an earlier stage that made a policy, a checkpoint on disk or on the hub."""
    name = origin.removesuffix(BEST)
    policies = [stage.name for stage in earlier if not isinstance(stage, RewardModelStage)]
    if origin in (PREVIOUS, START) or name in policies or Path(origin).exists():
        return
    of_another_run = Path(f"{name}.best")
    if origin.endswith(BEST) and of_another_run.is_absolute() and of_another_run.exists():
        return
    if hub.is_hub_id(origin):
        try:
            hub.download(origin, weights=False)
        except OpenQwQError as error:
            raise OpenQwQError(f"{path}: {error}") from error
        return
    known = ", ".join([PREVIOUS, START, *policies])
    raise OpenQwQError(
        f"{path} is {origin!r}: it must be one of {known}, STAGE:best, a path or a hub id"
    )


def _check_best(prepared: Prepared, stage: Stage) -> None:
    """Whether every `STAGE:best` that a stage names will be there."""
    origins = {"from": stage.from_}
    if isinstance(stage, RlStage):
        origins["reference"] = stage.reference
    if isinstance(stage, DistillStage):
        origins["teacher"] = stage.teacher
    stages = {each.name: each for each in prepared.config.stages}
    for key, origin in origins.items():
        name = origin.removesuffix(BEST)
        if origin.endswith(BEST) and name in stages:
            path = f"stages.{stage.name}.{key}"
            check_keeps_best(prepared.config, prepared.tables, stages[name], path)


def _check_use(use: str, path: str, earlier: Sequence[Stage]) -> None:
    if use.startswith(REWARD_MODEL):
        models = [stage.name for stage in earlier if isinstance(stage, RewardModelStage)]
        if use.removeprefix(REWARD_MODEL) not in models:
            raise OpenQwQError(
                f"{path} uses {use!r}, but no reward_model stage of that name comes before: there "
                f"are {', '.join(models) or 'none'}"
            )
    elif not use.startswith(LANGUAGE_MODEL):
        check_judge(use, path)


def _check_usable(prepared: Prepared, stage: Stage, name: str) -> None:
    """Whether a stage can train on a table at all, by the table's first task."""
    table = prepared.tables[name]
    path = f"stages.{stage.name}.data"
    if isinstance(stage, RewardModelStage):
        if stage.pairs is None and not table.pairs:
            raise OpenQwQError(
                f"{path} names {name!r}, which has no chosen and rejected answers: give such rows, "
                "or let the policy answer its tasks with stages.NAME.pairs"
            )
        if stage.pairs is None:
            return

    task = prepared.first_task(name)
    if task is None and not table.pairs:
        raise OpenQwQError(
            f"{path} names {name!r}, which has no row left to train on: hold out a smaller share"
        )
    if task is None:
        raise OpenQwQError(
            f"{path} names {name!r}, which holds preference pairs: they are for reward_model stages"
        )
    if isinstance(stage, SftStage):
        _check_imitable(stage, task, f"{path} names {name!r}")
    if isinstance(stage, RlStage):
        if stage.over_sampling:
            _check_over_sampling(prepared.config, stage, task)
        terms = stage.rewards_of.get(name, stage.rewards)
        needs_verdict = any(term.use == VERIFIER and term.weight for term in terms)
        if needs_verdict and not task.verifier and not task.environment:
            raise OpenQwQError(
                f"{path} names {name!r}, which has no verifier ({task.id} has no answer, tests or "
                f"rules): set data.{name}.answer or data.{name}.verifier, or leave `verifier` out "
                f"of stages.{stage.name}.rewards_of.{name}"
            )


def _check_imitable(stage: SftStage, task: Task, where: str) -> None:
    """Whether an SFT stage can imitate what a table's first task holds."""
    if task.solution is None and not task.demonstration:
        raise OpenQwQError(
            f"{where}, whose rows have no reply to imitate ({task.id}): give rows with messages, "
            "or data.NAME.solution"
        )
    if stage.thinking_budgets and task.demonstration:
        raise OpenQwQError(
            f"{where}, whose rows are recorded conversations ({task.id}), and "
            f"stages.{stage.name}.thinking_budgets cut worked solutions alone: give those rows a "
            "stage of their own, or leave thinking_budgets out"
        )


def sample_tasks(prepared: Prepared, count: int = 500) -> list[Task]:
    """Up to `count` tasks of every table, to measure prompts by: of rows, the longest."""
    tasks: list[Task] = []
    for name, table in prepared.tables.items():
        if table.size == 0:
            tasks += table.held_out(count, prepared.config.evaluation.seed)
            continue
        if isinstance(table, RowTable):
            rows = [row.task for row in table.rows]
            tasks += sorted(rows, key=_characters, reverse=True)[:count]
            continue
        size = count if table.size is None else min(count, table.size)
        for number in islice(range(size), count):
            tasks.append(table.draw(number, f"{prepared.config.seed}/lengths/{name}"))
    return tasks


def _characters(task: Task) -> int:
    return sum(len(message["content"]) for message in task.messages)
