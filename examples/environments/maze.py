"""A text world of one's own: rooms, a key and a locked door, of which only one room is seen.

A source makes its problems and an environment answers what the model says. A config names both:

    [data.maze]
    source = "maze.py:maze"
    options = { min_rooms = 3, max_rooms = 6 }
    environment = "maze.py:MazeEnvironment"
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from openqwq.tasks.source import Problem, Source, Turn
from openqwq.types import Message, Observation, OpenQwQError, Score, Task

STEPS: Mapping[str, tuple[int, int]] = {
    "north": (0, 1), "east": (1, 0), "south": (0, -1), "west": (-1, 0),
}  # fmt: skip
BACK = {"north": "south", "south": "north", "east": "west", "west": "east"}
COMMANDS = (*(f"go {direction}" for direction in STEPS), "take key")


@dataclass
class Maze:
    """`exits[room]` maps directions to rooms; the way into room `goal` is locked.

    Rooms are numbered from 0, where the player begins; `key` is the room of the key.
    """

    exits: list[dict[str, int]]
    key: int
    goal: int
    room: int = 0
    has_key: bool = False

    @property
    def won(self) -> bool:
        """Whether the player stands at the goal."""
        return self.room == self.goal

    def look(self) -> str:
        """What the player sees."""
        key = " A key lies here." if self.room == self.key and not self.has_key else ""
        return f"Room {self.room}. Exits: {', '.join(sorted(self.exits[self.room]))}.{key}"

    def act(self, command: str) -> str:
        """Carry out one of `COMMANDS` and tell what came of it."""
        verb, _, what = " ".join(command.lower().split()).partition(" ")
        if verb == "go" and what in self.exits[self.room]:
            target = self.exits[self.room][what]
            if target == self.goal and not self.has_key:
                return "The door is locked: find the key."
            self.room = target
            return "You are out." if self.won else self.look()
        if verb == "go" and what in STEPS:
            return f"No exit {what}. {self.look()}"
        if (verb, what) == ("take", "key"):
            if self.room != self.key or self.has_key:
                return f"There is no key here. {self.look()}"
            self.has_key = True
            return "You have the key."
        return f"Unknown command. Say one of: {', '.join(COMMANDS)}."

    @property
    def layout(self) -> str:
        """The rooms, the key and the goal as text: equal for equal mazes."""
        return json.dumps({"exits": self.exits, "key": self.key, "goal": self.goal})

    def entered(self) -> "Maze":
        """The same maze with a new player at its beginning."""
        return Maze(self.exits, self.key, self.goal)


def _layout(rng: random.Random, rooms: int) -> Maze:
    """A random tree of rooms on a grid; the goal is the last leaf, the key in some other room."""
    places = [(0, 0)]
    exits: list[dict[str, int]] = [{}]
    while len(places) < rooms:
        # the goal's only neighbour must not be beyond it: it is added last, so it is a leaf
        room = rng.randrange(len(places))
        direction, (dx, dy) = rng.choice([*STEPS.items()])
        place = (places[room][0] + dx, places[room][1] + dy)
        if place not in places:
            exits[room][direction] = len(places)
            exits.append({BACK[direction]: room})
            places.append(place)
    return Maze(exits, key=rng.randrange(rooms - 1), goal=rooms - 1)


@dataclass
class _Explorer:
    """Plays by what was seen alone: takes the key, tries every exit, goes back to the door."""

    maze: Maze
    locked: list[str] | None = None  # the way from the start to the locked door
    path: list[str] = field(default_factory=list)  # from the start to here

    def commands(self) -> Iterator[tuple[str, str]]:
        """Pairs of a thought and a command, each to be acted out before the next is asked for."""
        yield from self._search(None)
        if self.maze.won:
            return
        assert self.locked is not None
        while self.path != self.locked[: len(self.path)]:  # up to where the ways part
            yield "back to the door", f"go {BACK[self.path.pop()]}"
        for direction in self.locked[len(self.path) :]:
            yield "to the door", f"go {direction}"

    def _search(self, entered: str | None) -> Iterator[tuple[str, str]]:
        if self.maze.room == self.maze.key:
            yield "a key", "take key"
        for direction in sorted(self.maze.exits[self.maze.room]):
            if self._finished() or direction == entered:
                continue
            room = self.maze.room
            yield "try", f"go {direction}"
            if self.maze.won:
                return
            if self.maze.room == room:
                self.locked = [*self.path, direction]
                continue
            self.path.append(direction)
            yield from self._search(BACK[direction])
            if self._finished():
                return
            yield "nothing more", f"go {BACK[self.path.pop()]}"

    def _finished(self) -> bool:
        return self.maze.won or (self.maze.has_key and self.locked is not None)


def maze(min_rooms: int, max_rooms: int) -> Source:
    """Find the way out; the model says one command a turn and is told what it then sees."""

    def draw(rng: random.Random) -> Problem:
        made = _layout(rng, rng.randint(min_rooms, max_rooms))
        played = made.entered()
        turns: list[Turn] = []
        question = f"Get out. Say one of: {', '.join(COMMANDS)}.\n{played.look()}"
        for thought, command in _Explorer(played).commands():
            reply = Message(role="assistant", content=command, reasoning_content=thought)
            turns.append(Turn(reply, (Message(role="user", content=played.act(command)),)))
        assert played.won
        last = turns[-1].reply
        return Problem(
            key=made.layout,
            question=question,
            thinking=last["reasoning_content"],
            reply=last["content"],
            reference=made,
            turns=tuple(turns[:-1]),
        )

    return Source("maze", verifier="", draw=draw)


@dataclass
class MazeEpisode:
    """One walk: a reply is one command, answered by what the player then sees."""

    maze: Maze
    commands: int = 0

    async def step(self, reply: Message, malformed_calls: Sequence[str]) -> Observation:
        """Act out the command; calls are not commands."""
        self.commands += 1
        seen = self.maze.act(reply["content"])
        return Observation((Message(role="user", content=seen),), self.maze.won)

    async def score(self) -> Score:
        """1 for a way out, however long."""
        won = self.maze.won
        return Score(
            float(won), "correct" if won else "wrong", {"commands": float(self.commands)}
        )

    async def close(self) -> None:
        """There is nothing to free."""


class MazeEnvironment:
    """Begins a walk through the maze of a task."""

    async def reset(self, task: Task, seed: int) -> MazeEpisode:
        """A new player; OpenQwQError for a task that is not from `maze`."""
        if not isinstance(task.reference, Maze):
            raise OpenQwQError(
                f"task {task.id!r} has no maze: its source must be maze.py:maze"
            )
        return MazeEpisode(task.reference.entered())
