"""Preference pairs ranked from a policy's own answers, and saved in the field's format."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from openqwq.data.files import write_atomically
from openqwq.train.episodes import Attempt
from openqwq.types import Message, Pair
from openqwq.verify.answer import final_answer


def save_pairs(pairs: Iterable[Pair], path: Path) -> None:
    """Write rows of `chosen` and `rejected` chats, which a `[data.NAME]` table reads."""
    text = ""
    for pair in pairs:
        row = {"chosen": list(pair.chosen), "rejected": list(pair.rejected)}
        text += json.dumps(row, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode(errors="replace"))


def ranked_pairs(attempts: Sequence[Attempt], limit: int) -> list[Pair]:
    """Up to `limit` pairs of one task's attempts, by score, the widest differences first.

    Only answers are compared, as the reader sees them, without their thinking. Attempts without an
    answer, judged as errors or equal in score or words give none; each answer is used once.
    """
    answers: dict[str, float] = {}
    for attempt in attempts:
        answer = final_answer(attempt.text)
        if answer is not None and answer.strip() and attempt.score.status != "error":
            answers.setdefault(answer.strip("\n"), attempt.score.value)
    if not answers:
        return []

    prompt = attempts[0].task.messages
    best_first = sorted(answers, key=lambda text: -answers[text])
    worst_first = reversed(best_first)
    pairs: list[Pair] = []
    for better, worse in zip(best_first[: len(answers) // 2], worst_first, strict=False):
        if answers[better] > answers[worse]:
            pairs.append(Pair((*prompt, _said(better)), (*prompt, _said(worse))))
    return pairs[:limit]


def _said(text: str) -> Message:
    return Message(role="assistant", content=text)
