"""Who runs next: prompts wait, are prefilled in lanes, fork into slots, and decode together."""

from collections import deque
from dataclasses import dataclass

from openqwq.engine.cache import SlotCache
from openqwq.engine.sequence import Sequence


@dataclass(eq=False)
class Group:
    """Sequences that share one prompt and so one prefill; `lane` is its cache row meanwhile."""

    members: list[Sequence]
    lane: int = -1
    cached: int = 0

    @property
    def remaining(self) -> int:
        """Prompt tokens still to be prefilled."""
        return len(self.members[0].prompt_ids) - self.cached


class Scheduler:
    """Slots [0, slots) hold running sequences without gaps; lanes are the cache rows after them.

    The event loop appends to `waiting` and cancels sequences; the rest is the engine's thread's.
    """

    def __init__(self, cache: SlotCache, slots: int, lanes: int) -> None:
        self.cache, self.slots = cache, slots
        self.free_lanes = list(range(slots, slots + lanes))
        self.waiting: deque[Group] = deque()
        self.prefilling: list[Group] = []
        self.running: list[Sequence] = []  # index = slot

    def unfinished(self) -> list[Sequence]:
        """Every sequence with tokens to come."""
        groups = (*self.waiting, *self.prefilling)
        return _unfinished([*self.running, *(s for group in groups for s in group.members)])

    def admit(self) -> None:
        """Give lanes to waiting groups whose members will find slots.

        A group larger than the free slots is split; its rest waits and is prefilled again.
        """
        self.retire()
        free = self.slots - len(self.running) - sum(len(g.members) for g in self.prefilling)
        while self.waiting and self.free_lanes and free > 0:
            group = self.waiting.popleft()
            group.members = _unfinished(group.members)
            if not group.members:
                continue
            if len(group.members) > free:
                self.waiting.appendleft(Group(group.members[free:]))
                group = Group(group.members[:free])
            group.lane = self.free_lanes.pop(0)
            free -= len(group.members)
            self.prefilling.append(group)

    def chunks(self, budget: int) -> list[tuple[Group, int]]:
        """(group, number of its prompt tokens) to prefill now, in order, within `budget` tokens."""
        plan = []
        for group in self.prefilling:
            count = min(group.remaining, budget)
            if count == 0:
                break
            plan.append((group, count))
            budget -= count
        return plan

    def fork(self, group: Group) -> list[Sequence]:
        """Move a prefilled group from its lane into slots; returns its members."""
        first = len(self.running)
        slots = range(first, first + len(group.members))
        self.cache.copy(group.lane, slots, group.cached)
        self.running.extend(group.members)
        self.drop_prefill(group)
        return group.members

    def drop_prefill(self, group: Group) -> None:
        """Free a group's lane."""
        self.prefilling.remove(group)
        self.free_lanes.append(group.lane)

    def retire(self) -> None:
        """Free what finished sequences hold, closing each gap with the last running one."""
        for group in list(self.prefilling):
            group.members = _unfinished(group.members)
            if not group.members:
                self.drop_prefill(group)
        for slot in reversed(range(len(self.running))):
            if self.running[slot].finish_reason:
                last = self.running.pop()
                if slot < len(self.running):
                    self.running[slot] = last
                    cached = len(last.prompt_ids) + len(last.token_ids) - 1
                    self.cache.copy(len(self.running), [slot], cached)


def _unfinished(sequences: list[Sequence]) -> list[Sequence]:
    return [s for s in sequences if not s.finish_reason]
