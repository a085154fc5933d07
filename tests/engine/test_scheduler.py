"""The scheduler against a cache that holds token ids, so that every row can be read back."""

from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from openqwq.engine.cache import SlotCache
from openqwq.engine.scheduler import Prefill, Scheduler
from openqwq.engine.sequence import Sequence
from openqwq.model.qwen2 import ModelConfig
from openqwq.text.thinking import ThinkTracker
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import SamplingParams

TOKENIZER = Tokenizer.train(["a"], 300)


class TokenCache(SlotCache):
    """A cache of one layer and one number a token, into which token ids are written as keys."""

    REUSE_FROM = 3

    def __init__(self, rows: int) -> None:
        super().__init__(ModelConfig(9, 1, 1, 1, 1, 1, 1), rows, 256)

    def write(self, row: int, start: int, token_ids: list[int]) -> None:
        assert self.held[row] >= start, "a gap in time"
        for store in (self.keys, self.values):
            store[0, row, 0, start : start + len(token_ids), 0] = torch.tensor(
                token_ids
            ).float()
        self.record([row], [start], [len(token_ids)], token_ids)

    def row(self, row: int) -> list[int]:
        """What a row holds, which its keys, values and `token_ids` must agree on."""
        keys, values = (
            s[0, row, 0, : self.held[row], 0].tolist() for s in (self.keys, self.values)
        )
        assert keys == values == self.token_ids[row, : self.held[row]].tolist()
        return [int(key) for key in keys]


def sequences(
    count: int,
    first: int,
    prompt_tokens: int,
    max_tokens: int = 99,
    family: int | None = None,
) -> list[Sequence]:
    """Members of one group; every token id says whose it is: 1000 * number + position.

    Groups of one family share their prompts as far as these go.
    """
    owner = first if family is None else 900 + family
    prompt_ids = [1000 * owner + at for at in range(prompt_tokens)]
    params = SamplingParams(max_tokens=max_tokens)
    return [
        Sequence(
            prompt_ids, params, first + i, max_tokens, ThinkTracker(TOKENIZER, False), []
        )
        for i in range(count)
    ]


def append(sequence: Sequence) -> None:
    position = len(sequence.prompt_ids) + len(sequence.token_ids)
    sequence.append(1000 * sequence.seed + position, 0.0, True, 0)


class Rig:
    """A scheduler and its cache, stepped as the engine steps them."""

    def __init__(self, slots: int, lanes: int) -> None:
        self.lanes = set(range(slots, slots + lanes))
        self.cache = TokenCache(slots + lanes)
        self.scheduler = Scheduler(self.cache, slots, lanes)
        self.everyone: list[Sequence] = []
        self.forked: list[int] = []

    def submit(self, members: list[Sequence]) -> None:
        self.everyone += members
        self.scheduler.waiting.append(Prefill(list(members)))

    def step(self, budget: int = 1000) -> int:
        """Returns the prompt tokens that were prefilled."""
        scheduler = self.scheduler
        waited, drawn = bool(scheduler.unfinished()), self.drawn()
        scheduler.admit()
        plan = scheduler.chunks(budget)
        for prefill, count in plan:
            prompt = prefill.members[0].prompt_ids
            self.cache.write(prefill.lane, prefill.cached, prompt[prefill.cached :][:count])
            prefill.cached += count
            if prefill.remaining == 0:
                for member in scheduler.fork(prefill):
                    self.forked.append(member.seed)
                    append(member)
        scheduler.retire()
        for slot, sequence in enumerate(scheduler.running):
            last = len(sequence.prompt_ids) + len(sequence.token_ids) - 1
            self.cache.write(slot, last, sequence.token_ids[-1:])
        for sequence in scheduler.running:
            append(sequence)
        scheduler.retire()
        prefilled = sum(count for _, count in plan)
        assert not waited or prefilled or self.drawn() > drawn, "a step has done nothing"
        return prefilled

    def drawn(self) -> int:
        return sum(len(sequence.token_ids) for sequence in self.everyone)

    def check(self) -> None:
        scheduler = self.scheduler
        assert len(scheduler.running) + sum(
            len(g.members) for g in scheduler.prefilling
        ) <= (scheduler.slots)
        groups = (*scheduler.prefilling, *scheduler.waiting)
        held = [*scheduler.running, *(s for g in groups for s in g.members)]
        assert len({id(s) for s in held}) == len(held), "somebody is in two places"
        assert {id(s) for s in held} >= {
            id(s) for s in self.everyone if not s.finish_reason
        }
        in_use = [g.lane for g in scheduler.prefilling if not g.in_place]
        in_slots = [g.lane for g in scheduler.prefilling if g.in_place]
        assert all(len(scheduler.running) <= slot < scheduler.slots for slot in in_slots)
        assert sorted(in_use + scheduler.free_lanes) == sorted(self.lanes)
        for slot, sequence in enumerate(scheduler.running):
            ids = (sequence.prompt_ids + sequence.token_ids)[:-1]
            assert self.cache.row(slot) == ids
        for prefill in scheduler.prefilling:
            ids = prefill.members[0].prompt_ids[: prefill.cached]
            assert self.cache.row(prefill.lane) == ids
        order = [s.seed for g in groups for s in g.members]
        assert order == sorted(order) and self.forked == sorted(self.forked), (
            "somebody overtook"
        )


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(slots=st.integers(1, 5), lanes=st.integers(1, 3))
    def start(self, slots: int, lanes: int) -> None:
        self.rig = Rig(slots, lanes)

    @rule(
        n=st.integers(1, 7),
        prompt_tokens=st.integers(1, 9),
        max_tokens=st.integers(1, 6),
        family=st.none() | st.integers(0, 2),
    )
    def submit(
        self, n: int, prompt_tokens: int, max_tokens: int, family: int | None
    ) -> None:
        first = len(self.rig.everyone)
        self.rig.submit(sequences(n, first, prompt_tokens, max_tokens, family))

    @rule(data=st.data(), more=st.integers(1, 9), max_tokens=st.integers(1, 6))
    def go_on(self, data: st.DataObject, more: int, max_tokens: int) -> None:
        ended = [s for s in self.rig.everyone if s.finish_reason == "length"]
        if ended:
            (later,) = follow(
                data.draw(st.sampled_from(ended)), len(self.rig.everyone), more
            )
            later.max_tokens = max_tokens
            self.rig.submit([later])

    @rule()
    def change_weights(self) -> None:
        self.rig.cache.outdate()

    @rule(budget=st.integers(1, 12))
    def step(self, budget: int) -> None:
        assert self.rig.step(budget) <= budget
        assert all(s.finish_reason is None for s in self.rig.scheduler.running)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.rig.everyone:
            for sequence in data.draw(st.lists(st.sampled_from(self.rig.everyone))):
                sequence.cancel()

    @rule()
    def retire(self) -> None:
        self.rig.scheduler.retire()

    @invariant()
    def everything_is_in_its_place(self) -> None:
        if hasattr(self, "rig"):
            self.rig.check()

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        rig, scheduler = self.rig, self.rig.scheduler
        while scheduler.unfinished():
            rig.step()
            rig.check()
        scheduler.admit()
        assert not (scheduler.unfinished() or scheduler.running or scheduler.prefilling)
        assert not scheduler.waiting
        assert set(scheduler.free_lanes) == rig.lanes
        for sequence in rig.everyone:
            assert sequence.finish_reason in ("length", "cancelled")
            if sequence.finish_reason == "length":
                assert len(sequence.token_ids) == sequence.max_tokens


TestScheduler: Any = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=80, stateful_step_count=30)


def test_a_group_larger_than_the_slots_completes_in_parts() -> None:
    rig = Rig(slots=3, lanes=2)
    rig.submit(sequences(8, 0, 5, max_tokens=4))
    sizes = []
    while rig.scheduler.unfinished():
        rig.step()
        rig.check()
        sizes.append(len(rig.scheduler.running))
    assert [len(s.token_ids) for s in rig.everyone] == [4] * 8
    assert max(sizes) == 3
    assert rig.forked == list(range(8))


def test_prefill_keeps_to_its_budget_and_to_the_order_of_arrival() -> None:
    rig = Rig(slots=8, lanes=4)
    for number, length in enumerate((10, 3, 5)):
        rig.submit(sequences(1, number, length))
    assert [rig.step(budget=4) for _ in range(5)] == [4, 4, 4, 4, 2]
    assert rig.forked == [0, 1, 2]


def test_prompts_wait_for_slots_that_a_prefill_has_reserved() -> None:
    rig = Rig(slots=3, lanes=2)
    rig.submit(sequences(2, 0, 10))
    rig.step(budget=5)
    rig.submit(sequences(2, 2, 10))
    rig.step(budget=1)
    scheduler = rig.scheduler
    assert [len(g.members) for g in scheduler.prefilling] == [2, 1]
    assert [len(g.members) for g in scheduler.waiting] == [1]


def test_prompts_wait_for_a_lane() -> None:
    rig = Rig(slots=8, lanes=2)
    for number in range(3):
        rig.submit(sequences(1, number, 10))
    rig.step(budget=5)
    assert [len(rig.scheduler.prefilling), len(rig.scheduler.waiting)] == [2, 1]


def test_cancelling_frees_what_a_sequence_holds_wherever_it_is() -> None:
    rig = Rig(slots=3, lanes=1)
    running, prefilling, waiting = (sequences(1, n, 10)[0] for n in range(3))
    pair = sequences(2, 3, 10)
    for members in ([running], [prefilling], [waiting], pair):
        rig.submit(members)
        rig.step(budget=10 if members == [running] else 2)
    scheduler = rig.scheduler
    assert (scheduler.running, len(scheduler.waiting)) == ([running], 2)
    assert [g.members for g in scheduler.prefilling] == [[prefilling]]
    for sequence in (running, prefilling, waiting, pair[0]):
        sequence.cancel()
    assert scheduler.unfinished() == pair[1:]
    scheduler.admit()
    assert (scheduler.running, len(scheduler.waiting)) == ([], 0)
    assert [g.members for g in scheduler.prefilling] == [pair[1:]]
    while scheduler.unfinished():
        rig.step()
        rig.check()
    assert [len(s.token_ids) for s in pair] == [0, 99]


def run(rig: Rig, members: list[Sequence]) -> int:
    """Run a group to its end; returns how many tokens of its prompt it found in the cache."""
    before = rig.scheduler.reused_tokens
    rig.submit(members)
    while any(s.finish_reason is None for s in members):
        rig.step()
        rig.check()
    return rig.scheduler.reused_tokens - before


def follow(earlier: Sequence, number: int, more: int = 4) -> list[Sequence]:
    """A prompt that goes on from a finished sequence."""
    (later,) = sequences(1, number, more, 5)
    later.prompt_ids = earlier.prompt_ids + earlier.token_ids + later.prompt_ids
    return [later]


def test_a_next_turn_starts_behind_all_but_the_last_token_of_the_turn_before() -> None:
    rig = Rig(slots=4, lanes=2)
    (first,) = sequences(1, 0, 6, 5)
    assert run(rig, [first]) == 0
    (second,) = follow(first, 1)
    assert run(rig, [second]) == 6 + 5 - 1
    assert run(rig, follow(second, 2)) == len(second.prompt_ids) + 5 - 1


def test_a_next_turn_takes_the_slot_of_the_turn_before_and_copies_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(slots=4, lanes=2)
    (first,) = sequences(1, 0, 6, 5)
    run(rig, [first])
    copied: list[int] = []
    monkeypatch.setattr(rig.cache, "_transfer", lambda *rows: copied.append(1))
    (second,) = follow(first, 1)
    run(rig, [second])
    run(rig, follow(second, 2))
    assert copied == []


def test_a_short_shared_start_leaves_a_long_conversation_as_it_was() -> None:
    rig = Rig(slots=4, lanes=2)
    (long,) = sequences(1, 0, 30, 5, family=0)
    run(rig, [long])
    assert run(rig, sequences(1, 1, 8, 5, family=0)) == 7
    assert run(rig, follow(long, 2)) == 30 + 5 - 1


def test_a_turn_goes_on_in_its_slot_while_those_before_it_end() -> None:
    rig = Rig(slots=4, lanes=2)
    (chat,) = sequences(1, 0, 6, 5)
    run(rig, [chat])
    rig.submit(sequences(1, 1, 4, 3))
    rig.step()
    (later,) = follow(chat, 2, more=12)
    rig.submit([later])
    while rig.scheduler.unfinished():
        rig.step(budget=3)
        rig.check()
    assert rig.scheduler.reused_tokens == 6 + 5 - 1
    assert run(rig, follow(later, 3)) == len(later.prompt_ids) + 5 - 1


def test_alternating_conversations_keep_each_other_and_the_oldest_gives_way() -> None:
    rig = Rig(slots=4, lanes=1)
    chats = [sequences(1, number, 6 + number, 5)[0] for number in range(4)]
    for chat in chats:
        run(rig, [chat])
    for turn in range(1, 4):
        for number, chat in enumerate(chats):
            (chats[number],) = follow(chat, 10 * turn + number)
            assert run(rig, [chats[number]]) == len(chat.prompt_ids) + 5 - 1
    run(rig, sequences(1, 90, 9, 5))
    found = [run(rig, follow(chat, 91 + i)) for i, chat in enumerate(reversed(chats))]
    assert [count > 5 for count in found] == [True, True, True, False]


def test_what_runs_and_what_is_being_prefilled_is_shared_too() -> None:
    rig = Rig(slots=6, lanes=3)
    rig.submit(sequences(1, 0, 8, 50, family=0))
    rig.submit(sequences(1, 1, 12, 50, family=0))
    rig.step()
    assert [len(g.members) for g in rig.scheduler.waiting] == [1]  # worth a step's patience
    assert rig.step() == 4
    rig.submit(sequences(1, 2, 12, 50, family=0))
    assert rig.step() == 1
    assert (rig.scheduler.reused_tokens, rig.scheduler.prompt_tokens) == (
        8 + 11,
        8 + 12 + 12,
    )
    rig.check()


def test_old_weights_and_short_prefixes_are_not_reused() -> None:
    rig = Rig(slots=4, lanes=2)
    run(rig, sequences(1, 0, 8, 5, family=0))
    rig.cache.outdate()
    assert run(rig, sequences(1, 1, 8, 5, family=0)) == 0
    assert run(rig, sequences(1, 2, 8, 5, family=0)) == 7
    # two tokens and the one left over
    assert run(rig, sequences(1, 3, 3, 5, family=0)) == 0
    assert run(rig, sequences(1, 4, 4, 5, family=0)) == 3
