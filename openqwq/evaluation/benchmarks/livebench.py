"""LiveBench (arXiv 2406.19314): six categories, each task judged by its objective rule.

The figure is the mean of category means, a category being the mean of its tasks. The rules are
those of the paper's section 2 and of the release of 25 November 2024, which the announcement used:
answers stand in <solution> tags, in bold or in a box, whichever a task's question asks for.
"""

import ast
import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from openqwq.data.rows import Row
from openqwq.evaluation.benchmarks.benchmark import Benchmark, weighted
from openqwq.evaluation.benchmarks.data import DataFile, Library
from openqwq.evaluation.benchmarks.livecodebench import code_tests
from openqwq.evaluation.benchmarks.tables import read_table, same_table
from openqwq.evaluation.results import Record, item_values
from openqwq.evaluation.statistics import Interval, mean_interval
from openqwq.types import Message, OpenQwQError, Rule, Score, Task, Verifier
from openqwq.verify.answer import final_answer, last_block, last_program
from openqwq.verify.contest import ContestVerifier
from openqwq.verify.instructions import check

CATEGORIES = ("coding", "data_analysis", "instruction_following", "language", "math", "reasoning")
RELEASE = "2024-11-25"
CODING = ("LCB_generation", "coding_completion")
INSTRUCTIONS = ("paraphrase", "simplify", "story_generation", "summarize")
NUMBERS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip


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
        raise OpenQwQError(f"LiveBench has no questions of release {RELEASE}: check the files")
    return tasks


def _is_current(row: Row) -> bool:
    removed = str(row.get("livebench_removal_date") or "")[:10]
    return str(row["livebench_release_date"])[:10] <= RELEASE and not (
        removed and removed <= RELEASE
    )


def _task(category: str, row: Row) -> Task:
    task, question = row["task"], row["turns"][0]
    rules: tuple[Rule, ...] = ()
    facts: dict[str, Any] = {"task": task, "truth": row.get("ground_truth") or ""}
    if task in CODING:
        original = row.get("original_json") or {}
        metadata = json.loads(original.get("metadata") or "{}")
        facts |= {
            "public": json.loads(row["public_test_cases"]),
            "hidden": row["private_test_cases"],
            "name": metadata.get("func_name"),
            "begin": row.get("partial_solution") or "",
        }
    elif task in INSTRUCTIONS:
        given = zip(row["instruction_id_list"], row["kwargs"], strict=True)
        rules = tuple(
            Rule(name, {k: v for k, v in (arguments or {}).items() if v is not None})
            for name, arguments in given
        )
    elif task not in JUDGES and task not in ("AMPS_Hard", "tablereformat"):
        raise OpenQwQError(
            f"LiveBench task {task!r} of {RELEASE} has no rule here: known are {KNOWN}"
        )
    message = Message(role="user", content=question)
    name, answer = f"livebench/{row['question_id']}", json.dumps(facts)
    return Task(name, f"{category}/{task}", (message,), "livebench", answer=answer, rules=rules)


def solution(answer: str, stars: int = 2) -> str:
    """The last answer that is tagged, boxed, or in bold; "" where none is."""
    if tagged := re.findall(r"<solution>(.*?)</solution>", answer, re.DOTALL):
        return str(tagged[-1]).strip()
    if boxed := re.findall(r"\\boxed\{(?:\\text\{)?([^{}]*)\}", answer):
        return str(boxed[-1]).strip()
    mark = re.escape("*" * stars)
    bold = re.findall(rf"{mark}([^*]+){mark}", answer)
    return bold[-1].strip() if bold else ""


def _words(text: str) -> list[str]:
    return [word.strip().lower().replace("-", " ") for word in text.replace("\n", " ").split(",")]


def _choice(answer: str, truth: str) -> float:
    """A letter said at least four times in a row; AIME: the last number of three digits."""
    if truth.isdecimal():
        numbers = re.findall(r"(?<!\d)\d{3}(?!\d)", solution(answer) or answer)
        return float(bool(numbers) and int(numbers[-1]) == int(truth))
    repeated = re.findall(r"([A-Z])\1{3,}", answer)
    said = repeated[-1] if repeated else solution(answer).strip("() .")
    return float(said == truth)


def _olympiad(answer: str, truth: str) -> float:
    """One minus the edit distance of the sequences of expression numbers, by the longer one."""
    *_, told = re.split(r"answer\**\s*:", answer, flags=re.IGNORECASE)
    found, wanted = (re.findall(r"\d+", text) for text in (told.split("\n\n")[0], truth))
    if not found:
        return 0.0
    return 1 - edit_distance(found, wanted) / max(len(found), len(wanted))


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Levenshtein's: the fewest insertions, deletions and substitutions."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            best = min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
            diagonal, row[j] = row[j], best
    return row[-1]


def _lies(answer: str, truth: str) -> float:
    found = re.findall(r"yes|no|unknown", solution(answer).lower())
    return float(found == re.findall(r"yes|no|unknown", truth.lower()))


def _exact(answer: str, truth: str) -> float:
    said, wanted = solution(answer).lower(), truth.strip().lower()
    return float(said == wanted or NUMBERS.get(said) == wanted)


def _zebra(answer: str, truth: str) -> float:
    """Half for the share of right answers, half for all of them being right."""
    wanted, found = _words(truth), _words(solution(answer, stars=3))
    right = fmean(w in f for w, f in zip(wanted, found + [""] * len(wanted), strict=False))
    return (right + (right == 1)) / 2


def _connections(answer: str, truth: str) -> float:
    """The share of groups of four that are right, in any order."""
    found, wanted = (
        [frozenset(words[i : i + 4]) for i in range(0, len(words), 4)]
        for words in (_words(solution(answer)), _words(truth))
    )
    return fmean(group in found for group in wanted)


def _plot(answer: str, truth: str) -> float:
    """One minus the edit distance between the orders of sentences, by their number."""
    told = re.findall(r"<PLOT_SUMMARY>(.*?)</PLOT_SUMMARY>", answer, re.DOTALL) or [answer]
    wanted, found = (
        [each.strip() for each in text.replace("\n", " ").split(".") if each.strip()]
        for text in (truth, told[-1])
    )
    order = [
        wanted.index(near)
        for sentence in found
        for near in difflib.get_close_matches(sentence, wanted, n=1, cutoff=0.0)
    ]
    return max(0.0, 1 - edit_distance(order, range(len(wanted))) / len(wanted))


def _typos(answer: str, truth: str) -> float:
    tagged = re.findall(r"<solution>(.*?)</solution>", answer, re.DOTALL)
    said = " ".join((tagged[-1] if tagged else answer).split())
    return float(" ".join(truth.split()) in said)


def _column_type(answer: str, truth: str) -> float:
    said = solution(answer) if "boxed" in answer or "<solution>" in answer else answer
    return float(re.sub(r"\W", "", said.lower()) == re.sub(r"\W", "", truth.lower()))


def _join(answer: str, truth: Any) -> float:
    """F1 of the pairs of columns."""
    text = solution(answer) if "<solution>" in answer else last_block(answer)
    start, end = text.find("{"), text.rfind("}")
    try:
        wanted = ast.literal_eval(truth) if isinstance(truth, str) else truth
        found = ast.literal_eval(text[start : end + 1])
        hits = sum(wanted.get(key) == value for key, value in found.items())
        return 2 * hits / (len(found) + len(wanted)) if found else 0.0
    except (ValueError, SyntaxError, AttributeError, TypeError, MemoryError, RecursionError):
        return 0.0


def _reformat(question: str, answer: str, truth: str) -> float:
    """Whether the table in the asked format is the right one."""
    asked = re.findall(r"format to (\w+) format|Target Format: *(\w+)", question, re.IGNORECASE)
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
    "house_traversal": lambda answer, truth: float(_words(solution(answer)) == _words(truth)),
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
        facts = json.loads(task.answer or "{}")
        answer = final_answer(completion)
        if answer is None:
            return Score(0.0, "truncated", detail="no </think>")
        name, truth = facts["task"], facts["truth"]
        question = task.messages[0]["content"]
        try:
            if name == "AMPS_Hard":
                ready = Task(task.id, task.kind, task.messages, "math", answer=f"${truth}$")
                return await self._mathematics.score(ready, completion)
            if name in CODING:
                tests = code_tests(facts)
                program = last_program(answer)
                if facts["begin"] and not program.startswith(facts["begin"].strip()[:40]):
                    program = facts["begin"] + "\n" + program
                return await self._contest.judge(program, tests, task.id)
            if name in INSTRUCTIONS:
                held = [check(rule.id, rule.arguments, answer.strip("\n")) for rule in task.rules]
                value = (fmean(held) + all(held)) / 2
            elif name == "tablereformat":
                value = _reformat(question, answer, truth)
            else:
                value = JUDGES[name](answer, truth)
        except (OpenQwQError, ValueError) as error:
            return Score(0.0, "error", detail=f"task {task.id!r}: {error}")
        detail = "" if value == 1 else f"{value:.2f} of what is right, by the rule of {name}"
        return Score(value, "correct" if value == 1 else "wrong", {}, detail)


def headline(records: Sequence[Record]) -> Interval:
    """The mean of category means, each the mean of its tasks."""
    tasks: dict[str, dict[str, list[float]]] = {}
    for kind in dict.fromkeys(r.kind for r in records):
        values = list(item_values(r for r in records if r.kind == kind).values())
        tasks.setdefault(kind.partition("/")[0], {})[kind] = values
    categories = {
        category: weighted({kind: (1.0, mean_interval(v)) for kind, v in kinds.items()})
        for category, kinds in tasks.items()
    }
    return weighted({category: (1.0, found) for category, found in categories.items()})


LIVEBENCH = Benchmark("livebench", "LiveBench", 1, load, headline=headline)
