"""Held-out accuracy of a policy: before the first stage, while a stage runs, and after each."""

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean
from typing import Any, TypeVar

from openqwq.config import Config, RlStage, Stage
from openqwq.data.files import write_atomically
from openqwq.evaluation.evaluate import Outcome, marked
from openqwq.evaluation.progress import Progress
from openqwq.tasks.table import DataTable
from openqwq.train.episodes import Attempt
from openqwq.train.rollouts import Prompt, RolloutRunner
from openqwq.train.run import Run
from openqwq.types import SamplingParams, Task

DEFAULT_MAX_TOKENS = 1024
MEAN = "mean"  # over tables
Value = TypeVar("Value", int, float)


@dataclass(frozen=True)
class Settings:
    """How one evaluation asks, with every default filled in."""

    tables: tuple[str, ...]
    limit: int
    samples: int
    temperature: float
    max_tokens: int
    seed: int


def settings_of(config: Config, tables: Mapping[str, DataTable], stage: Stage) -> Settings:
    """The evaluation of `stage`; what the run begins with is evaluated as its first stage is."""
    common = config.evaluation
    own = stage.evaluate
    if own.data is not None:
        named: Sequence[str] = own.data
    else:
        named = common.data or _staged(config, tables)
    names = dict.fromkeys([*named, *own.also, *own.benchmarks])
    return Settings(
        tables=tuple(names),
        limit=_first_given(own.limit, common.limit),
        samples=_first_given(own.samples, common.samples),
        temperature=_first_given(own.temperature, common.temperature),
        max_tokens=own.max_tokens or common.max_tokens or _longest_reply(config),
        seed=_first_given(own.seed, common.seed),
    )


def _first_given(own: Value | None, common: Value) -> Value:
    """A stage's own value, or the run's where it has none."""
    return common if own is None else own


def _longest_reply(config: Config) -> int:
    """The most tokens that any RL stage allows a reply."""
    limits = [stage.max_tokens for stage in config.stages if isinstance(stage, RlStage)]
    return max(limits, default=DEFAULT_MAX_TOKENS)


def _staged(config: Config, tables: Mapping[str, DataTable]) -> list[str]:
    """The staged tables that have something held out that can be judged."""
    names: list[str] = []
    for name in config.staged_data():
        for task in tables[name].held_out(1, config.evaluation.seed):
            if task.verifier or task.environment:
                names.append(name)
    return names


def tasks_asked(settings: Settings, tables: Mapping[str, DataTable]) -> list[list[Task]]:
    """The held-out tasks that an evaluation asks, by table."""
    return [
        tables[name].held_out(settings.limit, settings.seed) for name in settings.tables
    ]


async def evaluate(
    run: Run,
    name: str,
    done: int,
    settings: Settings,
    asked: Sequence[Sequence[Task]],
    runner: RolloutRunner,
    progress: Progress,
) -> dict[str, float]:
    """Judge attempts at `tasks_asked` and save every one of them as `evaluation/NAME.json`.

    `done` are the steps after which the policy is evaluated; `progress` counts answered problems.
    Returns each table's accuracy, and the mean of them as `mean`; the value's mean where a table
    has no verdicts.
    """
    answered = itertools.count()

    def tell() -> None:
        progress(next(answered), {})

    tell()

    outcomes: list[Outcome] = []
    for tasks in asked:
        outcomes += await _outcomes(tasks, settings, runner, tell)

    record = {
        "checkpoint": name,
        "steps": done,
        "settings": asdict(settings),
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    path = run.directory / "evaluation" / f"{name}.json"
    write_atomically(path, json.dumps(record, indent=1).encode())
    return _accuracies(outcomes)


async def _outcomes(
    tasks: Sequence[Task],
    settings: Settings,
    runner: RolloutRunner,
    answered: Callable[[], None],
) -> list[Outcome]:
    params = SamplingParams(
        settings.temperature,
        top_p=1.0,
        top_k=0,
        max_tokens=settings.max_tokens,
        stop_token_ids=runner.tokenizer.eos_ids,
    )
    prompts: list[Prompt] = []
    for i, task in enumerate(tasks):
        prompts.append((task, replace(params, seed=settings.seed + 1000 * i)))
    outcomes: list[Outcome] = []
    for group in await runner.groups(prompts, settings.samples, answered):
        outcomes += [_outcome(attempt) for attempt in group]
    return outcomes


def _outcome(attempt: Attempt) -> Outcome:
    return Outcome(
        attempt.task.id,
        attempt.task.kind,
        attempt.task.messages[-1]["content"],
        attempt.text,
        attempt.score.value,
        attempt.score.status,
        attempt.reasoning_tokens,
        len(attempt.completions),
    )


def _accuracies(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The accuracy over each table's attempts that were judged, and the mean over tables."""
    values: dict[str, list[float]] = {}
    for outcome, mark in marked(outcomes):
        values.setdefault(outcome.kind, []).append(mark)
    by_table = {kind: mean(found) for kind, found in values.items()}
    if by_table:
        by_table[MEAN] = mean(by_table.values())
    return by_table


def saved_accuracies(run: Run, name: str) -> dict[str, float] | None:
    """What `evaluate` returned for `name`, read from disk; None if it has not run."""
    record = _record(run, name)
    return None if record is None else _read_accuracies(record)


def saved_steps(run: Run, name: str) -> int | None:
    """The steps after which the saved evaluation `name` was made."""
    record = _record(run, name)
    return None if record is None else record["steps"]


def is_best(run: Run, stage: Stage, done: int, found: Mapping[str, float]) -> bool:
    """Whether the policy after `done` steps beats those evaluated earlier in its stage."""
    key = stage.evaluate.best or MEAN
    if key not in found:
        return False
    for path in (run.directory / "evaluation").glob(f"{stage.name}@*.json"):
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
        earlier = _read_accuracies(record)
        if record["steps"] < done and earlier.get(key, -math.inf) >= found[key]:
            return False
    return True


def _record(run: Run, name: str) -> dict[str, Any] | None:
    path = run.directory / "evaluation" / f"{name}.json"
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return record


def _read_accuracies(record: Mapping[str, Any]) -> dict[str, float]:
    return _accuracies([Outcome(**entry) for entry in record["outcomes"]])
