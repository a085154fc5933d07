"""The taste of the simulated reader in `feedback.py`: answers that name many different things."""

from openqwq.types import Task

ENOUGH = 8  # different words


def rule(task: Task, completion: str) -> float:
    """The number of different words in the answer, up to `ENOUGH`, as a share of that."""
    del task
    _, closed, answer = completion.rpartition("</think>")
    words = set(answer.split()) if closed else set()
    return min(len(words), ENOUGH) / ENOUGH
