"""What leaves a conversation that outgrew the context, where a request lets its beginning go."""

from collections.abc import Callable, Sequence

from openqwq.serve.protocol import Json

_SYSTEM = ("system", "developer")


def shortened(turns: Sequence[Json], fits: Callable[[list[Json]], bool]) -> list[Json]:
    """The conversation without as much of its beginning as must go for it to fit.

    System turns at its head stay, and so do what the user said last and the end. What is left
    begins with the user and holds every call with its results. It may still not fit.
    """
    candidates = [list(turns), *_shorter(turns)]
    least = 0
    most = len(candidates) - 1
    while least < most:
        middle = (least + most) // 2
        if fits(candidates[middle]):
            most = middle
        else:
            least = middle + 1
    return candidates[least]


def _shorter(turns: Sequence[Json]) -> list[list[Json]]:
    """Ever shorter conversations: first whole exchanges go, then steps of the last one."""
    first = 0
    while first < len(turns) and turns[first]["role"] in _SYSTEM:
        first += 1
    head = list(turns[:first])
    asked = [place for place in range(first, len(turns)) if turns[place]["role"] == "user"]
    found: list[list[Json]] = []
    for place in asked:
        if place > first:
            found.append([*head, *turns[place:]])
    if not asked:
        return found
    last = asked[-1]
    for place in range(last + 2, len(turns)):
        if turns[place]["role"] == "assistant":
            found.append([*head, turns[last], *turns[place:]])
    return found
