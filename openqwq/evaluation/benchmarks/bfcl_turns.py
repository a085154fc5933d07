"""BFCL's multi-turn episodes: a model acts on simulated APIs, and their states are compared.

After each turn the state of every API must equal the one that the ground truth's calls leave, and
the model must have seen every result that the ground truth's calls of that turn give. A turn
without ground truth (a function or parameter is missing) is not judged, as in the leaderboard.
"""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openqwq.data.rows import Row
from openqwq.evaluation.benchmarks.benchmark import AskModel
from openqwq.evaluation.benchmarks.bfcl_backends import (
    APIS,
    call,
    differences,
    failed,
    functions,
    open_api,
)
from openqwq.evaluation.responders import ChatReply
from openqwq.types import Message, OpenQwQError, Score, Task, ToolCall
from openqwq.verify.answer import final_answer
from openqwq.verify.toolcalls import extract_calls

STEPS = 20  # replies in one turn; one that needs more has failed
MORE_FUNCTIONS = "I have updated some more functions you can choose from. What about now?"


@dataclass(frozen=True)
class Scenario:
    """All that an episode and its judge need.

    `config` is the state that each API of `classes` begins in. `missed` names the functions that
    are offered from a turn on. `truth` are the right calls of each turn.
    """

    classes: Sequence[str]
    config: Mapping[str, Any]
    long_context: bool
    missed: Mapping[str, Sequence[str]]
    turns: Sequence[Sequence[Mapping[str, Any]]]
    truth: Sequence[Sequence[ToolCall]]


class World:
    """The APIs of one scenario, each in its configured state."""

    def __init__(self, scenario: Scenario) -> None:
        self.apis: dict[str, Any] = {}
        self._owners: dict[str, Any] = {}
        for name in scenario.classes:
            config = scenario.config.get(name) or {}
            api = open_api(name, config, scenario.long_context)
            self.apis[name] = api
            for function in functions(api):
                self._owners[function] = api

    def run(self, request: ToolCall) -> str:
        """Return the result of one call, as the model sees it."""
        name = request["name"]
        if name not in self._owners:
            return f"Error during execution: name {name!r} is not defined"
        return call(self._owners[name], name, request["arguments"])


def turns_task(category: str, row: Row, documents: Sequence[Row]) -> Task:
    """Return one scenario as a task.

    Raises OpenQwQError for an unknown class or a ground truth that is not a list of literal calls.
    """
    classes = row["involved_classes"]
    unknown = [name for name in classes if name not in APIS]
    if unknown:
        raise OpenQwQError(
            f"BFCL item {row['id']} needs the unknown APIs {', '.join(unknown)}"
        )

    involved = {APIS[name] for name in classes}
    left_out = row.get("excluded_function") or []
    shown = []
    order = {}
    for document in documents:
        order[document["name"]] = list(document["parameters"]["properties"])
        if document["api"] in involved and document["name"] not in left_out:
            shown.append({key: value for key, value in document.items() if key != "api"})

    scenario = Scenario(
        classes=classes,
        config=row["initial_config"],
        long_context=category.endswith("long_context"),
        missed=row.get("missed_function") or {},
        turns=row["question"],
        truth=[_literal_calls(turn, order) for turn in row["ground_truth"]],
    )
    return Task(
        f"bfcl/{row['id']}",
        category,
        tuple(_messages(row["question"][0])),
        "bfcl_turns",
        reference=scenario,
        tools=tuple(shown),
    )


def _literal_calls(
    turn: Sequence[str], order: Mapping[str, Sequence[str]]
) -> list[ToolCall]:
    return [literal_call(text, order) for text in turn]


def _messages(turn: Sequence[Mapping[str, Any]]) -> list[Message]:
    return [Message(role=message["role"], content=message["content"]) for message in turn]


def literal_call(text: str, order: Mapping[str, Sequence[str]]) -> ToolCall:
    """Return the call that Python source spells; `order` names each function's arguments in order.

    Raises OpenQwQError unless it is one call of literals.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            raise ValueError("not a call")
        name = node.func.id
        values = map(ast.literal_eval, node.args)
        arguments = dict(zip(order[name], values, strict=False))
        for keyword in node.keywords:
            arguments[str(keyword.arg)] = ast.literal_eval(keyword.value)
        # as a model's calls: tuples become lists
        arguments = json.loads(json.dumps(arguments))
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise OpenQwQError(
            f"BFCL ground truth {text!r} is not a call of literals: {error}"
        ) from error
    return ToolCall(name=name, arguments=arguments)


async def play(task: Task, ask: AskModel, tools: Sequence[Mapping[str, Any]]) -> ChatReply:
    """Play one episode; the reply's `answer` is its transcript as JSON, for `TurnsVerifier`.

    A reply whose calls are malformed ends its turn, as does one without calls.
    """
    scenario = task.reference
    assert isinstance(scenario, Scenario)
    world = World(scenario)
    hidden: set[str] = set()
    for names in scenario.missed.values():
        hidden.update(names)

    messages: list[Message] = []
    turns: list[list[list[ToolCall]]] = []
    replies: list[ChatReply] = []
    for number, asked in enumerate(scenario.turns):
        hidden -= set(scenario.missed.get(str(number), []))
        messages += _messages(asked) or [Message(role="user", content=MORE_FUNCTIONS)]
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
    ask: AskModel,
    replies: list[ChatReply],
) -> list[list[ToolCall]]:
    """Return the calls of each step of one turn; extend the conversation and the replies."""
    steps: list[list[ToolCall]] = []
    while len(steps) < STEPS:
        reply = await ask(messages, tools)
        replies.append(reply)
        answer = reply.answer or ""
        try:
            calls = extract_calls(answer)
        except (ValueError, RecursionError):
            calls = []
        if not calls:
            messages.append(Message(role="assistant", content=answer))
            break

        before = answer.partition("<tool_call>")[0].strip()
        messages.append(Message(role="assistant", content=before, tool_calls=calls))
        messages += [Message(role="tool", content=world.run(each)) for each in calls]
        steps.append(calls)
    return steps


class TurnsVerifier:
    """Judges a transcript that `play` wrote: value 1 if every turn ends as the ground truth's."""

    async def score(self, task: Task, completion: str) -> Score:
        """Judge a transcript; `error` where the ground truth itself fails or there is none."""
        if not isinstance(task.reference, Scenario):
            return Score(0.0, "error", detail=f"task {task.id!r} has no scenario of BFCL")
        try:
            turns = json.loads(final_answer(completion) or "")["turns"]
        except (ValueError, KeyError, TypeError) as error:
            return Score(
                0.0, "error", detail=f"task {task.id!r} has no transcript: {error}"
            )
        try:
            fault = fault_in(task.reference, turns)
        except OpenQwQError as error:
            return Score(0.0, "error", detail=f"task {task.id!r}: {error}")
        if fault:
            return Score(0.0, "wrong", detail=fault)
        return Score(1.0, "correct")


def fault_in(scenario: Scenario, turns: Sequence[Sequence[Sequence[ToolCall]]]) -> str:
    """Say what is wrong with a transcript's turns of steps of calls, "" if nothing is.

    Raises OpenQwQError where a call of the ground truth fails: then no model can be right.
    """
    wanted = _results_of_truth(scenario)
    world = World(scenario)
    right = World(scenario)
    seen: list[str] = []
    for number, truth in enumerate(scenario.truth):
        if number >= len(turns) or len(turns[number]) >= STEPS:
            return f"turn {number}: given up after {STEPS} steps"
        calls: list[ToolCall] = []
        for step in turns[number]:
            calls += step
        seen += [world.run(each) for each in calls]
        for each in truth:
            right.run(each)
        if not truth:
            continue
        if not calls:
            return f"turn {number}: no call"

        for name, api in right.apis.items():
            keys = differences(world.apis[name], api)
            if keys:
                return f"turn {number}: {name} differs in {', '.join(keys)}"
        unseen = list(wanted[number])
        for result in seen:
            if result in unseen:
                unseen.remove(result)
        if unseen:
            return f"turn {number}: never saw {unseen[0]:.200}"
    return ""


def _results_of_truth(scenario: Scenario) -> list[list[str]]:
    """Return the results of each turn of the ground truth."""
    world = World(scenario)
    results = []
    for number, turn in enumerate(scenario.truth):
        found = [world.run(each) for each in turn]
        for each, result in zip(turn, found, strict=True):
            if failed(result):
                raise OpenQwQError(
                    f"the ground truth of turn {number} fails: {each['name']} gives {result:.200}"
                )
        results.append(found)
    return results
