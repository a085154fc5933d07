"""What a run would ask, found out before any training: `qwq data`."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from openqwq.config import Config, DistillStage, RewardModelStage, RlStage, SftStage, Stage
from openqwq.evaluation.contamination import BenchmarkIndex, Overlap
from openqwq.tasks.rows import RowTable
from openqwq.tasks.table import DataTable
from openqwq.tasks.tables import task_text, training_tasks
from openqwq.text.template import NO_THINKING, encode_chat, encode_reply, encode_solution
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Score, Task, Verifier
from openqwq.verify.completion_text import CompletionText

SHOWN_PROMPTS = 3
AT_ONCE = 8  # gold answers that are judged at the same time


@dataclass(frozen=True)
class Effort:
    """How much of each table is looked at."""

    tasks: int = 1000  # whose lengths are measured
    golds: int = 200  # that are judged


@dataclass(frozen=True)
class PromptPart:
    """A part of a rendered prompt: text, or one special token."""

    text: str
    special: bool


@dataclass(frozen=True)
class ShownPrompt:
    """A task as the model would be asked it.

    `wanted` is what its judge compares with, `reply` what SFT would teach; empty where it has none.
    """

    task: str
    pieces: tuple[PromptPart, ...]
    wanted: str
    reply: tuple[PromptPart, ...] = ()


@dataclass(frozen=True)
class StageFit:
    """Whether a table's tasks fit a stage: `longest` and `limit` are in tokens of `measured`."""

    stage: str
    measured: str  # "prompt", or "example" with its reply
    longest: int
    limit: int
    too_long: tuple[str, ...]  # ids of tasks
    passes: float | None  # over the rows in the whole stage; None: a generator has no end

    @property
    def fault(self) -> str:
        """That some are too long, in words."""
        return (
            f"{self.measured}s longer than the {self.limit} tokens that the stage {self.stage!r} "
            f"has for them: {len(self.too_long)}"
        )


@dataclass(frozen=True)
class GoldFailure:
    """A gold that its own verifier does not find correct."""

    task: str
    gold: str  # "answer" or "solution"
    status: str
    detail: str


@dataclass(frozen=True)
class Golds:
    """Gold answers and solutions, judged by the table's own verifier."""

    judged: int
    correct: int
    failures: tuple[GoldFailure, ...]


@dataclass(frozen=True)
class RowCounts:
    """What becomes of a table's rows; `train` None: a generator has no end."""

    train: int | None
    held_out: int
    pairs: int
    beyond_limit: int
    skipped: tuple[str, ...]
    used_share: float  # of the file's rows, those trained on


@dataclass(frozen=True)
class TableReport:
    """One table of a config, by its first tasks."""

    name: str
    origin: str
    verifiers: Mapping[str, int]  # tasks by verifier; "" is none
    environment: str
    rows: RowCounts
    prompts: tuple[ShownPrompt, ...]
    prompt_tokens: tuple[int, ...]
    example_tokens: tuple[int, ...]  # prompt and reply; empty where there is no reply
    fits: tuple[StageFit, ...]
    golds: Golds
    duplicates: tuple[str, ...]
    overlaps: tuple[Overlap, ...]


@dataclass(frozen=True)
class DataReport:
    """All tables; `benchmarks` says which items were searched for, or why none were."""

    tables: tuple[TableReport, ...]
    context: int
    tokenizer: str
    benchmarks: str


def judges_needed(tables: Iterable[DataTable]) -> set[str]:
    """The names of all verifiers that tasks of these tables ask for."""
    names: set[str] = set()
    for table in tables:
        if isinstance(table, RowTable):
            names.update(row.task.verifier for row in table.rows)
            names.update(row.task.verifier for row in table.held_out_rows)
        else:
            names.update(task.verifier for task in training_tasks(table, 1, "judges"))
    return names - {""}


@dataclass(frozen=True)
class Examiner:
    """Looks at the tables of `config` as a run would use them.

    `context` is the model's, in tokens; `judges` are those of `judges_needed`. `index` holds the
    benchmark items to search for, and `benchmarks` says which they are, or why there are none.
    """

    config: Config
    tokenizer: Tokenizer
    context: int
    judges: Mapping[str, Verifier]
    index: BenchmarkIndex | None = None
    benchmarks: str = "not searched"
    effort: Effort = Effort()

    async def report(self, tables: Mapping[str, DataTable]) -> DataReport:
        """What there is to know of all tables."""
        reports = [await self._examine(table) for table in tables.values()]
        return DataReport(
            tuple(reports), self.context, self.tokenizer.source, self.benchmarks
        )

    async def _examine(self, table: DataTable) -> TableReport:
        entry = self.config.data[table.name]
        tasks = _tasks(table, self.effort.tasks)

        prompts: dict[str, list[int]] = {}
        examples: dict[str, int] = {}
        shown: list[ShownPrompt] = []
        for task in tasks:
            prompts[task.id] = encode_chat(self.tokenizer, task.messages, task.tools)
            example = _last_example(self.tokenizer, task)
            if example is not None:
                examples[task.id] = len(example.prompt) + len(example.reply)
            if len(shown) < SHOWN_PROMPTS:
                shown.append(_prompt(self.tokenizer, task, prompts[task.id], example))

        sampled = min(self.context, self.config.engine.max_length or self.context)
        rooms = (self.context, sampled)
        fits: list[StageFit] = []
        for stage in self.config.stages:
            if table.name in stage.data:
                fits.append(_fit(stage, table, prompts, examples, rooms))

        overlaps: tuple[Overlap, ...] = ()
        if self.index is not None:
            overlaps = _overlaps(table, self.index, self.effort.tasks)
        return TableReport(
            name=table.name,
            origin=entry.rows or entry.source or entry.environment,
            verifiers=dict(Counter(task.verifier for task in tasks)),
            environment=tasks[0].environment if tasks else "",
            rows=_count(table, self.effort.tasks),
            prompts=tuple(shown),
            prompt_tokens=tuple(sorted(map(len, prompts.values()))),
            example_tokens=tuple(sorted(examples.values())),
            fits=tuple(fits),
            golds=await judge_golds(tasks[: self.effort.golds], self.judges),
            duplicates=_duplicates(table),
            overlaps=overlaps,
        )


def _count(table: DataTable, most: int) -> RowCounts:
    if isinstance(table, RowTable):
        skipped = tuple(map(str, table.skipped))
        held_out = len(table.held_out_rows)
        share = len(table.rows) / table.read if table.read else 0.0
        return RowCounts(
            table.size, held_out, len(table.pairs), table.beyond_limit, skipped, share
        )
    return RowCounts(table.size, len(table.held_out(most, 0)), len(table.pairs), 0, (), 1.0)


def _tasks(table: DataTable, count: int) -> list[Task]:
    """The table's first tasks: to train on, or of tables for evaluation those held out."""
    if isinstance(table, RowTable):
        rows = table.rows or table.held_out_rows
        return [row.task for row in rows[:count]]
    return training_tasks(table, count, "report")


@dataclass(frozen=True)
class _Example:
    """A turn that SFT imitates: token ids of the prompt, and of the reply."""

    prompt: list[int]
    reply: list[int]


def _last_example(tokenizer: Tokenizer, task: Task) -> _Example | None:
    """A task's last turn with a reply; None without one."""
    replies = [
        i for i, turn in enumerate(task.demonstration) if turn["role"] == "assistant"
    ]
    if replies:
        earlier = [*task.messages, *task.demonstration[: replies[-1]]]
        last = task.demonstration[replies[-1]]
        prompt, reply = encode_reply(tokenizer, earlier, last, task.tools)
        return _Example(prompt, reply)
    final = last_turn(task)
    if final.solution is None:
        return None
    prompt = encode_chat(tokenizer, final.messages, final.tools)
    return _Example(prompt, encode_solution(tokenizer, prompt, final.solution))


def last_turn(task: Task) -> Task:
    """The task before the last reply of its worked solution."""
    while task.continuation is not None:
        task = task.continuation
    return task


def _fit(
    stage: Stage,
    table: DataTable,
    prompts: Mapping[str, Sequence[int]],
    examples: Mapping[str, int],
    rooms: tuple[int, int],
) -> StageFit:
    """`rooms` are the tokens of the context in training and in sampling."""
    trained, sampled = rooms
    if isinstance(stage, SftStage):
        lengths: Mapping[str, int] = examples
        measured = "example"
        limit = trained
    else:
        lengths = {key: len(ids) for key, ids in prompts.items()}
        measured = "prompt"
        reply = stage.max_tokens if isinstance(stage, RlStage | DistillStage) else 1
        limit = sampled - reply
    too_long = [key for key, length in lengths.items() if length > limit]
    longest = max(lengths.values(), default=0)
    passes = _passes(stage, table)
    return StageFit(stage.name, measured, longest, limit, tuple(too_long), passes)


def _passes(stage: Stage, table: DataTable) -> float | None:
    """How often a stage passes over a table."""
    if not table.size:
        return None
    weight = stage.data[table.name]
    if not stage.steps:
        return weight * stage.epochs
    share = weight / sum(stage.data.values())
    if isinstance(stage, SftStage | RewardModelStage):
        per_step = stage.batch_size
    else:
        per_step = stage.prompts_per_step
    return stage.steps * per_step * share / table.size


def _prompt(
    tokenizer: Tokenizer, task: Task, first: Sequence[int], example: _Example | None
) -> ShownPrompt:
    """What is shown of a task: its `first` prompt, or the turn that SFT imitates."""
    wanted = task.answer or ""
    if task.tests is not None:
        cases = len(task.tests.cases)
        wanted = (
            f"{cases} hidden tests ({task.tests.form})" if cases else "hidden test code"
        )
    elif task.rules:
        wanted = ", ".join(rule.id for rule in task.rules)
    if example is None:
        return ShownPrompt(task.id, tuple(pieces(tokenizer, first)), wanted)
    asked = pieces(tokenizer, example.prompt)
    taught = pieces(tokenizer, example.reply)
    return ShownPrompt(task.id, tuple(asked), wanted, tuple(taught))


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[PromptPart]:
    """The text of token ids, each special token apart."""
    special = set(tokenizer.added_tokens.values())
    found: list[PromptPart] = []
    plain: list[int] = []
    for token in ids:
        if token in special:
            if plain:
                found.append(PromptPart(tokenizer.decode(plain), False))
                plain = []
            found.append(PromptPart(tokenizer.decode([token]), True))
        else:
            plain.append(token)
    if plain:
        found.append(PromptPart(tokenizer.decode(plain), False))
    return found


async def judge_golds(tasks: Sequence[Task], judges: Mapping[str, Verifier]) -> Golds:
    """Judge each task's answer and worked solution; learned judges have no golds."""
    places = asyncio.Semaphore(AT_ONCE)

    async def judged(task: Task, completion: str) -> Score:
        thinking, _, answer = completion.partition("</think>")
        text = CompletionText(
            completion, thinking.strip("\n"), answer.strip("\n"), task.messages
        )
        async with places:
            return await judges[task.verifier].score(task, text)

    golds: list[tuple[Task, str, str]] = []
    for task in tasks:
        if task.verifier in judges:
            golds += [
                (last_turn(task), gold, said) for gold, said in gold_completions(task)
            ]
    scores = await asyncio.gather(*(judged(task, said) for task, _, said in golds))
    failures: list[GoldFailure] = []
    for (task, gold, _), score in zip(golds, scores, strict=True):
        if score.status not in ("correct", "scored"):
            failures.append(GoldFailure(task.id, gold, score.status, score.detail))
    return Golds(len(golds), len(golds) - len(failures), tuple(failures))


def gold_completions(task: Task) -> list[tuple[str, str]]:
    """What ought to be found correct, by kind of gold: the answer alone, the worked solution."""
    found: list[tuple[str, str]] = []
    if task.answer is not None:
        answer = f"\\boxed{{{task.answer}}}" if task.verifier == "math" else task.answer
        found.append(("answer", NO_THINKING + answer))
    final = last_turn(task)
    if final.solution is not None:
        found.append(("solution", final.solution))
    return found


def _duplicates(table: DataTable) -> tuple[str, ...]:
    """Rows that ask what an earlier row asked."""
    if not isinstance(table, RowTable):
        return ()
    places: dict[str, list[str]] = defaultdict(list)
    for row in table.rows:
        places[row.problem].append(str(row.place))
    found: list[str] = []
    for first, *others in places.values():
        found += [f"{first} = {other}" for other in others]
    return tuple(found)


def _overlaps(table: DataTable, index: BenchmarkIndex, most: int) -> tuple[Overlap, ...]:
    """Each training row's fullest match with a benchmark item, the fullest rows first."""
    if isinstance(table, RowTable):
        numbered = [(row.place.number, row.task) for row in table.rows]
    else:
        numbered = list(enumerate(training_tasks(table, most, "report"), 1))
    found: list[Overlap] = []
    for number, task in numbered:
        found += index.search(task_text(task), number)[:1]
    return tuple(sorted(found, key=lambda overlap: -overlap.share))
