"""LiveBench (arXiv 2406.19314): six categories, each task judged by its objective rule.

The figure is the mean of category means, a category being the mean of its tasks. The rules are
those of the paper's section 2 and of the release of 25 November 2024, which the announcement used:
answers stand in <solution> tags, in bold or in a box, whichever a task's question asks for.
"""

import ast
import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from openqwq.data.rows import Row
from openqwq.evaluation.benchmarks.benchmark import Benchmark, mean_of
from openqwq.evaluation.benchmarks.data import DataFile, Library
from openqwq.evaluation.benchmarks.livecodebench import PackedTests, code_tests
from openqwq.evaluation.benchmarks.tables import read_table, same_table
from openqwq.evaluation.results import Record, by_kind, pass_at_1
from openqwq.evaluation.statistics import Interval
from openqwq.tasks.columns import find_rules
from openqwq.types import Message, OpenQwQError, Rule, Score, Task, Verifier
from openqwq.verify.answer import final_answer, last_block, last_program
from openqwq.verify.contest import ContestVerifier
from openqwq.verify.instructions import follows_rule

CATEGORIES = (
    "coding",
    "data_analysis",
    "instruction_following",
    "language",
    "math",
    "reasoning",
)
RELEASE = "2024-11-25"
CODING = ("LCB_generation", "coding_completion")
INSTRUCTIONS = ("paraphrase", "simplify", "story_generation", "summarize")
TAGGED = r"<solution>(.*?)</solution>"
NUMBERS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip


@dataclass(frozen=True)
class Rubric:
    """What an answer is judged by: the rule's name and truth, or a program's tests and start."""

    task: str
    truth: Any = ""
    tests: PackedTests | None = None
    begin: str = ""  # of the program, which the question gives


def load(library: Library) -> list[Task]:
    """The questions of the release: those out by then and not yet withdrawn."""
    tasks = []
    for category in CATEGORIES:
        hub = DataFile(
            f"livebench/{category}.jsonl",
            f"livebench/{category}",
            "data/test-00000-of-00001.parquet",
            "main",  # it grows with every release; the release date pins the questions
        )
        tasks += [_task(category, row) for row in library.rows(hub) if _is_current(row)]
    if not tasks:
        raise OpenQwQError(
            f"LiveBench has no questions of release {RELEASE}: check the files"
        )
    return tasks


def _is_current(row: Row) -> bool:
    released = str(row["livebench_release_date"])[:10]
    removed = str(row.get("livebench_removal_date") or "")[:10]
    if removed and removed <= RELEASE:
        return False
    return released <= RELEASE


def _task(category: str, row: Row) -> Task:
    task = row["task"]
    rubric = Rubric(task, row.get("ground_truth") or "")
    rules: tuple[Rule, ...] = ()
    if task in CODING:
        original = row.get("original_json") or {}
        metadata = json.loads(original.get("metadata") or "{}")
        public = json.loads(row["public_test_cases"])
        tests = PackedTests(public, row["private_test_cases"], metadata.get("func_name"))
        rubric = Rubric(task, tests=tests, begin=row.get("partial_solution") or "")
    elif task in INSTRUCTIONS:
        rules = find_rules(row)
    elif task not in JUDGES and task not in ("AMPS_Hard", "tablereformat"):
        raise OpenQwQError(
            f"LiveBench task {task!r} of {RELEASE} has no rule here: known are {KNOWN}"
        )
    message = Message(role="user", content=row["turns"][0])
    name = f"livebench/{row['question_id']}"
    kind = f"{category}/{task}"
    return Task(name, kind, (message,), "livebench", reference=rubric, rules=rules)


def solution(answer: str, stars: int = 2) -> str:
    """The last answer that is tagged, boxed, or in bold; "" where none is."""
    mark = re.escape("*" * stars)
    forms = (TAGGED, r"\\boxed\{(?:\\text\{)?([^{}]*)\}", rf"{mark}([^*]+){mark}")
    for form in forms:
        found = re.findall(form, answer, re.DOTALL)
        if found:
            return str(found[-1]).strip()
    return ""


def _words(text: str) -> list[str]:
    """The items of a list with commas, in lower case, hyphens as spaces."""
    items = text.replace("\n", " ").split(",")
    return [item.strip().lower().replace("-", " ") for item in items]


def _choice(answer: str, truth: str) -> float:
    """A letter said at least four times in a row; AIME: the last number of three digits."""
    if truth.isdecimal():
        numbers = re.findall(r"(?<!\d)\d{3}(?!\d)", solution(answer) or answer)
        return float(bool(numbers) and int(numbers[-1]) == int(truth))
    repeated = re.findall(r"([A-Z])\1{3,}", answer)
    if repeated:
        return float(repeated[-1] == truth)
    return float(solution(answer).strip("() .") == truth)


def _olympiad(answer: str, truth: str) -> float:
    """One minus the edit distance of the sequences of expression numbers, by the longer one."""
    *_, told = re.split(r"answer\**\s*:", answer, flags=re.IGNORECASE)
    found = re.findall(r"\d+", told.split("\n\n")[0])
    wanted = re.findall(r"\d+", truth)
    if not found:
        return 0.0
    return 1 - edit_distance(found, wanted) / max(len(found), len(wanted))


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Levenshtein's: the fewest insertions, deletions and substitutions."""
    # distances of the items of `a` so far from each start of `b`
    above = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        row = [i]
        for j, right in enumerate(b, 1):
            changed = above[j - 1] + (left != right)
            row.append(min(above[j] + 1, row[j - 1] + 1, changed))
        above = row
    return above[-1]


def _lies(answer: str, truth: str) -> float:
    found = re.findall(r"yes|no|unknown", solution(answer).lower())
    return float(found == re.findall(r"yes|no|unknown", truth.lower()))


def _exact(answer: str, truth: str) -> float:
    said = solution(answer).lower()
    wanted = truth.strip().lower()
    return float(wanted in (said, NUMBERS.get(said)))


def _zebra(answer: str, truth: str) -> float:
    """Half for the share of right answers, half for all of them being right."""
    wanted = _words(truth)
    # padded: what is missing was not answered
    found = _words(solution(answer, stars=3)) + [""] * len(wanted)
    share = fmean(word in said for word, said in zip(wanted, found, strict=False))
    return (share + (share == 1)) / 2


def _house(answer: str, truth: str) -> float:
    return float(_words(solution(answer)) == _words(truth))


def _connections(answer: str, truth: str) -> float:
    """The share of groups of four that are right, in any order."""
    found = set(_fours(_words(solution(answer))))
    return fmean(group in found for group in _fours(_words(truth)))


def _fours(words: Sequence[str]) -> Iterator[frozenset[str]]:
    for start in range(0, len(words), 4):
        yield frozenset(words[start : start + 4])


def _plot(answer: str, truth: str) -> float:
    """One minus the edit distance between the orders of sentences, by their number."""
    told = re.findall(r"<PLOT_SUMMARY>(.*?)</PLOT_SUMMARY>", answer, re.DOTALL) or [answer]
    wanted = _sentences(truth)
    order: list[int] = []
    for sentence in _sentences(told[-1]):
        nearest = difflib.get_close_matches(sentence, wanted, n=1, cutoff=0.0)
        order += map(wanted.index, nearest)
    return max(0.0, 1 - edit_distance(order, range(len(wanted))) / len(wanted))


def _sentences(text: str) -> list[str]:
    parts = map(str.strip, text.replace("\n", " ").split("."))
    return list(filter(None, parts))


def _typos(answer: str, truth: str) -> float:
    tagged = re.findall(TAGGED, answer, re.DOTALL)
    said = tagged[-1] if tagged else answer
    return float(" ".join(truth.split()) in " ".join(said.split()))


def _column_type(answer: str, truth: str) -> float:
    said = answer
    if "boxed" in answer or "<solution>" in answer:
        said = solution(answer)
    return float(_letters(said) == _letters(truth))


def _letters(text: str) -> str:
    return re.sub(r"\W", "", text.lower())


def _join(answer: str, truth: Any) -> float:
    """F1 of the pairs of columns."""
    text = solution(answer) if "<solution>" in answer else last_block(answer)
    literal = text[text.find("{") : text.rfind("}") + 1]
    try:
        wanted = ast.literal_eval(truth) if isinstance(truth, str) else truth
        found = ast.literal_eval(literal)
        if not found:
            return 0.0
        hits = sum(wanted.get(key) == value for key, value in found.items())
        return float(2 * hits / (len(found) + len(wanted)))
    except (
        ValueError,
        SyntaxError,
        AttributeError,
        TypeError,
        MemoryError,
        RecursionError,
    ):
        return 0.0


def _reformat(question: str, answer: str, truth: str) -> float:
    """Whether the table in the asked format is the right one."""
    asked = re.findall(
        r"format to (\w+) format|Target Format: *(\w+)", question, re.IGNORECASE
    )
    if not asked:
        raise ValueError("the question names no format")
    form = "".join(asked[-1]).lower()
    wanted = read_table(truth, form)
    text = solution(answer) if "<solution>" in answer else answer
    try:
        return float(same_table(read_table(last_block(text), form), wanted))
    except (ValueError, AttributeError, TypeError, RecursionError):
        return 0.0


JUDGES: Mapping[str, Callable[[str, str], float]] = {
    "math_comp": _choice,
    "olympiad": _olympiad,
    "web_of_lies_v2": _lies,
    "house_traversal": _house,
    "spatial": _exact,
    "zebra_puzzle": _zebra,
    "connections": _connections,
    "plot_unscrambling": _plot,
    "typos": _typos,
    "cta": _column_type,
    "tablejoin": _join,
}
KNOWN = ", ".join([*JUDGES, "AMPS_Hard", "tablereformat", *CODING, *INSTRUCTIONS])


class LiveBenchVerifier:
    """Judges an answer by its task's rule; mathematics and programs go to their verifiers.

    Its programs are LiveCodeBench's, so the contest verifier judges them.
    """

    def __init__(self, mathematics: Verifier, contest: ContestVerifier) -> None:
        self._mathematics = mathematics
        self._contest = contest

    async def score(self, task: Task, completion: str) -> Score:
        """A value in [0, 1], often with partial credit; `error`: the question is at fault."""
        rubric = task.reference
        if not isinstance(rubric, Rubric):
            return Score(0.0, "error", detail=f"task {task.id!r} is not one of LiveBench")
        answer = final_answer(completion)
        if answer is None:
            return Score(0.0, "truncated", detail="no </think>")
        try:
            if rubric.task == "AMPS_Hard":
                gold = f"${rubric.truth}$"
                ready = Task(task.id, task.kind, task.messages, "math", answer=gold)
                return await self._mathematics.score(ready, completion)
            if rubric.tests is not None:
                program = _completed(rubric.begin, last_program(answer))
                return await self._contest.judge(program, code_tests(rubric.tests), task.id)
            value = _value(task, rubric, answer)
        except (OpenQwQError, ValueError) as error:
            return Score(0.0, "error", detail=f"task {task.id!r}: {error}")
        if value == 1:
            return Score(1.0, "correct")
        detail = f"{value:.2f} of what is right, by the rule of {rubric.task}"
        return Score(value, "wrong", detail=detail)


def _completed(begin: str, program: str) -> str:
    """A program with the beginning that the question gave, unless it repeats it."""
    if not begin or program.startswith(begin.strip()[:40]):
        return program
    return f"{begin}\n{program}"


def _value(task: Task, rubric: Rubric, answer: str) -> float:
    """What an answer is worth by its rule."""
    if rubric.task in INSTRUCTIONS:
        text = answer.strip("\n")
        held = [follows_rule(rule.id, rule.arguments, text) for rule in task.rules]
        return (fmean(held) + all(held)) / 2
    if rubric.task == "tablereformat":
        return _reformat(task.messages[0]["content"], answer, rubric.truth)
    return JUDGES[rubric.task](answer, rubric.truth)


def headline(records: Sequence[Record]) -> Interval:
    """The mean of category means, each the mean of its tasks."""
    categories: dict[str, list[Interval]] = {}
    for kind, group in by_kind(records).items():
        category = kind.partition("/")[0]
        categories.setdefault(category, []).append(pass_at_1(group))
    return mean_of([mean_of(tasks) for tasks in categories.values()])


LIVEBENCH = Benchmark("livebench", "LiveBench", 1, load, headline=headline)
