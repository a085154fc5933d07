"""Lookups: what is asked for stands in the object, and the reply gives it back."""

import json
from itertools import islice

import pytest

from openqwq.tasks.calculators import UNSEEN
from openqwq.tasks.lookups import lookups
from openqwq.tasks.source import draw_tasks
from openqwq.types import OpenQwQError, Task


def tasks(count: int = 200) -> list[Task]:
    return list(islice(draw_tasks(lookups(5, 3), "train", 0), count))


def test_a_reply_gives_the_entries_asked_for_and_boxes_the_last_ones_number() -> None:
    for task in tasks():
        text, wish = task.messages[0]["content"].split("\n")
        entries = json.loads(text)
        asked = wish.removeprefix("Give ").removesuffix(" and box the last.").split(", ")
        assert 1 <= len(asked) <= 3 and 2 <= len(entries) <= 5

        assert task.solution is not None
        given, boxed = task.solution.removeprefix("</think>\n\n").split("\n")
        assert json.loads(given) == {key: entries[key] for key in asked}
        assert boxed == f"\\boxed{{{entries[asked[-1]]}}}"
        assert task.answer == str(entries[asked[-1]])


def test_no_word_is_a_name_that_is_kept_for_the_test() -> None:
    kept = {*UNSEEN.verbs, *UNSEEN.nouns, *UNSEEN.texts, *UNSEEN.lists, *UNSEEN.operations}
    for task in tasks():
        entries = json.loads(task.messages[0]["content"].split("\n")[0])
        assert not kept & {*entries, *map(str, entries.values())}


@pytest.mark.parametrize(("entries", "asked"), [(1, 1), (5, 0)])
def test_objects_too_small_to_choose_from_are_refused(entries: int, asked: int) -> None:
    with pytest.raises(OpenQwQError, match="must be at least"):
        lookups(entries, asked)
