"""The accuracy verifier: math-verify in processes that can be killed, so no answer can hang it."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, suppress
from queue import LifoQueue
from typing import Any, cast

from openqwq.types import Score, Task
from openqwq.verify.answer import final_answer

_MAX_CHARACTERS = 32_768
_START_SECONDS = 60.0  # importing sympy on a busy machine; the deadline counts from the request
PATIENCE = 10.0  # wall seconds for each CPU second until a worker counts as hung
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
        self, thinking: bool = True, workers: int = 2, deadline: float = 5.0, memory: int = 2**30
    ) -> None:
        self._thinking, self._deadline, self._memory = thinking, deadline, memory
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="math-verifier")
        self._idle: LifoQueue[_Worker | None] = LifoQueue()
        for _ in range(workers):
            self._idle.put(None)  # started when first needed

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """End the workers, after the judgements in progress (their deadline bounds them)."""
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            if worker := self._idle.get():
                worker.end()

    async def score(self, task: Task, completion: str) -> Score:
        """Value 1 for an answer equal to the gold, else 0; the class says what a status means."""
        answer = final_answer(completion, self._thinking)
        if not task.answer or not task.answer.strip():
            return Score(0.0, "error", detail=f"task {task.id!r} has no gold answer")
        if answer is None:
            return Score(0.0, "truncated", detail="no </think>")
        if len(answer) > _MAX_CHARACTERS:
            return Score(0.0, "timeout", detail=f"not evaluated: over {_MAX_CHARACTERS} characters")
        wanted, found = _integer(task.answer), _integer(answer)
        if wanted is not None and found is not None:
            return Score(float(wanted == found), "correct" if wanted == found else "wrong")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._judge, task.answer, answer)

    def _judge(self, gold: str, answer: str) -> Score:
        worker = self._idle.get()
        try:
            worker = worker or _Worker(self._deadline, self._memory)
            reply = worker.ask({"gold": gold, "answer": answer})
            if reply.pop("last"):
                worker.end()
                worker = None
            return Score(float(reply["status"] == "correct"), **reply)
        finally:
            self._idle.put(worker)


def _integer(text: str) -> int | None:
    """The integer that `text` is, or boxes once: most of what a training step asks."""
    boxed = text.count("box") == 1 and _BOXED_INTEGER.search(text)
    found = boxed or _INTEGER.fullmatch(text)
    return int(found[1]) if found else None


class _Worker:
    """A process of `math_worker` and the socket to it."""

    def __init__(self, deadline: float, memory: int) -> None:
        self._channel, theirs = socket.socketpair()
        self._seconds, self._ready = deadline * PATIENCE, False
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "openqwq.verify.math_worker", str(deadline), str(memory)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                process_group=0,  # the terminal's Ctrl-C is for the parent
                env={**os.environ, "SYMPY_CACHE_SIZE": "10000"},
            )

    def ask(self, request: dict[str, str]) -> dict[str, Any]:
        """The reply, or one that says how the process ended; after a `last` one it is gone."""
        with suppress(OSError):  # it had died, or not even the kernel ended it in time
            if not self._ready:
                self._channel.settimeout(_START_SECONDS)
                self._ready = bool(self._channel.recv(6))
                self._channel.settimeout(self._seconds)
            self._channel.sendall(json.dumps(request).encode() + b"\n")
            if line := self._channel.recv(4096):
                return cast(dict[str, Any], json.loads(line))
        self.end()
        late = self._process.returncode == -signal.SIGPROF
        ending = f"the worker ended with status {self._process.returncode}"
        detail = "no verdict before the deadline" if late else ending
        return {"status": "timeout" if late else "error", "detail": detail, "last": True}

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._channel.close()
