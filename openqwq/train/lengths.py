"""Whether the rows of a run fit its model, found out before the first step."""

import heapq
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

from openqwq.config import Config, DistillStage, RewardModelStage, RlStage, SftStage, Stage
from openqwq.engine.open import load_tokenizer, locate
from openqwq.model.fit import read_subject
from openqwq.tasks.rows import RowTable, SkippedRow, UsableRow
from openqwq.tasks.table import DataTable
from openqwq.tasks.tables import training_tasks
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.held_out import Settings, settings_of, tasks_asked
from openqwq.train.policies import base_of_adapter, fresh_tokenizer
from openqwq.train.prepare import Prepared, sample_tasks
from openqwq.train.sft import encode_examples
from openqwq.train.think_tokens import with_setting
from openqwq.types import OpenQwQError, Task

TRIED = 20  # tasks of a table that is not a file
LONGEST_ROWS = 500  # by their characters, whose tokens are counted
NAMED = 20  # rows left out that are listed one by one
DEFAULT_REPLY = 1024  # tokens, where no stage says how long a reply may be
LENGTH_SLACK = 1.25  # over the longest prompt seen: a generator may yet make longer ones


def run_tokenizer(config: Config, tables: Mapping[str, DataTable]) -> tuple[Tokenizer, int]:
    """The tokenizer of a run, and its model's context in tokens."""
    if not config.model:
        assert config.shape is not None
        return fresh_tokenizer(config, tables), config.shape.max_position_embeddings
    path = locate(base_of_adapter(config.model) or config.model, weights=False)
    tokenizer = with_setting(load_tokenizer(path), config)
    return tokenizer, read_subject(path).config.max_position_embeddings


def fit_rows(prepared: Prepared, skip_bad_rows: bool = False) -> Prepared:
    """`prepared` with rows alone that its stages have room for.

    A prompt that leaves no room for a reply, or a conversation longer than the context, stops the
    run: OpenQwQError names file and row. With `skip_bad_rows` it is left out and listed.
    """
    config = prepared.config
    tables = dict(prepared.tables)
    staged: list[tuple[Stage, str]] = []
    for stage in config.stages:
        staged += [(stage, name) for name in stage.data]
    # A tokenizer that is still to be trained is the run's own affair, unless there are rows.
    if not config.model and not any(
        isinstance(tables[name], RowTable) for _, name in staged
    ):
        return prepared

    tokenizer, context = run_tokenizer(config, tables)
    for stage, name in staged:
        table = tables[name]
        measure = Measure(stage, tokenizer, room_of(stage, config, context))
        if isinstance(table, RowTable):
            tables[name] = _fitting(table, measure, skip_bad_rows)
        elif not isinstance(stage, RewardModelStage):
            _require_room(table, measure, str(config.seed))
    return replace(prepared, tables=tables)


def _require_room(table: DataTable, measure: "Measure", seed: str) -> None:
    """Raise OpenQwQError where the first tasks of a generator or an environment do not fit."""
    for task in training_tasks(table, TRIED, f"{seed}/lengths"):
        fault = measure.fault(task)
        if fault:
            raise OpenQwQError(f"data.{table.name}: {task.id}, {fault}")


def _fitting(table: RowTable, measure: "Measure", skip_bad_rows: bool) -> RowTable:
    kept: list[UsableRow] = []
    skipped: list[SkippedRow] = []
    for row in table.rows:
        fault = measure.fault(row.task)
        if fault:
            skipped.append(SkippedRow(row.place, fault))
        else:
            kept.append(row)
    if not skipped:
        return table
    if not skip_bad_rows:
        raise OpenQwQError(
            f"data.{table.name}: {skipped[0]} (such rows: {len(skipped)}); or leave them out with "
            "--skip-bad-rows"
        )
    return replace(table, rows=kept, skipped=(*table.skipped, *skipped))


@dataclass(frozen=True)
class Measure:
    """Measures tasks against the `room` that a stage has for them, in tokens."""

    stage: Stage
    tokenizer: Tokenizer
    room: int

    def fault(self, task: Task) -> str:
        """That the task is too long, in words; "" where it fits."""
        # A token stands for a byte at least: most rows are so short that their bytes say enough.
        turns = (*task.messages, *task.demonstration)
        text = json.dumps([turns, task.solution], ensure_ascii=False)
        if not task.tools and len(text.encode()) + self.template_tokens <= self.room:
            return ""
        length = self._length(task)
        if length <= self.room:
            return ""
        stage = self.stage
        what = "conversation" if isinstance(stage, SftStage) else "prompt"
        fault = (
            f"{what}: it has {length} tokens, and the stage {stage.name!r} has room for "
            f"{self.room}: shorten it"
        )
        key = "max_tokens_per_micro_batch"
        if isinstance(stage, SftStage) and self.room == getattr(stage.optimiser, key):
            fault += f", or raise stages.{stage.name}.optimiser.{key}"
        return fault

    @cached_property
    def template_tokens(self) -> int:
        """What a template adds to a conversation without tools, at most about."""
        return 4 * len(encode_chat(self.tokenizer, ({"role": "user", "content": ""},)))

    def _length(self, task: Task) -> int:
        if isinstance(self.stage, SftStage):
            return _example_length(self.tokenizer, task, self.stage)
        return len(encode_chat(self.tokenizer, task.messages, task.tools))


def room_of(stage: Stage, config: Config, context: int) -> int:
    """Tokens that a stage has for a prompt, or in SFT for a whole example."""
    if isinstance(stage, RlStage | DistillStage):
        return min(context, config.engine.max_length or context) - 1
    if isinstance(stage, SftStage):
        return min(context, stage.optimiser.max_tokens_per_micro_batch or context)
    return context


def skipped_rows(prepared: Prepared) -> list[str]:
    """The rows that a run leaves out, in words; the first ones of many."""
    rows: list[SkippedRow] = []
    for table in prepared.tables.values():
        if isinstance(table, RowTable):
            rows += table.skipped
    told = [f"left out: {row}" for row in rows[:NAMED]]
    if len(rows) > NAMED:
        told.append(f"left out: {len(rows) - NAMED} more rows (qwq data lists them)")
    return told


def needed_length(prepared: Prepared, tokenizer: Tokenizer) -> int:
    """Tokens that the longest prompt seen and its reply need, in training and in evaluation."""
    config = prepared.config
    tables = prepared.tables
    replies: list[int] = []
    evaluations: dict[Settings, None] = {}  # most stages are evaluated alike
    for stage in config.stages:
        if isinstance(stage, RlStage | DistillStage):
            replies.append(stage.max_tokens)
        if isinstance(stage, RewardModelStage) and stage.pairs is not None:
            replies.append(stage.pairs.max_tokens)
        evaluations[settings_of(config, tables, stage)] = None
    longest = _longest_prompt(tokenizer, sample_tasks(prepared))
    needed = round(longest * LENGTH_SLACK) + max(replies, default=DEFAULT_REPLY)
    for settings in evaluations:
        needed = max(needed, evaluated_length(settings, tables, tokenizer))
    return needed


def evaluated_length(
    settings: Settings, tables: Mapping[str, DataTable], tokenizer: Tokenizer
) -> int:
    """Tokens of the longest prompt that an evaluation asks, and its reply; 0: it asks none."""
    asked = chain.from_iterable(tasks_asked(settings, tables))
    longest = _longest_prompt(tokenizer, asked)
    return longest + settings.max_tokens if longest else 0


def _longest_prompt(tokenizer: Tokenizer, tasks: Iterable[Task]) -> int:
    longest = 0
    for task in tasks:
        longest = max(longest, len(encode_chat(tokenizer, task.messages, task.tools)))
    return longest


def longest_example(prepared: Prepared, stage: Stage, tokenizer: Tokenizer) -> int:
    """Tokens of the longest example that SFT may see, of the longest rows of its tables.

    Other tables get `LENGTH_SLACK` over the longest of their first tasks. 0: another kind of stage.
    """
    longest = 0
    if not isinstance(stage, SftStage):
        return longest
    for name in stage.data:
        table = prepared.tables[name]
        if isinstance(table, RowTable):
            rows = [row.task for row in table.rows]
            tasks = heapq.nlargest(LONGEST_ROWS, rows, key=_characters)
            slack = 1.0
        else:
            tasks = training_tasks(table, TRIED, f"{prepared.config.seed}/lengths")
            slack = LENGTH_SLACK
        for task in tasks:
            length = _example_length(tokenizer, task, stage)
            longest = max(longest, round(slack * length))
    return longest


def _example_length(tokenizer: Tokenizer, task: Task, stage: SftStage) -> int:
    """Tokens of the longest example that a stage may make of a task."""
    budget = None
    if stage.thinking_budgets and not task.demonstration:
        budget = max(stage.thinking_budgets)
    examples = encode_examples(tokenizer, task, stage.loss_on, budget)
    return max(len(ids) for ids, _ in examples)


def _characters(task: Task) -> int:
    turns = (*task.messages, *task.demonstration)
    return len(task.solution or "") + sum(len(turn["content"]) for turn in turns)
