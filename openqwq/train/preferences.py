"""Preference pairs in the field's format: JSON lines, each with a chosen and a rejected chat."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from openqwq.data.files import write_atomically
from openqwq.train.episodes import Attempt
from openqwq.types import Message, OpenQwQError, Pair
from openqwq.verify.answer import final_answer

ROLES = ("system", "user", "assistant", "tool")


def load_pairs(path: Path) -> list[Pair]:
    """Read JSON lines of `chosen` and `rejected` message lists, before them an optional `prompt`.

    Both forms of TRL's conversational preference format. Other keys are ignored. Raises
    OpenQwQError naming the line and what is wrong with it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OpenQwQError(f"cannot read preferences {path} ({error}): check the path") from error
    pairs = [_pair(line, f"{path}:{i}") for i, line in enumerate(lines, 1) if line.strip()]
    if not pairs:
        raise OpenQwQError(f"{path} holds no preference pairs: give one JSON object a line")
    return pairs


def save_pairs(pairs: Iterable[Pair], path: Path) -> None:
    """Write what `load_pairs` reads."""
    rows = ({"chosen": list(pair.chosen), "rejected": list(pair.rejected)} for pair in pairs)
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


def _pair(line: str, where: str) -> Pair:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise OpenQwQError(f"{where} is not JSON ({error}): one object a line") from error
    if not isinstance(row, dict):
        raise OpenQwQError(f"{where} is {row!r:.80}: it must be an object")
    prompt = _messages(row, "prompt", where) if "prompt" in row else ()
    chosen, rejected = ((*prompt, *_messages(row, side, where)) for side in ("chosen", "rejected"))
    for side, chat in (("chosen", chosen), ("rejected", rejected)):
        if chat[-1]["role"] != "assistant":
            role = chat[-1]["role"]
            raise OpenQwQError(f"{where}: {side} ends with a {role} turn: end with the assistant's")
    if chosen[:-1] != rejected[:-1]:
        raise OpenQwQError(f"{where}: chosen and rejected answer different chats: give one prompt")
    if chosen == rejected:
        raise OpenQwQError(f"{where}: chosen and rejected are equal: leave the line out")
    return Pair(chosen, rejected)


def _messages(row: Mapping[str, Any], key: str, where: str) -> tuple[Message, ...]:
    value = row.get(key)
    fits = (
        isinstance(value, list)
        and value
        and all(
            isinstance(m, dict) and m.get("role") in ROLES and isinstance(m.get("content"), str)
            for m in value
        )
    )
    if not fits:
        raise OpenQwQError(
            f"{where}: {key!r} is {value!r:.80}: it must be a list of messages with a role "
            f"({', '.join(ROLES)}) and a text as content"
        )
    return tuple(value)  # type: ignore[arg-type]
