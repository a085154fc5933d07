"""AIME 2024 and 2025, MATH-500 and GSM8K: a final answer in a box, judged by equivalence."""

import re
from collections.abc import Callable, Sequence

from openqwq.data.rows import Row
from openqwq.evaluation.benchmarks.benchmark import Benchmark
from openqwq.evaluation.benchmarks.data import DataFile, Library
from openqwq.types import Message, Task
from openqwq.verify.boxes import last_box

SUFFIX = "\nPlease reason step by step, and put your final answer within \\boxed{}."
AIME24 = DataFile(
    "aime2024/problems.jsonl",
    "HuggingFaceH4/aime_2024",
    "data/train-00000-of-00001.parquet",
    "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
    local_sha256="1f8291fb8a882dbc1c03f81d7455ac342c0c30653526015b1f33531c967f74f7",
)
AIME25 = DataFile(
    "aime2025/problems.jsonl",
    "math-ai/aime25",
    "test.jsonl",
    "563bb8404243c5f09de6ec262f2db674fe5bce9b",
)
MATH500 = DataFile(
    "math500/test.jsonl.gz",
    "HuggingFaceH4/MATH-500",
    "test.jsonl",
    "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
    local_sha256="496dd62cc6d533112408683d6c6824bbb8c5de44565394a0e1ad420e8cbe842e",
)
GSM8K = DataFile(
    "gsm8k/test.jsonl.gz",
    "openai/gsm8k",
    "main/test-00000-of-00001.parquet",
    "740312add88f781978c0658806c59bc2815b9866",
    local_sha256="51c03a3a15524650996b0d19c41d051494e9c2cbfbc1c27b92eec299e73a8278",
)


def _read(name: str, file: DataFile) -> Callable[[Library], list[Task]]:
    def load(library: Library) -> list[Task]:
        return [_task(name, i, row) for i, row in enumerate(library.rows(file))]

    return load


def _task(name: str, index: int, row: Row) -> Task:
    problem = row["question"] if "question" in row else row["problem"]
    answer = str(row["answer"])
    if "####" in answer:  # the hub's GSM8K: the worked solution with the answer at its end
        answer = answer.rpartition("####")[2].strip().replace(",", "")
    question = problem.strip() + SUFFIX
    kind = f"level {row['level']}" if "level" in row else name
    message = Message(role="user", content=question)
    return Task(f"{name}/{index}", kind, (message,), "math", answer=answer)


MATHEMATICS: Sequence[Benchmark] = (
    Benchmark("aime24", "AIME 2024", 64, _read("aime24", AIME24)),
    Benchmark("aime25", "AIME 2025", 64, _read("aime25", AIME25)),
    Benchmark("math500", "MATH-500", 1, _read("math500", MATH500)),
    Benchmark("gsm8k", "GSM8K", 1, _read("gsm8k", GSM8K)),
)


def voted_answer(answer: str) -> str | None:
    """What a reply votes for in cons@k: its last box, else its last number; None without either."""
    boxed = last_box(answer)
    if boxed is not None:
        return _plain(boxed)
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", answer)
    if not numbers:
        return None
    return _plain(numbers[-1])


def _plain(text: str) -> str:
    text = re.sub(r"[\s$]|\\[,;! ]", "", text).replace("\\dfrac", "\\frac")
    number = text.replace(",", "")
    if re.fullmatch(r"-?\d{1,1000}", number):
        return str(int(number))
    return text
