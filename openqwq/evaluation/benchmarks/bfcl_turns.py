"""BFCL's multi-turn episodes: a model acts on simulated APIs, and their states are compared.

After each turn the state of every API must equal the one that the ground truth's calls leave, and
the model must have seen every result that the ground truth's calls of that turn give. A turn
without ground truth (a function or parameter is missing) is not judged, as in the leaderboard.
"""

import ast
import copy
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from openqwq.evaluation.benchmarks.benchmark import Ask
from openqwq.evaluation.benchmarks.bfcl_apis.calling import call, state
from openqwq.evaluation.benchmarks.bfcl_apis.file_system import FileSystem
from openqwq.evaluation.benchmarks.bfcl_apis.filler import lengthen
from openqwq.evaluation.benchmarks.bfcl_apis.mathematics import Mathematics
from openqwq.evaluation.benchmarks.bfcl_apis.messages import Messages
from openqwq.evaluation.benchmarks.bfcl_apis.posting import Posting
from openqwq.evaluation.benchmarks.bfcl_apis.tickets import Tickets
from openqwq.evaluation.benchmarks.bfcl_apis.trading import Trading
from openqwq.evaluation.benchmarks.bfcl_apis.travel import Travel
from openqwq.evaluation.benchmarks.bfcl_apis.vehicle import Vehicle
from openqwq.evaluation.benchmarks.data import Row
from openqwq.evaluation.chat import ChatReply
from openqwq.types import Message, OpenQwQError, Score, Task, ToolCall
from openqwq.verify.answer import final_answer
from openqwq.verify.toolcalls import extract_calls

CLASSES: Mapping[str, tuple[str, type[Any]]] = {
    "GorillaFileSystem": ("gorilla_file_system", FileSystem),
    "MathAPI": ("math_api", Mathematics),
    "MessageAPI": ("message_api", Messages),
    "TwitterAPI": ("posting_api", Posting),
    "TicketAPI": ("ticket_api", Tickets),
    "TradingBot": ("trading_bot", Trading),
    "TravelAPI": ("travel_booking", Travel),
    "VehicleControlAPI": ("vehicle_control", Vehicle),
}  # BFCL's class: the name of its function documents, and our back end
STEPS = 20  # replies in one turn; one that needs more has failed
MORE_FUNCTIONS = "I have updated some more functions you can choose from. What about now?"


class World:
    """The APIs of one scenario, each in its configured state."""

    def __init__(self, scenario: Mapping[str, Any]) -> None:
        self._owners: Mapping[str, str] = scenario["functions"]
        self._apis = {}
        for name in scenario["classes"]:
            config = copy.deepcopy(scenario["config"].get(name) or {})
            self._apis[name] = CLASSES[name][1](config)
            if scenario["long"]:
                lengthen(self._apis[name], scenario["pictures"])

    def run(self, request: ToolCall) -> str:
        """The result of one call, as the model sees it."""
        name = request["name"]
        if name not in self._owners:
            return json.dumps({"error": f"There is no function {name!r}."})
        return call(self._apis[self._owners[name]], name, request["arguments"])

    def states(self) -> dict[str, dict[str, Any]]:
        """Each API's state by its class."""
        return {name: state(api) for name, api in self._apis.items()}


def turns_task(category: str, row: Row, documents: Sequence[Row]) -> Task:
    """One scenario as a task; its `answer` is all that an episode and its judge need, as JSON.

    Raises OpenQwQError for an unknown class or a ground truth that is no list of literal calls.
    """
    unknown = [name for name in row["involved_classes"] if name not in CLASSES]
    if unknown:
        raise OpenQwQError(f"BFCL item {row['id']} needs the unknown APIs {', '.join(unknown)}")
    apis = {CLASSES[name][0]: name for name in row["involved_classes"]}
    left_out = row.get("excluded_function") or []
    offered = [d for d in documents if d["api"] in apis and d["name"] not in left_out]
    order = {d["name"]: list(d["parameters"]["properties"]) for d in documents}
    scenario = {
        "classes": row["involved_classes"],
        "config": row["initial_config"],
        "functions": {d["name"]: apis[d["api"]] for d in documents if d["api"] in apis},
        "long": category.endswith("long_context"),
        "pictures": re.findall(r"image_\d+\.jpg", json.dumps(row["ground_truth"])),
        "missed": row.get("missed_function") or {},
        "turns": row["question"],
        "truth": [[literal_call(text, order) for text in turn] for turn in row["ground_truth"]],
    }
    shown = [{key: value for key, value in d.items() if key != "api"} for d in offered]
    first = tuple(Message(role=m["role"], content=m["content"]) for m in row["question"][0])
    name = f"bfcl/{row['id']}"
    answer = json.dumps(scenario)
    return Task(name, category, first, "bfcl_turns", answer=answer, tools=tuple(shown))


def literal_call(text: str, order: Mapping[str, Sequence[str]]) -> ToolCall:
    """The call that Python source spells; `order` names each function's arguments in order.

    Raises OpenQwQError unless it is one call of literals.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            raise ValueError("not a call")
        name = node.func.id
        positional = zip(order[name], map(ast.literal_eval, node.args), strict=False)
        named = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
    except (ValueError, SyntaxError, KeyError) as error:
        raise OpenQwQError(
            f"BFCL ground truth {text!r} is not a call of literals: {error}"
        ) from error
    return ToolCall(name=name, arguments=dict(positional) | named)


async def play(task: Task, ask: Ask, tools: Sequence[Mapping[str, Any]]) -> ChatReply:
    """One episode: the reply's `answer` is its transcript as JSON, for `TurnsVerifier`.

    A reply whose calls are malformed ends its turn, as does one without calls.
    """
    scenario = json.loads(task.answer or "")
    world, missed = World(scenario), dict[str, list[str]](scenario["missed"])
    hidden = {name for names in missed.values() for name in names}
    messages: list[Message] = []
    turns: list[list[list[ToolCall]]] = []
    replies: list[ChatReply] = []
    for number, asked in enumerate(scenario["turns"]):
        hidden -= set(missed.get(str(number), []))
        given = [Message(role=m["role"], content=m["content"]) for m in asked]
        messages += given or [Message(role="user", content=MORE_FUNCTIONS)]
        offered = [tool for tool in tools if tool["function"]["name"] not in hidden]
        steps = await _turn(messages, offered, world, ask, replies)
        turns.append(steps)
        if len(steps) >= STEPS:
            break
    last = replies[-1]
    return ChatReply(
        "\n\n".join(reply.reasoning for reply in replies),
        json.dumps({"turns": turns, "text": last.answer}),
        last.finish_reason,
        sum(reply.prompt_tokens for reply in replies),
        sum(reply.reasoning_tokens for reply in replies),
        sum(reply.completion_tokens for reply in replies),
    )


async def _turn(
    messages: list[Message],
    tools: Sequence[Mapping[str, Any]],
    world: World,
    ask: Ask,
    replies: list[ChatReply],
) -> list[list[ToolCall]]:
    """The calls of each step of one turn; extends the conversation and the replies."""
    steps: list[list[ToolCall]] = []
    while len(steps) < STEPS:
        reply = await ask(messages, tools)
        replies.append(reply)
        answer = reply.answer or ""
        try:
            calls = extract_calls(answer)
        except (ValueError, RecursionError):
            calls = []
        content = answer.partition("<tool_call>")[0].strip() if calls else answer
        message = Message(role="assistant", content=content)
        if calls:
            message["tool_calls"] = calls
        messages.append(message)
        if not calls:
            break
        steps.append(calls)
        messages += [Message(role="tool", content=world.run(each)) for each in calls]
    return steps


class TurnsVerifier:
    """Value 1 if every turn of a transcript leaves the ground truth's states and results."""

    async def score(self, task: Task, completion: str) -> Score:
        """Judge a transcript as `play` writes it; `error` where the ground truth itself fails."""
        scenario = json.loads(task.answer or "")
        try:
            turns = json.loads(final_answer(completion) or "")["turns"]
        except (ValueError, KeyError, TypeError) as error:
            return Score(0.0, "error", detail=f"task {task.id!r} has no transcript: {error}")
        fault = judge(scenario, turns)
        return Score(float(not fault), "wrong" if fault else "correct", {}, fault)


def judge(scenario: Mapping[str, Any], turns: Sequence[Sequence[Sequence[ToolCall]]]) -> str:
    """What is wrong with a transcript's turns of steps of calls, "" if nothing is."""
    world, right = World(scenario), World(scenario)
    seen: list[str] = []
    for number, truth in enumerate(scenario["truth"]):
        if number >= len(turns) or len(turns[number]) >= STEPS:
            return f"turn {number}: given up after {STEPS} steps"
        calls = [each for step in turns[number] for each in step]
        seen += [world.run(each) for each in calls]
        wanted = [right.run(each) for each in truth]
        if not truth:
            continue
        if not calls:
            return f"turn {number}: no call"
        mine, theirs = world.states(), right.states()
        for name in theirs:
            keys = [key for key in theirs[name] if mine[name].get(key) != theirs[name][key]]
            if keys:
                return f"turn {number}: {name} differs in {', '.join(keys)}"
        unseen = list(wanted)
        for result in seen:
            if result in unseen:
                unseen.remove(result)
        if unseen:
            return f"turn {number}: never saw {unseen[0]:.200}"
    return ""
