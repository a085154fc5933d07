"""IFEval (arXiv 2311.07911): 541 prompts; the figure is strict accuracy of whole prompts."""

from openqwq.evaluation.benchmarks.benchmark import Benchmark
from openqwq.evaluation.benchmarks.data import DataFile, Library
from openqwq.tasks.columns import find_rules
from openqwq.types import Message, Task

PROMPTS = DataFile(
    "ifeval/prompts.jsonl.gz",
    "google/IFEval",
    "ifeval_input_data.jsonl",
    "966cd89545d6b6acfd7638bc708b98261ca58e84",
    local_sha256="fed4ae23e6b8917ba49571939b167de0a02e40dec520f572b37f743cf4b8d9bf",
)


def load(library: Library) -> list[Task]:
    """The prompts with their rules."""
    tasks = []
    for row in library.rows(PROMPTS):
        name = f"ifeval/{row['key']}"
        message = Message(role="user", content=row["prompt"])
        tasks.append(
            Task(name, "ifeval", (message,), "instructions", rules=find_rules(row))
        )
    return tasks


IFEVAL = Benchmark("ifeval", "IFEval", 1, load)
