"""HumanEval and MBPP: Python functions, run against their hidden tests in the sandbox."""

import ast
import warnings
from collections.abc import Sequence

from openqwq.data.rows import Row
from openqwq.evaluation.benchmarks.benchmark import Benchmark
from openqwq.evaluation.benchmarks.data import DataFile, Library
from openqwq.tasks.hidden_tests import called_function
from openqwq.types import CodeTests, Message, OpenQwQError, Task

HUMANEVAL = DataFile(
    "humaneval/HumanEval.jsonl.gz",
    "openai/openai_humaneval",
    "openai_humaneval/test-00000-of-00001.parquet",
    "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
    local_sha256="18676e28d1f539d6c54e15875ca67dfee4d53efa7ab641b30330df6b8c39352c",
)
MBPP = DataFile(
    "mbpp/mbpp.jsonl.gz",
    "google-research-datasets/mbpp",
    "full/test-00000-of-00001.parquet",
    "4bb6404fdc6cacfda99d4ac4205087b89d32030c",
    local_sha256="edd6838ae6623912908b2f29bd64f8478a9e87587fda9818536a945253ef2e11",
)
TEST_IDS = range(11, 511)  # MBPP's test split; the rest is for training and examples
COMPLETE = (
    "Complete the following Python function. Give the whole function, with its imports, in one"
    " code block.\n```python\n{prompt}```"
)
WRITE = (
    "{text} Your function must pass these tests:\n\n{tests}\n\nGive the whole program in one"
    " Python code block."
)


def load_humaneval(library: Library) -> list[Task]:
    """The 164 functions to complete; what stands before a function in its prompt is its setup."""
    return [_humaneval(row) for row in library.rows(HUMANEVAL)]


def load_mbpp(library: Library) -> list[Task]:
    """The 500 tasks of the test split."""
    return [_mbpp(row) for row in library.rows(MBPP) if row["task_id"] in TEST_IDS]


def _humaneval(row: Row) -> Task:
    name = row["entry_point"]
    prompt = row["prompt"]
    head = prompt[: prompt.index(f"def {name}(")]
    script = f"{row['test']}\ncheck({name})"
    tests = CodeTests("script", entry_point=name, script=script, setup=head)
    question = COMPLETE.format(prompt=prompt.rstrip() + "\n")
    return _task(row["task_id"], "humaneval", question, tests)


def _mbpp(row: Row) -> Task:
    script = "\n".join(row["test_list"])
    point = called_function(script, row["code"])
    if point is None:
        raise OpenQwQError(
            f"MBPP task {row['task_id']} tests none of its functions: get it again"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a few references have invalid escape sequences
        tree = ast.parse(row["code"])
    # the tests of a few tasks name classes and modules of the reference
    shared = [ast.unparse(node) for node in tree.body if isinstance(node, ast.ClassDef)]
    shared += ["import sys"] * ("sys." in script)
    setup = "\n".join([*shared, row.get("test_setup_code") or ""])
    tests = CodeTests("script", entry_point=point, script=script, setup=setup)
    question = WRITE.format(text=row["text"].strip(), tests=script)
    return _task(f"mbpp/{row['task_id']}", "mbpp", question, tests)


def _task(name: str, kind: str, question: str, tests: CodeTests) -> Task:
    message = Message(role="user", content=question)
    return Task(name, kind, (message,), "code", tests=tests)


PROGRAM_BENCHMARKS: Sequence[Benchmark] = (
    Benchmark("humaneval", "HumanEval", 1, load_humaneval),
    Benchmark("mbpp", "MBPP", 1, load_mbpp),
)
