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
class Prefill:
    """One prefill, for all sequences that share its prompt; `lane` is its cache row.

    With `in_place` that row is a slot, which held a finished sequence that the prompt goes on from.
    """

    members: list[Sequence]
    lane: int = -1
    cached: int = 0
    in_place: bool = False

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

    A finished sequence stays in a slot behind the running ones, and a prompt in its lane, until the
    place is needed; the least recently used goes first. A new prompt starts from the row, a slot's
    or a lane's, that shares most with it: so `reused_tokens` of `prompt_tokens` were saved. One
    that goes on from a finished sequence takes its slot, so a long history is not copied.

    The event loop appends to `waiting` and cancels sequences. Only the engine's thread does more.
    """

    def __init__(self, cache: SlotCache, slots: int, lanes: int) -> None:
        self.cache = cache
        self.slots = slots
        self.free_lanes = list(range(slots, slots + lanes))
        self.waiting: deque[Prefill] = deque()
        self.prefilling: list[Prefill] = []
        self.running: list[Sequence] = []  # index = slot
        self.prompt_tokens = 0
        self.reused_tokens = 0

    def unfinished(self) -> list[Sequence]:
        """Every sequence with tokens to come."""
        found = list(self.running)
        for prefill in [*self.waiting, *self.prefilling]:
            found += prefill.members
        return _unfinished(found)

    def admit(self) -> None:
        """Give lanes to waiting prefills whose members will find slots.

        One with more members than free slots is split; its rest waits and is prefilled again.
        """
        self.retire()
        free = self.slots - len(self.running)
        for prefill in self.prefilling:
            free -= len(prefill.members)

        while self.waiting and self.free_lanes and free > 0:
            if any(prefill.in_place for prefill in self.prefilling):
                return  # it counts on the slot behind the running ones
            prefill = self.waiting.popleft()
            prefill.members = _unfinished(prefill.members)
            if not prefill.members:
                continue
            if len(prefill.members) > free:
                self.waiting.appendleft(Prefill(prefill.members[free:]))
                prefill = Prefill(prefill.members[:free])
            if not self._start(prefill):
                self.waiting.appendleft(prefill)
                return
            free -= len(prefill.members)

    def _start(self, prefill: Prefill) -> bool:
        """Give a prefill a lane, unless another prompt in a lane will soon spare it more."""
        prompt = prefill.token_ids
        row, length = self.cache.longest_prefix(prompt, prefill.adapter)
        if prefill.reader:
            length = 0
        elif self._is_worth_waiting(prefill, length):
            return False

        prefill.cached = length
        if self._goes_on_in_place(prefill, row):
            prefill.in_place = True
            prefill.lane = self._next_slot_from(row)
            self.cache.shorten(prefill.lane, length)
        else:
            prefill.lane = self.free_lanes.pop(0)
            # all of a finished sequence, in the lane
            lives_on = self._is_finished(row) and length == self.cache.held[row]
            self.cache.start(prefill.lane, row, length, prefill.adapter)
            if lives_on:
                self.cache.held[row] = 0
        self.prompt_tokens += len(prompt)
        self.reused_tokens += length
        self.prefilling.append(prefill)
        return True

    def _goes_on_in_place(self, prefill: Prefill, row: int) -> bool:
        """Whether a lone prompt may take the slot of the finished sequence in `row`.

        Not while other prompts will need slots, nor where most of that sequence would be lost.
        """
        if self.prefilling or len(prefill.members) > 1 or prefill.cached == 0:
            return False
        return self._is_finished(row) and 2 * prefill.cached >= int(self.cache.held[row])

    def _is_finished(self, row: int) -> bool:
        """Whether a row is a slot that no sequence runs in."""
        return len(self.running) <= row < self.slots

    def _next_slot_from(self, row: int) -> int:
        """The slot behind the running ones, to which the finished sequence in `row` is moved."""
        slot = len(self.running)
        if row != slot:
            sources = [row]
            destinations = [slot]
            if self.cache.worth_keeping(slot):
                sources.append(slot)
                destinations.append(row)
            self.cache.move(sources, destinations)
            if len(sources) == 1:
                self.cache.held[row] = 0
        return slot

    def _is_worth_waiting(self, prefill: Prefill, length: int) -> bool:
        """Whether a prompt in a lane will spare clearly more than the `length` tokens found."""
        prompt = prefill.token_ids
        worth = length + self.cache.REUSE_FROM
        if len(prompt) <= worth:
            return False
        for other in self.prefilling:
            if (
                other.adapter == prefill.adapter
                and other.token_ids[:worth] == prompt[:worth]
            ):
                return True
        return False

    def chunks(self, budget: int) -> list[tuple[Prefill, int]]:
        """(prefill, number of its tokens) to compute now, in order, within `budget` tokens."""
        found = []
        for prefill in self.prefilling:
            count = min(prefill.remaining, budget)
            if count == 0:
                break
            found.append((prefill, count))
            budget -= count
        return found

    def fork(self, prefill: Prefill) -> list[Sequence]:
        """Move the members of a finished prefill from its lane into slots; returns them."""
        first = len(self.running)
        slots = range(first, first + len(prefill.members))
        if prefill.lane != first:
            self._make_room(slots, prefill.lane)
            self.cache.copy(prefill.lane, slots, prefill.cached)
            if prefill.in_place:  # running sequences have ended since
                self.cache.held[prefill.lane] = 0
        self.running.extend(prefill.members)
        self.drop_prefill(prefill)
        return prefill.members

    def _make_room(self, slots: range, lane: int) -> None:
        """Move what is worth keeping to free slots that hold nothing, or something older.

        Never to `lane`, which may be a slot too.
        """
        cache = self.cache

        def age(slot: int) -> int:
            return int(cache.last_use[slot]) if cache.worth_keeping(slot) else -1

        kept = [slot for slot in slots if cache.worth_keeping(slot)]
        kept.sort(key=age, reverse=True)
        places = sorted(range(slots.stop, self.slots), key=age)
        if lane in places:
            places.remove(lane)

        sources: list[int] = []
        destinations: list[int] = []
        for slot, place in zip(kept, places, strict=False):
            if age(place) < age(slot):
                sources.append(slot)
                destinations.append(place)
        cache.move(sources, destinations)

    def drop_prefill(self, prefill: Prefill) -> None:
        """Free the lane of a prefill."""
        self.prefilling.remove(prefill)
        if not prefill.in_place:
            self.free_lanes.append(prefill.lane)

    def retire(self) -> None:
        """Free what finished sequences hold, closing each gap with the last running one."""
        for prefill in list(self.prefilling):
            prefill.members = _unfinished(prefill.members)
            if not prefill.members:
                self.drop_prefill(prefill)

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
