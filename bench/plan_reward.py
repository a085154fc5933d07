"""The reward of `plan.py`'s runs: random models must earn different ones, or they learn nothing."""

from openqwq.types import Task


def share_of_even_characters(task: Task, completion: str) -> float:
    """Something that varies."""
    if not completion:
        return 0.0
    return sum(ord(character) % 2 == 0 for character in completion) / len(completion)
