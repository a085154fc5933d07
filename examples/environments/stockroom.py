"""A mock API of one's own with state, as in BFCL's multi-turn tasks: shelves, moves, feedback.

A source makes its problems and an environment runs the model's calls. A config names both:

    [data.stockroom]
    source = "stockroom.py:stockroom"
    options = { min_orders = 1, max_orders = 3 }
    environment = "stockroom.py:StockroomEnvironment"
"""

import json
import random
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from openqwq.agent.environments import ToolEpisode
from openqwq.agent.tools import by_name, tool
from openqwq.tasks.source import Problem, Source, Turn
from openqwq.text.schema import specification
from openqwq.types import Message, OpenQwQError, Score, Task, ToolCall

SHELVES = ("A", "B", "C", "D")
ITEMS = ("bolts", "cups", "lamps", "nails", "pens", "ropes")


class Stockroom:
    """Shelves and how many of each item they hold; what cannot be done is an OpenQwQError."""

    def __init__(self, shelves: Mapping[str, Mapping[str, int]]) -> None:
        self.shelves = {shelf: dict(items) for shelf, items in shelves.items()}

    def look(self, shelf: str) -> str:
        """Tell what a shelf holds."""
        items = sorted(self._shelf(shelf).items())
        return ", ".join(f"{amount} {item}" for item, amount in items) or "nothing"

    def move(self, item: str, amount: int, source: str, target: str) -> str:
        """Move items from one shelf to another."""
        self._shelf(target)
        self.remove(item, amount, source)
        return self.add(item, amount, target)

    def add(self, item: str, amount: int, shelf: str) -> str:
        """Put new items on a shelf."""
        held = self._shelf(shelf)
        held[item] = held.get(item, 0) + self._positive(amount)
        return "ok"

    def remove(self, item: str, amount: int, shelf: str) -> str:
        """Take items off a shelf and throw them away."""
        held = self._shelf(shelf)
        if held.get(item, 0) < self._positive(amount):
            raise OpenQwQError(
                f"shelf {shelf} holds {held.get(item, 0)} {item}, not {amount}"
            )
        held[item] -= amount
        if not held[item]:
            del held[item]
        return "ok"

    def _shelf(self, name: str) -> dict[str, int]:
        if name not in self.shelves:
            raise OpenQwQError(f"there is no shelf {name}: use {', '.join(self.shelves)}")
        return self.shelves[name]

    @staticmethod
    def _positive(amount: int) -> int:
        if amount < 1:
            raise OpenQwQError(f"amount is {amount}: it must be at least 1")
        return amount


METHODS = ("look", "move", "add", "remove")
TOOLS = tuple(specification(getattr(Stockroom, name)) for name in METHODS)


@dataclass(frozen=True)
class Orders:
    """The shelves before and after the orders are carried out, and the number to be said."""

    before: Mapping[str, Mapping[str, int]]
    after: Mapping[str, Mapping[str, int]]
    said: str | None


@dataclass
class _Draft:
    """A problem under way: orders in words, the state they lead to, and the calls that do."""

    rng: random.Random
    room: Stockroom
    orders: list[str]
    turns: list[Turn]
    said: str | None = None

    def call(self, thinking: str, name: str, **arguments: Any) -> None:
        """Make a call and note it with its answer."""
        result = str(getattr(self.room, name)(**arguments))
        turn = Message(role="assistant", content="", reasoning_content=thinking)
        turn["tool_calls"] = [ToolCall(name=name, arguments=arguments)]
        self.turns.append(Turn(turn, (Message(role="tool", content=result),)))

    def stock(self) -> tuple[str, str, int]:
        """A shelf, an item on it, and how many there are."""
        full = [shelf for shelf, items in self.room.shelves.items() if items]
        shelf = self.rng.choice(full)
        item, amount = self.rng.choice(sorted(self.room.shelves[shelf].items()))
        return shelf, item, amount

    def other(self, shelf: str) -> str:
        """Another shelf."""
        return self.rng.choice([name for name in self.room.shelves if name != shelf])


def _move_some(draft: _Draft) -> None:
    shelf, item, held = draft.stock()
    target = draft.other(shelf)
    amount = draft.rng.randint(1, held)
    draft.orders.append(f"move {amount} {item} from {shelf} to {target}")
    draft.call("known: move", "move", item=item, amount=amount, source=shelf, target=target)


def _move_all(draft: _Draft) -> None:
    shelf, item, held = draft.stock()
    target = draft.other(shelf)
    draft.orders.append(f"move all {item} from {shelf} to {target}")
    draft.call(f"how many {item}: look", "look", shelf=shelf)
    draft.call(
        f"{held} {item}: move", "move", item=item, amount=held, source=shelf, target=target
    )


def _fill_up(draft: _Draft) -> None:
    shelf, item, held = draft.stock()
    wanted = draft.rng.choice([n for n in range(1, 10) if n != held])
    draft.orders.append(f"see to it that {shelf} holds {wanted} {item}")
    draft.call(f"how many {item}: look", "look", shelf=shelf)
    name = "add" if wanted > held else "remove"
    amount = abs(wanted - held)
    draft.call(f"{held}, not {wanted}: {name}", name, item=item, amount=amount, shelf=shelf)


ORDERS: tuple[Callable[[_Draft], None], ...] = (_move_some, _move_all, _fill_up)


def stockroom(min_orders: int, max_orders: int) -> Source:
    """Orders to be carried out by calls, the shelves unseen; half of them end with a question.

    Judged by the state that the calls leave and by the number asked for. A problem is its orders
    and its shelves together.
    """

    def draw(rng: random.Random) -> Problem:
        names = SHELVES[: rng.randint(2, 4)]
        before: dict[str, dict[str, int]] = {}
        for name in names:
            before[name] = {item: rng.randint(1, 9) for item in rng.sample(ITEMS, 2)}
        draft = _Draft(rng, Stockroom(deepcopy(before)), [], [])
        for order in rng.choices(ORDERS, k=rng.randint(min_orders, max_orders)):
            order(draft)
        if rng.random() < 0.5:
            shelf, item, held = draft.stock()
            draft.orders.append(f"say how many {item} {shelf} holds")
            draft.call(f"how many {item}: look", "look", shelf=shelf)
            draft.said = str(held)
        question = f"Shelves {', '.join(names)}: {', then '.join(draft.orders)}."
        reply = "done" if draft.said is None else f"\\boxed{{{draft.said}}}"
        return Problem(
            key=f"{question} {json.dumps(before)}",
            question=question,
            thinking="",
            reply=reply,
            reference=Orders(before, draft.room.shelves, draft.said),
            tools=TOOLS,
            turns=tuple(draft.turns),
        )

    return Source("stockroom", verifier="", draw=draw)


class StockroomEnvironment:
    """The shelves of a task, judged by the state they are left in and by the answer."""

    async def reset(self, task: Task, seed: int) -> ToolEpisode:
        """A new room; OpenQwQError for a task that is not from `stockroom`."""
        orders = task.reference
        if not isinstance(orders, Orders):
            raise OpenQwQError(
                f"task {task.id!r} has no orders: its source must be stockroom.py:stockroom"
            )
        room = Stockroom(orders.before)

        async def judge(answer: str) -> Score:
            state = room.shelves == orders.after
            said = orders.said is None or _number(answer) == orders.said
            parts = {"state": float(state), "answer": float(said)}
            right = state and said
            return Score(float(right), "correct" if right else "wrong", parts)

        # Not on threads: calls of one reply change the room in the order they were made.
        tools = [tool(getattr(room, name), threaded=False) for name in METHODS]
        return ToolEpisode(by_name(tools), judge)


def _number(answer: str) -> str | None:
    """The number that an answer gives, boxed or alone."""
    text = answer
    if "\\boxed{" in answer:
        text = answer.rpartition("\\boxed{")[2].partition("}")[0]
    return text.strip() if text.strip().isdecimal() else None
