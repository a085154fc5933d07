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
    rows = (
        {"chosen": list(pair.chosen), "rejected": list(pair.rejected)} for pair in pairs
    )
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
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
    ranked = sorted(answers, key=lambda text: -answers[text])
    matched = zip(ranked[: len(ranked) // 2], reversed(ranked), strict=False)
    prompt = tuple(attempts[0].task.messages) if attempts else ()
    return [
        Pair((*prompt, _said(better)), (*prompt, _said(worse)))
        for better, worse in matched
        if answers[better] > answers[worse]
    ][:limit]


def _said(text: str) -> Message:
    return Message(role="assistant", content=text)
