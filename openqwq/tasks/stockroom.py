"""A stateful mock API in the manner of BFCL's multi-turn tasks: shelves, moves, and feedback."""

import json
import random
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from openqwq.tasks.source import Problem, Source, Turn
from openqwq.text.schema import specification
from openqwq.types import Message, OpenQwQError, ToolCall

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
            raise OpenQwQError(f"shelf {shelf} holds {held.get(item, 0)} {item}, not {amount}")
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
    target, amount = draft.other(shelf), draft.rng.randint(1, held)
    draft.orders.append(f"move {amount} {item} from {shelf} to {target}")
    draft.call("known: move", "move", item=item, amount=amount, source=shelf, target=target)


def _move_all(draft: _Draft) -> None:
    shelf, item, held = draft.stock()
    target = draft.other(shelf)
    draft.orders.append(f"move all {item} from {shelf} to {target}")
    draft.call(f"how many {item}: look", "look", shelf=shelf)
    draft.call(f"{held} {item}: move", "move", item=item, amount=held, source=shelf, target=target)


def _fill_up(draft: _Draft) -> None:
    shelf, item, held = draft.stock()
    wanted = draft.rng.choice([n for n in range(1, 10) if n != held])
    draft.orders.append(f"see to it that {shelf} holds {wanted} {item}")
    draft.call(f"how many {item}: look", "look", shelf=shelf)
    name, amount = ("add", wanted - held) if wanted > held else ("remove", held - wanted)
    draft.call(f"{held}, not {wanted}: {name}", name, item=item, amount=amount, shelf=shelf)


ORDERS: tuple[Callable[[_Draft], None], ...] = (_move_some, _move_all, _fill_up)


def stockroom(min_orders: int, max_orders: int) -> Source:
    """Orders to be carried out by calls, the shelves unseen; half of them end with a question.

    Judged by the state that the calls leave and by the number asked for. A problem is its orders
    and its shelves together.
    """

    def draw(rng: random.Random) -> Problem:
        names = SHELVES[: rng.randint(2, 4)]
        before = {n: {i: rng.randint(1, 9) for i in rng.sample(ITEMS, 2)} for n in names}
        draft = _Draft(rng, Stockroom(deepcopy(before)), [], [])
        for order in rng.choices(ORDERS, k=rng.randint(min_orders, max_orders)):
            order(draft)
        if rng.random() < 0.5:
            shelf, item, held = draft.stock()
            draft.orders.append(f"say how many {item} {shelf} holds")
            draft.call(f"how many {item}: look", "look", shelf=shelf)
            draft.said = str(held)
        question = f"Shelves {', '.join(names)}: {', then '.join(draft.orders)}."
        target = {"before": before, "after": draft.room.shelves, "said": draft.said}
        reply = "done" if draft.said is None else f"\\boxed{{{draft.said}}}"
        return Problem(
            key=f"{question} {json.dumps(before)}",
            question=question,
            thinking="",
            reply=reply,
            answer=json.dumps(target),
            tools=TOOLS,
            turns=tuple(draft.turns),
        )

    return Source("stockroom", "stockroom", draw)
