"""The accuracy verifier: math-verify in processes that can be killed, so no answer can hang it."""

import asyncio
import re
from contextlib import AbstractAsyncContextManager

from openqwq.types import Score, Task
from openqwq.verify.answer import final_answer
from openqwq.verify.math_quantities import Level
from openqwq.verify.workers import JudgePool

_MAX_CHARACTERS = 32_768
_INTEGER = re.compile(r"\s*(-?[0-9]{1,1000})\s*")
_BOXED_INTEGER = re.compile(r"\\boxed\{\s*(-?[0-9]{1,1000})\s*\}")


class MathVerifier(AbstractAsyncContextManager["MathVerifier"]):
    """Judges the final answer against `task.answer`: a bare answer, LaTeX or a worked text.

    Read is only what follows the first `</think>`: its last `\\boxed{}`, or else what math-verify
    finds there. Status `truncated`: the thinking never ended. `timeout`: no verdict in `deadline`
    CPU seconds, or the answer is not evaluated, being longer than 32,768 characters or a number of
    over a million digits. `error`: the gold cannot be parsed, or the worker died or was so starved
    that ten times the deadline passed.

    Each of the `workers` processes may use `memory` bytes and is replaced once it holds half.
    Usable from any thread and event loop; the processes end on `close`, or with this process.
    """

    def __init__(
        self,
        thinking: bool = True,
        workers: int = 2,
        deadline: float = 5.0,
        memory: int = 2**30,
        level: Level = "default",
    ) -> None:
        self._thinking = thinking
        self._level = level
        self._pool = JudgePool("openqwq.verify.math_worker", workers, deadline, memory)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """End the workers, after the judgements in progress (their deadline bounds them)."""
        self._pool.close()

    async def score(self, task: Task, completion: str) -> Score:
        """Value 1 for an answer equal to the gold, else 0; the class says what a status means."""
        answer = final_answer(completion, self._thinking)
        if not task.answer or not task.answer.strip():
            return Score(0.0, "error", detail=f"task {task.id!r} has no gold answer")
        if answer is None:
            return Score(0.0, "truncated", detail="no </think>")
        if len(answer) > _MAX_CHARACTERS:
            return Score(
                0.0, "timeout", detail=f"not evaluated: over {_MAX_CHARACTERS} characters"
            )
        wanted = _integer(task.answer)
        found = _integer(answer)
        if wanted is not None and found is not None:
            return Score(1.0, "correct") if wanted == found else Score(0.0, "wrong")
        reply = await self._pool.ask(
            {"gold": task.answer, "answer": answer, "level": self._level}
        )
        return Score(
            float(reply["status"] == "correct"), reply["status"], detail=reply["detail"]
        )


def _integer(text: str) -> int | None:
    """The integer that `text` is, or boxes once: most of what a training step asks."""
    boxed = text.count("box") == 1 and _BOXED_INTEGER.search(text)
    found = boxed or _INTEGER.fullmatch(text)
    return int(found[1]) if found else None
