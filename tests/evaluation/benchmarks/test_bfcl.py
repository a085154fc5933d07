"""BFCL: ground truths pass, near misses fail, and what cannot be judged is an error."""

import copy
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from openqwq.evaluation import suite
from openqwq.evaluation.benchmarks import bfcl, bfcl_backends, bfcl_turns
from openqwq.evaluation.benchmarks.bfcl import BFCL, as_tool, headline
from openqwq.evaluation.benchmarks.bfcl_backends import APIS, require_backends
from openqwq.evaluation.benchmarks.bfcl_turns import (
    Scenario,
    TurnsVerifier,
    World,
    fault_in,
)
from openqwq.evaluation.benchmarks.data import Library
from openqwq.evaluation.benchmarks.livecodebench import Window
from openqwq.evaluation.evaluation import PRESETS, EvaluationSettings
from openqwq.evaluation.responders import ChatReply, Tools
from openqwq.evaluation.results import Record
from openqwq.train.judges import open_judges
from openqwq.types import Message, OpenQwQError, Task, ToolCall
from openqwq.verify.toolcalls import RightCalls, ToolCallVerifier


@pytest.fixture(scope="module")
def tasks(data_sets: Path) -> list[Task]:
    return bfcl.load(Library(data_sets))


@pytest.fixture(scope="module")
def backends() -> Path:
    """The data of bfcl-eval, all 800 scenarios; skipped where the package is not installed."""
    try:
        require_backends()
    except OpenQwQError as error:
        pytest.skip(str(error))
    import bfcl_eval

    return Path(bfcl_eval.__file__).parent / "data"


@pytest.fixture(scope="module")
def episodes(backends: Path) -> list[tuple[Task, Scenario]]:
    """Every scenario of the four multi-turn categories as a task, and the scenario itself."""
    documents: list[dict[str, Any]] = []
    for api in APIS.values():
        rows = lines(backends / f"multi_turn_func_doc/{api}.json")
        documents += [{**row, "api": api} for row in rows]
    found = []
    for category in bfcl.MULTI_TURN:
        answers = {}
        for row in lines(backends / f"possible_answer/BFCL_v4_{category}.json"):
            answers[row["id"]] = row["ground_truth"]
        for row in lines(backends / f"BFCL_v4_{category}.json"):
            row["ground_truth"] = answers[row["id"]]
            task = bfcl_turns.turns_task(category, row, documents)
            assert isinstance(task.reference, Scenario)
            found.append((task, task.reference))
    return found


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_every_category_is_read(tasks: list[Task]) -> None:
    kinds = Counter(task.kind for task in tasks)
    assert set(kinds) == {*bfcl.SIMPLE, *bfcl.NON_LIVE, *bfcl.LIVE, *bfcl.MULTI_TURN}
    found = (len(tasks), kinds["simple_python"], kinds["multi_turn_base"])
    assert found in [(2196, 207, 96), (81, 6, 1)]  # the whole sets; the samples


def golden(task: Task) -> str:
    """A reply with the first accepted value of every argument."""
    assert isinstance(task.reference, RightCalls)
    calls = [
        {"name": name, "arguments": {k: v[0] for k, v in given.items() if v[0] != ""}}
        for entry in task.reference.calls or []
        for name, given in entry.items()
    ]
    blocks = [f"<tool_call>\n{json.dumps(each)}\n</tool_call>" for each in calls]
    return "</think>" + ("\n".join(blocks) or "None of these functions helps.")


async def test_ground_truths_of_single_turns_pass_and_one_call_less_fails(
    tasks: list[Task],
) -> None:
    verifier = ToolCallVerifier()
    single = [
        t
        for t in tasks
        if t.verifier == "tool_calls_python" and t.reference != RightCalls(None)
    ]
    good = [(task, await verifier.score(task, golden(task))) for task in single]
    assert [(t.id, s.detail) for t, s in good if not s.value and "{" not in golden(t)] == []
    # some hold nested lists of values
    assert sum(score.value for _, score in good) / len(good) > 0.97
    silent = [await verifier.score(task, "</think>No.") for task in single]
    right = {task.kind for task, score in zip(single, silent, strict=True) if score.value}
    assert right == {"irrelevance", "live_irrelevance"}


def test_all_800_ground_truths_run_without_a_failure_and_pass(
    episodes: list[tuple[Task, Scenario]],
) -> None:
    assert len(episodes) == 800
    for task, scenario in episodes:
        turns = [[turn] if turn else [] for turn in scenario.truth]
        assert fault_in(scenario, turns) == "", task.id


async def test_a_ground_truth_that_fails_is_an_error_even_for_a_wrong_transcript(
    episodes: list[tuple[Task, Scenario]],
) -> None:
    task, scenario = next(e for e in episodes if e[0].id == "bfcl/multi_turn_base_0")
    gone = {"name": "cat", "arguments": {"file_name": "gone"}}
    for fault in (
        gone,
        {"name": "no_such", "arguments": {}},
        {"name": "cat", "arguments": {}},
    ):
        *earlier, last = scenario.truth
        broken = replace(scenario, truth=[*earlier, [*last, fault]])
        for turns in (broken.truth, [[], []]):
            transcript = json.dumps({"turns": [[turn] for turn in turns], "text": ""})
            verdict = await TurnsVerifier().score(
                replace(task, reference=broken), f"</think>{transcript}"
            )
            assert verdict.status == "error"
            assert "the ground truth of turn" in verdict.detail


def test_leaving_the_last_call_of_an_episode_out_fails(
    episodes: list[tuple[Task, Scenario]],
) -> None:
    passed = []
    for task, scenario in episodes:
        turns = [[turn[:]] if turn else [] for turn in scenario.truth]
        last = [steps for steps in turns if steps][-1]
        last[0].pop()
        if not last[0]:
            last.clear()
        if not fault_in(scenario, turns):
            passed.append(task.id)
    assert passed == []


def test_extra_reading_is_allowed_and_extra_writing_is_not(
    episodes: list[tuple[Task, Scenario]],
) -> None:
    scenario = next(s for t, s in episodes if t.id == "bfcl/multi_turn_base_0")
    turns = [[turn] for turn in scenario.truth]
    looks = copy.deepcopy(turns)
    looks[0].insert(0, [ToolCall(name="ls", arguments={})])
    assert fault_in(scenario, looks) == ""
    writes = copy.deepcopy(turns)
    writes[0].append([ToolCall(name="touch", arguments={"file_name": "more"})])
    assert fault_in(scenario, writes).startswith(
        "turn 0: GorillaFileSystem differs in root"
    )
    assert fault_in(scenario, [[], *turns[1:]]) == "turn 0: no call"
    assert fault_in(scenario, turns[:2]).startswith("turn 2: given up")


@pytest.mark.parametrize(
    ("api", "function", "arguments", "result"),
    [
        (
            "VehicleControlAPI",
            "get_zipcode_based_on_city",
            {"city": "Autumnville"},
            '{"zipcode": "51479"}',
        ),
        (
            "TravelAPI",
            "get_flight_cost",
            {
                "travel_from": "SFO",
                "travel_to": "LAX",
                "travel_date": "2026-10-15",
                "travel_class": "business",
            },
            '{"travel_cost_list": [400.0]}',
        ),
        (
            "TradingBot",
            "add_to_watchlist",
            {"stock": "AAPL"},
            '{"watchlist": ["NVDA", "AAPL"]}',
        ),
        (
            "GorillaFileSystem",
            "wc",
            {"file_name": "f", "mode": "l"},
            '{"count": 2, "type": "lines"}',
        ),
        (
            "MathAPI",
            "power",
            {"base": 10, "exponent": 10**9},
            "Error during execution: exponent",
        ),
        ("GorillaFileSystem", "cat", {"nothing": 1}, "Error during execution: "),
        ("GorillaFileSystem", "_load_scenario", {}, "Error during execution: name"),
    ],
)
def test_results_are_the_official_ones_and_bad_calls_are_results(
    backends: Path, api: str, function: str, arguments: dict[str, Any], result: str
) -> None:
    file = {"type": "file", "content": "one two\nthree\n"}
    root = {"workspace": {"type": "directory", "contents": {"f": file}}}
    world = World(Scenario([api], {api: {"root": root}}, False, {}, [], []))
    assert world.run(ToolCall(name=function, arguments=arguments)).startswith(result)


def test_without_the_package_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(bfcl_backends, "version", absent)
    with pytest.raises(OpenQwQError, match=r"pip install --no-deps bfcl-eval==.*bfcl/live"):
        require_backends()
    monkeypatch.setattr(bfcl_backends, "version", lambda name: "2024.1")
    with pytest.raises(OpenQwQError, match=r"bfcl-eval is 2024\.1"):
        require_backends()


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
    episodes: list[tuple[Task, Scenario]],
) -> None:
    task, scenario = next(e for e in episodes if e[0].id == "bfcl/multi_turn_miss_func_0")
    answers = []
    for turn in scenario.truth:
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
    episodes: list[tuple[Task, Scenario]],
) -> None:
    task = next(t for t, _ in episodes if t.id == "bfcl/multi_turn_base_0")
    looking = block(ToolCall(name="ls", arguments={}))
    endless = await BFCL.conduct(task, Script([looking] * 20))
    assert (
        "given up"
        in (await TurnsVerifier().score(task, f"</think>{endless.answer}")).detail
    )
    broken = await BFCL.conduct(task, Script(["<tool_call>{broken", "x", "x", "x"]))
    assert (
        "turn 0: no call"
        in (await TurnsVerifier().score(task, f"</think>{broken.answer}")).detail
    )


async def test_a_reply_that_is_no_transcript_is_an_error(
    episodes: list[tuple[Task, Scenario]],
) -> None:
    assert (await TurnsVerifier().score(episodes[0][0], "</think>hello")).status == "error"


def test_tools_are_shown_as_json_schemas_and_java_as_source_text() -> None:
    document = {
        "name": "f",
        "description": "F.",
        "parameters": {
            "type": "dict",
            "properties": {
                "a": {"type": "tuple", "items": {"type": "float"}, "description": "A."}
            },
        },
    }
    plain = as_tool(document, "python")["function"]["parameters"]
    assert plain["type"] == "object"
    assert plain["properties"]["a"] | {"description": ""} == {
        "type": "array", "items": {"type": "number"}, "description": "",
    }  # fmt: skip
    java = as_tool(document, "java")["function"]["parameters"]["properties"]["a"]
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
    document = {
        "name": "add",
        "api": "math_api",
        "parameters": {"properties": {"a": {}, "b": {}}},
    }
    with pytest.raises(OpenQwQError, match="not a call of literals"):
        bfcl_turns.turns_task("multi_turn_base", row, [document])
    with pytest.raises(OpenQwQError, match="unknown APIs Mystery"):
        bfcl_turns.turns_task(
            "multi_turn_base", row | {"involved_classes": ["Mystery"]}, []
        )


def test_a_run_with_episodes_is_refused_at_once_without_the_package(
    data_sets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse() -> None:
        raise OpenQwQError("bfcl-eval is missing")

    def open_model() -> Any:
        raise AssertionError("the model was opened")

    monkeypatch.setattr(suite, "require_backends", refuse)
    settings = EvaluationSettings("model", "greedy", PRESETS["greedy"], limit=1)
    window = Window("v5", "2024-08", "2025-01")
    out = tmp_path / "run"
    request = suite.EvaluationRequest(
        ["bfcl/multi_turn_base"], Library(data_sets), settings, out, window
    )
    with pytest.raises(OpenQwQError, match="bfcl-eval is missing"):
        suite.run_suite(request, open_model, open_judges)
    assert not out.exists()
