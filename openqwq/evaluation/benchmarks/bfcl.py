"""Berkeley Function Calling Leaderboard: single-turn calls, live ones, and multi-turn episodes.

The figure is version 3's overall: the plain mean of non-live, live and multi-turn accuracy. Live
weighs its items alike, the other two their categories; the three languages of `simple` are one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from openqwq.data.rows import Row
from openqwq.evaluation.benchmarks.benchmark import (
    AskModel,
    Benchmark,
    mean_of,
    one_question,
)
from openqwq.evaluation.benchmarks.bfcl_backends import APIS
from openqwq.evaluation.benchmarks.bfcl_turns import play, turns_task
from openqwq.evaluation.benchmarks.data import DataFile, Library
from openqwq.evaluation.responders import ChatReply
from openqwq.evaluation.results import Record, by_kind, pass_at_1
from openqwq.evaluation.statistics import Interval
from openqwq.types import Message, OpenQwQError, Task
from openqwq.verify.toolcalls import TOOL_CALLS, RightCalls

REPOSITORY = "gorilla-llm/Berkeley-Function-Calling-Leaderboard"
REVISION = "61fc0608cfd831fcfbbaa676ebdfef0ed963eeda"
SIMPLE = ("simple_python", "simple_java", "simple_javascript")
NON_LIVE = ("multiple", "parallel", "parallel_multiple", "irrelevance")
LIVE = (
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
    "live_relevance",
    "live_irrelevance",
)
MULTI_TURN = (
    "multi_turn_base",
    "multi_turn_miss_func",
    "multi_turn_miss_param",
    "multi_turn_long_context",
)
# version 4 renamed them, as local files are named
HUB_NAMES = {
    "simple_python": "simple",
    "simple_java": "java",
    "simple_javascript": "javascript",
}
LANGUAGES = {"simple_java": "java", "simple_javascript": "javascript"}
JSON_TYPES = {
    "dict": "object", "float": "number", "tuple": "array", "any": "string", "String": "string",
    "Boolean": "boolean", "HashMap": "object", "ArrayList": "array", "Array": "array",
    "long": "integer", "short": "integer", "byte": "integer", "double": "number",
    "char": "string", "Bigint": "integer",
}  # fmt: skip


def load(library: Library) -> list[Task]:
    """Every category's items."""
    tasks: list[Task] = []
    for category in (*SIMPLE, *NON_LIVE, *LIVE):
        tasks += [_single(category, row) for row in _rows(library, category)]
    documents = list(_documents(library))
    for category in MULTI_TURN:
        tasks += [turns_task(category, row, documents) for row in _rows(library, category)]
    return tasks


def _file(category: str, path: str = "{}") -> DataFile:
    name = f"BFCL_v3_{HUB_NAMES.get(category, category)}.json"
    return DataFile(f"bfcl-v4/{category}.jsonl.gz", REPOSITORY, path.format(name), REVISION)


def _rows(library: Library, category: str) -> Iterator[Row]:
    """Rows with their ground truth, which the hub keeps in files of their own."""
    if library.directory:
        yield from library.rows(_file(category))
        return
    answers = {}
    if not category.endswith("relevance"):
        file = _file(category, "possible_answer/{}")
        file = replace(file, local=f"bfcl-v4/{category} possible answers")
        for row in library.rows(file):
            answers[row["id"]] = row["ground_truth"]
    for row in library.rows(_file(category)):
        yield {**row, "ground_truth": answers.get(row["id"])}


def _documents(library: Library) -> Iterator[Row]:
    """Function documents of the multi-turn APIs, each with the name of its `api`."""
    local = "bfcl-v4/multi_turn_function_docs.jsonl.gz"
    if library.directory:
        yield from library.rows(
            DataFile(local, REPOSITORY, "multi_turn_func_doc", REVISION)
        )
        return
    for api in APIS.values():
        file = DataFile(
            f"{local} {api}", REPOSITORY, f"multi_turn_func_doc/{api}.json", REVISION
        )
        for row in library.rows(file):
            yield {**row, "api": api}


def _single(category: str, row: Row) -> Task:
    (messages,) = row["question"]
    functions = row["function"]
    if not isinstance(functions, list):
        functions = [functions]
    truth = row.get("ground_truth")
    if category.endswith("irrelevance"):
        truth = []
    elif truth is None and not category.endswith("relevance"):
        raise OpenQwQError(f"BFCL item {row['id']} has no ground truth: get its file again")
    return Task(
        f"bfcl/{row['id']}",
        category,
        tuple(Message(role=m["role"], content=m["content"]) for m in messages),
        TOOL_CALLS + LANGUAGES.get(category, "python"),
        reference=RightCalls(truth),
        tools=tuple(functions),
    )


async def conduct(task: Task, ask: AskModel) -> ChatReply:
    """One question, or an episode of several turns; tools are shown as JSON schemas."""
    if task.kind in MULTI_TURN:
        return await play(task, ask, [as_tool(tool, "python") for tool in task.tools])
    tools = tuple(as_tool(tool, LANGUAGES.get(task.kind, "python")) for tool in task.tools)
    return await one_question(replace(task, tools=tools), ask)


def as_tool(document: Mapping[str, Any], language: str) -> dict[str, Any]:
    """A function document as an OpenAI tool: BFCL's type names become JSON schema's.

    Arguments in another language than Python are asked for as source text.
    """
    parameters = _schema(document["parameters"])
    if language != "python":
        for name, given in document["parameters"]["properties"].items():
            kind = {"java": "Java", "javascript": "JavaScript"}[language]
            text = f"{given.get('description', '')} This is {kind} {given['type']} source text."
            parameters["properties"][name] = {"type": "string", "description": text.strip()}
    function = {"name": document["name"], "description": document["description"]}
    return {"type": "function", "function": {**function, "parameters": parameters}}


def _schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with JSON schema's names for its types, those of its parts too."""
    result = dict(schema)
    kind = result.get("type")
    if isinstance(kind, str):
        result["type"] = JSON_TYPES.get(kind, kind)
    fields = result.get("properties")
    if isinstance(fields, dict):
        result["properties"] = {name: _schema(each) for name, each in fields.items()}
    items = result.get("items")
    if isinstance(items, dict):
        result["items"] = _schema(items)
    return result


def headline(records: Sequence[Record]) -> Interval:
    """Version 3's overall over the categories that were run; of one alone, its own accuracy."""
    groups = by_kind(records)
    non_live = _accuracies(groups, NON_LIVE)
    simple = _accuracies(groups, SIMPLE)
    if simple:
        non_live.insert(0, mean_of(simple))
    live = [record for record in records if record.kind in LIVE]
    multi_turn = _accuracies(groups, MULTI_TURN)

    parts: list[Interval] = []
    if non_live:
        parts.append(mean_of(non_live))
    if live:
        parts.append(pass_at_1(live))
    if multi_turn:
        parts.append(mean_of(multi_turn))
    return mean_of(parts)


def _accuracies(
    groups: Mapping[str, Sequence[Record]], categories: Sequence[str]
) -> list[Interval]:
    return [pass_at_1(groups[name]) for name in categories if name in groups]


BFCL = Benchmark("bfcl", "BFCL v3", 1, load, conduct, headline)
