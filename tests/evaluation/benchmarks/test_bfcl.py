"""BFCL: ground truths pass, near misses fail, and every back end keeps the state it should."""

import copy
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from openqwq.evaluation.benchmarks import bfcl, bfcl_turns
from openqwq.evaluation.benchmarks.bfcl import BFCL, headline, shown
from openqwq.evaluation.benchmarks.bfcl_apis.calling import call, snake, state
from openqwq.evaluation.benchmarks.bfcl_apis.file_system import FileSystem
from openqwq.evaluation.benchmarks.bfcl_apis.travel import Travel
from openqwq.evaluation.benchmarks.bfcl_turns import CLASSES, TurnsVerifier, World, judge
from openqwq.evaluation.benchmarks.data import Library
from openqwq.evaluation.chat import ChatReply, Tools
from openqwq.evaluation.results import Record
from openqwq.types import Message, OpenQwQError, Task, ToolCall
from openqwq.verify.toolcalls import ToolCallVerifier


@pytest.fixture(scope="module")
def tasks(shared_data: Path) -> list[Task]:
    return bfcl.load(Library(shared_data))


@pytest.fixture(scope="module")
def episodes(tasks: list[Task]) -> list[tuple[Task, dict[str, Any]]]:
    return [(t, json.loads(t.answer or "")) for t in tasks if t.kind in bfcl.MULTI_TURN]


def test_every_category_is_read(tasks: list[Task]) -> None:
    kinds = Counter(task.kind for task in tasks)
    assert set(kinds) == {*bfcl.SIMPLE, *bfcl.NON_LIVE, *bfcl.LIVE, *bfcl.MULTI_TURN}
    assert (len(tasks), kinds["simple_python"], kinds["multi_turn_base"]) == (2196, 207, 96)


def golden(task: Task) -> str:
    """A reply with the first accepted value of every argument."""
    truth = json.loads(task.answer or "null")
    calls = [
        {"name": name, "arguments": {k: v[0] for k, v in given.items() if v[0] != ""}}
        for entry in truth or []
        for name, given in entry.items()
    ]
    blocks = [f"<tool_call>\n{json.dumps(each)}\n</tool_call>" for each in calls]
    return "</think>" + ("\n".join(blocks) or "None of these functions helps.")


async def test_ground_truths_of_single_turns_pass_and_one_call_less_fails(
    tasks: list[Task],
) -> None:
    verifier = ToolCallVerifier()
    single = [t for t in tasks if t.verifier == "tool_calls_python" and t.answer != "null"]
    good = [(task, await verifier.score(task, golden(task))) for task in single]
    assert [(t.id, s.detail) for t, s in good if not s.value and "{" not in golden(t)] == []
    assert (
        sum(score.value for _, score in good) / len(good) > 0.97
    )  # some hold nested lists of values
    silent = [await verifier.score(task, "</think>No.") for task in single]
    right = {task.kind for task, score in zip(single, silent, strict=True) if score.value}
    assert right == {"irrelevance", "live_irrelevance"}


def test_every_ground_truth_episode_runs_without_error_and_passes(
    episodes: list[tuple[Task, dict[str, Any]]],
) -> None:
    assert len(episodes) == 384
    for task, scenario in episodes:
        world = World(scenario)
        for turn in scenario["truth"]:
            for each in turn:
                assert not re.match(r'\{"error|Error', world.run(each)), (task.id, each)
        assert judge(scenario, [[turn] if turn else [] for turn in scenario["truth"]]) == ""


def test_leaving_the_last_call_of_an_episode_out_fails(
    episodes: list[tuple[Task, dict[str, Any]]],
) -> None:
    passed = []
    for task, scenario in episodes:
        turns = [[turn[:]] if turn else [] for turn in scenario["truth"]]
        last = [steps for steps in turns if steps][-1]
        last[0].pop()
        if not last[0]:
            last.clear()
        if not judge(scenario, turns):
            passed.append(task.id)
    assert passed == []


def test_extra_reading_is_allowed_and_extra_writing_is_not(
    episodes: list[tuple[Task, dict[str, Any]]],
) -> None:
    scenario = next(s for t, s in episodes if t.id == "bfcl/multi_turn_base_0")
    turns = [[turn] for turn in scenario["truth"]]
    looks = copy.deepcopy(turns)
    looks[0].insert(0, [ToolCall(name="ls", arguments={})])
    assert judge(scenario, looks) == ""
    writes = copy.deepcopy(turns)
    writes[0].append([ToolCall(name="touch", arguments={"file_name": "more"})])
    assert judge(scenario, writes).startswith("turn 0: GorillaFileSystem differs in root")
    assert judge(scenario, [[], *turns[1:]]) == "turn 0: no call"
    assert judge(scenario, turns[:2]).startswith("turn 2: given up")


def test_every_documented_function_has_a_method(shared_data: Path) -> None:
    apis = dict(CLASSES.values())
    for row in bfcl._documents(Library(shared_data)):
        method = getattr(apis[row["api"]], f"_{snake(row['name'])}")
        code = method.__code__
        taken = set(code.co_varnames[1 : code.co_argcount])
        assert taken == {snake(name) for name in row["parameters"]["properties"]}, row["name"]


def test_undocumented_names_are_never_called(
    episodes: list[tuple[Task, dict[str, Any]]],
) -> None:
    world = World(episodes[0][1])
    for name in ("_directory", "__init__", "directory", "fix", "os.system"):
        assert "There is no function" in world.run(ToolCall(name=name, arguments={}))


def test_bad_arguments_are_results_that_the_model_sees() -> None:
    files = FileSystem({})
    for arguments in ({"nothing": 1}, {"file_name": ["a"]}, {"file_name": "absent"}):
        assert "rror" in call(files, "cat", arguments)
    assert state(files) == state(FileSystem({}))


def test_the_file_system_moves_copies_finds_and_removes() -> None:
    files = FileSystem({})

    def run(function: str, **arguments: Any) -> Any:
        text = call(files, function, arguments)
        return None if text == "None" else json.loads(text)

    run("mkdir", dir_name="a")
    run("echo", content="one two\nthree", file_name="f.txt")
    assert run("wc", file_name="f.txt", mode="w") == {"count": 3, "type": "words"}
    run("cp", source="f.txt", destination="a")
    assert run("find", path=".", name="f") == {"matches": ["./a/f.txt", "./f.txt"]}
    assert "error" in run("rmdir", dir_name="a")
    run("cd", folder="a")
    run("mv", source="f.txt", destination="g.txt")
    assert run("tail", file_name="g.txt", lines=1) == {"last_lines": "three"}
    run("echo", content="two", file_name="g.txt")
    run("cp", source="g.txt", destination="h.txt")
    assert run("diff", file_name1="g.txt", file_name2="h.txt") == {"diff_lines": ""}
    run("rm", file_name="g.txt")
    assert run("pwd") == {"current_working_directory": "/workspace/a"}
    run("cd", folder="..")
    assert "error" in run("cd", folder="..")
    assert "error" in run("mv", source="a", destination="a")


def test_flights_cost_money_and_ids_are_those_of_the_ground_truths() -> None:
    config = {
        "access_token": "t",
        "token_expires_in": 9,
        "credit_card_list": {"c": {"balance": 500.0}},
    }
    travel = Travel(config)
    trip = {"travel_from": "SFO", "travel_to": "LAX", "travel_date": "2026-10-15"}
    pay = {"access_token": "t", "card_id": "c"}
    first = json.loads(call(travel, "book_flight", trip | pay | {"travel_class": "business"}))
    assert first["booking_id"] == "3426812"
    assert travel.credit_card_list["c"]["balance"] == 100.0
    second = call(travel, "book_flight", trip | pay | {"travel_class": "business"})
    assert "Insufficient balance" in second
    call(travel, "cancel_booking", {"access_token": "t", "booking_id": "3426812"})
    assert travel.credit_card_list["c"]["balance"] == 500.0


class Script:
    """Asks back what a list of answers says, and records what was offered."""

    def __init__(self, answers: Sequence[str]) -> None:
        self._answers: Iterator[str] = iter(answers)
        self.offered: list[set[str]] = []
        self.last: Sequence[Message] = ()

    async def __call__(self, messages: Sequence[Message], tools: Tools) -> ChatReply:
        self.offered.append({tool["function"]["name"] for tool in tools})
        self.last = [*messages]
        return ChatReply("hm", next(self._answers), "stop", 5, 1, 3)


def block(each: ToolCall) -> str:
    return f"<tool_call>\n{json.dumps(each)}\n</tool_call>"


async def test_an_episode_executes_calls_and_shows_results(
    episodes: list[tuple[Task, dict[str, Any]]],
) -> None:
    task, scenario = next(e for e in episodes if e[0].id == "bfcl/multi_turn_miss_func_0")
    answers = []
    for turn in scenario["truth"]:
        answers += [*(["\n".join(map(block, turn))] if turn else []), "Done."]
    script = Script(answers)
    reply = await BFCL.conduct(task, script)
    verdict = await TurnsVerifier().score(task, f"</think>{reply.answer}")
    assert (verdict.value, verdict.detail) == (1.0, "")
    assert "sort" not in script.offered[0] and "sort" in script.offered[-1]
    assert bfcl_turns.MORE_FUNCTIONS in [m["content"] for m in script.last]
    tools = [m["content"] for m in script.last if m["role"] == "tool"]
    assert '{"current_working_directory": "document"}' in tools
    assert reply.completion_tokens == 3 * len(answers)


async def test_endless_calls_end_an_episode_and_malformed_ones_a_turn(
    episodes: list[tuple[Task, dict[str, Any]]],
) -> None:
    task = next(t for t, _ in episodes if t.id == "bfcl/multi_turn_base_0")
    looking = block(ToolCall(name="ls", arguments={}))
    endless = await BFCL.conduct(task, Script([looking] * 20))
    assert "given up" in (await TurnsVerifier().score(task, f"</think>{endless.answer}")).detail
    broken = await BFCL.conduct(task, Script(["<tool_call>{broken", "x", "x", "x"]))
    assert (
        "turn 0: no call" in (await TurnsVerifier().score(task, f"</think>{broken.answer}")).detail
    )


async def test_a_reply_that_is_no_transcript_is_an_error(
    episodes: list[tuple[Task, dict[str, Any]]],
) -> None:
    assert (await TurnsVerifier().score(episodes[0][0], "</think>hello")).status == "error"


def test_tools_are_shown_as_json_schemas_and_java_as_source_text() -> None:
    document = {
        "name": "f",
        "description": "F.",
        "parameters": {
            "type": "dict",
            "properties": {"a": {"type": "tuple", "items": {"type": "float"}, "description": "A."}},
        },
    }
    plain = shown(document, "python")["function"]["parameters"]
    assert plain["type"] == "object"
    assert plain["properties"]["a"] | {"description": ""} == {
        "type": "array", "items": {"type": "number"}, "description": "",
    }  # fmt: skip
    java = shown(document, "java")["function"]["parameters"]["properties"]["a"]
    assert java["type"] == "string"
    assert "Java tuple" in java["description"]


def test_the_overall_weighs_groups_and_not_items() -> None:
    def records(kind: str, *values: float) -> list[Record]:
        return [
            Record(f"bfcl/{kind}_{i}", kind, 0, 0, [], value=v, generated=True)
            for i, v in enumerate(values)
        ]

    every = [
        *records("simple_python", 1, 1, 1, 1),
        *records("simple_java", 0),  # simple: 0.5
        *records("multiple", 1, 0, 0, 0),  # non-live: (0.5 + 0.25) / 2
        *records("live_simple", 1),
        *records("live_multiple", 0, 0, 0),  # live: 0.25 of its items
        *records("multi_turn_base", 1),
        *records("multi_turn_miss_func", 0),  # multi-turn: 0.5
    ]
    assert headline(every).value == pytest.approx((0.375 + 0.25 + 0.5) / 3)
    assert headline(records("multiple", 1, 0)).value == 0.5
    assert headline(every).low < headline(every).value < headline(every).high


def test_a_ground_truth_that_is_code_is_refused() -> None:
    row = {
        "id": "x", "involved_classes": ["MathAPI"], "initial_config": {}, "question": [[]],
        "ground_truth": [["add(a=__import__('os').getpid(), b=1)"]],
    }  # fmt: skip
    document = {"name": "add", "api": "math_api", "parameters": {"properties": {"a": {}, "b": {}}}}
    with pytest.raises(OpenQwQError, match="not a call of literals"):
        bfcl_turns.turns_task("multi_turn_base", row, [document])
    with pytest.raises(OpenQwQError, match="unknown APIs Mystery"):
        bfcl_turns.turns_task("multi_turn_base", row | {"involved_classes": ["Mystery"]}, [])
