"""Who runs next: prompts wait, are prefilled in lanes, fork into slots, and decode together."""

from collections import deque
from dataclasses import dataclass

from openqwq.engine.cache import SlotCache
from openqwq.engine.scoring import PromptReader
from openqwq.engine.sequence import Sequence


@dataclass(frozen=True)
class EngineStatistics:
    """Counts since the start, and what there is to do now (`running`, `waiting` sequences)."""

    running: int
    waiting: int
    prompt_tokens: int
    reused_prompt_tokens: int  # of these, found in the cache
    drawn_tokens: int


@dataclass(eq=False)
class Group:
    """Sequences that share one prompt and so one prefill; `lane` is its cache row meanwhile."""

    members: list[Sequence]
    lane: int = -1
    cached: int = 0

    @property
    def token_ids(self) -> list[int]:
        """What is prefilled: the prompt, and what a lone member has drawn already."""
        first = self.members[0]
        return first.prompt_ids + first.token_ids

    @property
    def adapter(self) -> int:
        """The adapter of all members."""
        return self.members[0].adapter

    @property
    def reader(self) -> PromptReader | None:
        """What reads the prompt's states, if anything does; then all of it is prefilled."""
        return self.members[0].reader

    @property
    def remaining(self) -> int:
        """Tokens still to be prefilled."""
        first = self.members[0]
        return len(first.prompt_ids) + len(first.token_ids) - self.cached


class Scheduler:
    """Slots [0, slots) hold running sequences without gaps; lanes are the cache rows after them.

    Finished sequences stay in the slots behind the running ones until their places are needed, the
    least recently used first, and prompts in their lanes: a new prompt starts from the row, of
    whatever kind, that shares most with it. `reused_tokens` of `prompt_tokens` were found so.

    The event loop appends to `waiting` and cancels sequences; the rest is the engine's thread's.
    """

    def __init__(self, cache: SlotCache, slots: int, lanes: int) -> None:
        self.cache = cache
        self.slots = slots
        self.free_lanes = list(range(slots, slots + lanes))
        self.waiting: deque[Group] = deque()
        self.prefilling: list[Group] = []
        self.running: list[Sequence] = []  # index = slot
        self.prompt_tokens = 0
        self.reused_tokens = 0

    def unfinished(self) -> list[Sequence]:
        """Every sequence with tokens to come."""
        found = list(self.running)
        for group in [*self.waiting, *self.prefilling]:
            found += group.members
        return _unfinished(found)

    def admit(self) -> None:
        """Give lanes to waiting groups whose members will find slots.

        A group larger than the free slots is split; its rest waits and is prefilled again.
        """
        self.retire()
        free = self.slots - len(self.running)
        for group in self.prefilling:
            free -= len(group.members)

        while self.waiting and self.free_lanes and free > 0:
            group = self.waiting.popleft()
            group.members = _unfinished(group.members)
            if not group.members:
                continue
            if len(group.members) > free:
                self.waiting.appendleft(Group(group.members[free:]))
                group = Group(group.members[:free])
            if not self._start(group):
                self.waiting.appendleft(group)
                return
            free -= len(group.members)

    def _start(self, group: Group) -> bool:
        """Give a group a lane, unless a prompt that is being prefilled will soon spare it more."""
        prompt = group.token_ids
        row, length = self.cache.longest_prefix(prompt, group.adapter)
        if group.reader:
            length = 0
        elif self._is_worth_waiting(group, length):
            return False

        group.lane = self.free_lanes.pop(0)
        group.cached = length
        is_finished = len(self.running) <= row < self.slots
        lives_on = is_finished and length == self.cache.held[row]  # all of it, in the lane
        self.cache.start(group.lane, row, length, group.adapter)
        if lives_on:
            self.cache.held[row] = 0
        self.prompt_tokens += len(prompt)
        self.reused_tokens += length
        self.prefilling.append(group)
        return True

    def _is_worth_waiting(self, group: Group, length: int) -> bool:
        """Whether a prompt in a lane will spare clearly more than the `length` tokens found."""
        prompt = group.token_ids
        worth = length + self.cache.REUSE_FROM
        if len(prompt) <= worth:
            return False
        for other in self.prefilling:
            if other.adapter == group.adapter and other.token_ids[:worth] == prompt[:worth]:
                return True
        return False

    def chunks(self, budget: int) -> list[tuple[Group, int]]:
        """(group, number of its prompt tokens) to prefill now, in order, within `budget` tokens."""
        found = []
        for group in self.prefilling:
            count = min(group.remaining, budget)
            if count == 0:
                break
            found.append((group, count))
            budget -= count
        return found

    def fork(self, group: Group) -> list[Sequence]:
        """Move a prefilled group from its lane into slots; returns its members."""
        first = len(self.running)
        slots = range(first, first + len(group.members))
        self._make_room(slots)
        self.cache.copy(group.lane, slots, group.cached)
        self.running.extend(group.members)
        self.drop_prefill(group)
        return group.members

    def _make_room(self, slots: range) -> None:
        """Move what is worth keeping to free slots that hold nothing, or something older."""
        cache = self.cache

        def age(slot: int) -> int:
            return int(cache.last_use[slot]) if cache.worth_keeping(slot) else -1

        kept = [slot for slot in slots if cache.worth_keeping(slot)]
        kept.sort(key=age, reverse=True)
        places = sorted(range(slots.stop, self.slots), key=age)

        sources: list[int] = []
        destinations: list[int] = []
        for slot, place in zip(kept, places, strict=False):
            if age(place) < age(slot):
                sources.append(slot)
                destinations.append(place)
        cache.move(sources, destinations)

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

        # Looked at once: the event loop may cancel a sequence at any time.
        ended = [bool(sequence.finish_reason) for sequence in self.running]
        self._close_gaps(ended)
        del self.running[ended.count(False) :]

    def _close_gaps(self, ended: list[bool]) -> None:
        """Move running sequences to the first slots, past which none is left."""
        left = ended.count(False)
        gaps: list[int] = []
        movers: list[int] = []
        for slot, has_ended in enumerate(ended):
            if has_ended and slot < left:
                gaps.append(slot)
            elif not has_ended and slot >= left:
                movers.append(slot)

        sources: list[int] = []
        destinations: list[int] = []
        for gap, mover in zip(gaps, movers, strict=True):
            self.running[gap] = self.running[mover]
            sources.append(mover)
            destinations.append(gap)
            if self.cache.worth_keeping(gap):  # the finished one goes where the mover was
                sources.append(gap)
                destinations.append(mover)
        self.cache.move(sources, destinations)


def _unfinished(sequences: list[Sequence]) -> list[Sequence]:
    return [s for s in sequences if not s.finish_reason]
