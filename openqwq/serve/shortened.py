"""A body that its schema refuses, made short: the errors of a long one take seconds to build."""

from collections.abc import Callable, Iterable
from typing import Any

Json = dict[str, Any]
SHORT = 1  # items of a list that may all be at fault
LISTS = 64  # that are cut at most


def shortened(body: Json, is_valid: Callable[[Json], bool]) -> Json | None:
    """A copy whose long lists end at their first fault; what stays is where it was.

    None where that would take too long to find.
    """
    short = dict(body)
    waiting: list[Any] = [short]
    cut = 0
    while waiting:
        part = waiting.pop()
        for place in _places(part):
            value = part[place]
            if isinstance(value, dict):
                part[place] = dict(value)
            elif isinstance(value, list):
                part[place] = list(value)
            else:
                continue
            if isinstance(value, list) and len(value) > SHORT:
                cut += 1
                if cut > LISTS:
                    return None
                _cut(short, part, place, is_valid)
            waiting.append(part[place])
    return short


def _places(part: Any) -> Iterable[Any]:
    """Where faults may be: what comes before the end of a list that was cut has none."""
    if isinstance(part, dict):
        return list(part)
    if len(part) > SHORT:
        return [len(part) - 1]
    return range(len(part))


def _cut(body: Json, part: Any, place: Any, is_valid: Callable[[Json], bool]) -> None:
    """End the list at `place` of `part`, a part of `body`, after its first item at fault."""
    whole = part[place]
    good = 0
    end = len(whole)
    while end - good > 1:
        middle = (good + end) // 2
        part[place] = whole[good:middle]
        if is_valid(body):
            good = middle
        else:
            end = middle
    part[place] = whole[:end]
    if is_valid(body):  # the length is at fault
        part[place] = whole
