"""Chooses the samples in this folder from the whole data sets: python select_rows.py SETS_DIR.

What is chosen depends on the rows alone, so a second run writes the same bytes. SOURCE.md says
where the sets come from and under which licences.
"""

import gzip
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

Row = dict[str, Any]
HERE = Path(__file__).parent
SIMPLE = ["simple_python", "simple_java", "simple_javascript"]
NON_LIVE = ["multiple", "parallel", "parallel_multiple", "irrelevance"]
LIVE = ["live_simple", "live_multiple", "live_parallel", "live_parallel_multiple"]
LIVE += ["live_relevance", "live_irrelevance"]
EPISODES = ["multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param"]
SENTENCE = "Statement left out: it belongs to {site}. The sample tests are those of {id}."
OURS = {
    "id": "ours-0",
    "problem": "Find the remainder when $7^{100}$ is divided by $1000$.",
    "answer": 1,
}


def rows(path: Path) -> list[Row]:
    """The rows of a .jsonl or .jsonl.gz file."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write(name: str, chosen: list[Row]) -> None:
    """Write the rows to `name` below this folder."""
    path = HERE / name
    path.parent.mkdir(exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in chosen]
    path.write_text("".join(lines), encoding="utf-8")


def spread(found: list[Row], count: int) -> list[Row]:
    """`count` rows at equal distances."""
    return found[:: max(1, len(found) // count)][:count]


def shortest(found: list[Row], count: int) -> list[Row]:
    """The `count` shortest rows, in the order of the file."""
    chosen = sorted(range(len(found)), key=lambda i: (len(json.dumps(found[i])), i))[:count]
    return [found[i] for i in sorted(chosen)]


def mathematics(sets: Path) -> None:
    """The whole table of equivalences; samples of problems."""
    (HERE / "math-equivalence").mkdir(exist_ok=True)
    shutil.copyfile(
        sets / "math-equivalence/cases.jsonl", HERE / "math-equivalence" / "cases.jsonl"
    )
    write("gsm8k/test.jsonl", spread(rows(sets / "gsm8k/test.jsonl.gz"), 24))
    write("math500/test.jsonl", spread(rows(sets / "math500/test.jsonl.gz"), 24))
    theirs = rows(sets / "aime2024/problems.jsonl")[0]
    ending = theirs["prompt"].removeprefix(theirs["problem"])
    write("aime2024/problems.jsonl", [{**OURS, "prompt": OURS["problem"] + ending}])


def programs(sets: Path) -> None:
    """Short problems with reference solutions, and two kinds without."""
    write(
        "humaneval/HumanEval.jsonl", spread(rows(sets / "humaneval/HumanEval.jsonl.gz"), 16)
    )
    asked = [
        row for row in rows(sets / "mbpp/mbpp.jsonl.gz") if 11 <= row["task_id"] <= 510
    ]
    write("mbpp/mbpp.jsonl", spread(asked, 16))
    write(
        "mbpp/sanitized-mbpp.jsonl", spread(rows(sets / "mbpp/sanitized-mbpp.jsonl.gz"), 12)
    )
    leetcode = shortest(rows(sets / "code-rl/leetcode.jsonl.gz"), 12)
    for row in leetcode:
        del row["problem"]
    write("code-rl/leetcode.jsonl", leetcode)
    contests = rows(sets / "code-rl/code-contests.jsonl.gz")
    tolerant = [
        row for row in contests if "error" in row["problem"] and "10^{-" in row["problem"]
    ]
    write("code-rl/code-contests.jsonl", shortest(contests, 4) + shortest(tolerant, 1))
    found = rows(sets / "livecodebench-v5/problems.jsonl.gz")
    chosen = shortest([row for row in found if row["testtype"] == "stdin"], 3)
    chosen += shortest([row for row in found if row["testtype"] == "functional"], 3)
    for row in chosen:
        site = "AtCoder" if row["testtype"] == "stdin" else "LeetCode"
        row["prompt"] = SENTENCE.format(site=site, id=row["question_id"])
    write("livecodebench-v5/problems.jsonl", chosen)


def instructions(sets: Path, always: int = 1122) -> None:
    """All prompts; responses that follow and that break each instruction, the shortest first."""
    (HERE / "ifeval").mkdir(exist_ok=True)
    shutil.copyfile(sets / "ifeval/prompts.jsonl.gz", HERE / "ifeval" / "prompts.jsonl.gz")
    rules = {
        row["key"]: row["instruction_id_list"]
        for row in rows(sets / "ifeval/prompts.jsonl.gz")
    }
    found = [row for row in rows(sets / "ifeval/responses.jsonl.gz") if row["response"]]
    seen: Counter[tuple[str, str, bool]] = Counter()
    chosen = []
    for row in sorted(
        found, key=lambda row: (len(row["response"]), row["key"], row["model"])
    ):
        names = rules[row["key"]]
        kinds = set()
        for criterion in ("strict", "loose"):
            verdicts = row[criterion] or []
            kinds |= {
                (name, criterion, v) for name, v in zip(names, verdicts, strict=False)
            }
        if row["key"] == always or any(seen[kind] < 4 for kind in kinds):
            chosen.append(row)
            seen.update(kinds)
    write("ifeval/responses.jsonl", chosen)


def tool_calls(sets: Path) -> None:
    """Short items of every category, and the documents that the episodes need."""
    for category in SIMPLE + NON_LIVE + LIVE:
        write(
            f"bfcl-v4/{category}.jsonl",
            shortest(rows(sets / f"bfcl-v4/{category}.jsonl.gz"), 6),
        )
    classes = set()
    for category in [*EPISODES, "multi_turn_long_context"]:
        chosen = shortest(rows(sets / f"bfcl-v4/{category}.jsonl.gz"), 1)
        classes |= {name for row in chosen for name in row["involved_classes"]}
        write(f"bfcl-v4/{category}.jsonl", chosen)
    documents = sets / "bfcl-v4/multi_turn_function_docs.jsonl.gz"
    shutil.copyfile(documents, HERE / "bfcl-v4" / documents.name)


if __name__ == "__main__":
    source = Path(sys.argv[1])
    for choose in (mathematics, programs, instructions, tool_calls):
        choose(source)
