"""Judges in processes of their own, which can be killed: no answer can hang or exhaust the caller.

A worker is a module whose `__main__` calls `serve`: one JSON line in, one out. The kernel ends it
at the deadline (SIGPROF at its default action), whatever Python is doing. The deadline is in CPU
seconds: how busy the machine is changes no verdict.
"""

import asyncio
import gc
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import LifoQueue
from typing import Any, cast

import psutil

JudgeReply = dict[str, Any]  # JSON: "status", "detail", and what a judge adds
# importing sympy on a busy machine; the deadline counts from the request
START_SECONDS = 60.0
PATIENCE = 10.0  # wall seconds for each CPU second until a worker counts as hung
REPLY_BYTES = 2**16


class JudgePool:
    """`workers` processes of `module`, each with `memory` bytes, replaced once it holds half.

    Usable from any thread and event loop; the processes end on `close`, or with this process.
    """

    def __init__(self, module: str, workers: int, deadline: float, memory: int) -> None:
        self._module = module
        self._deadline = deadline
        self._memory = memory
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=module)
        self._idle: LifoQueue[_Worker | None] = LifoQueue()
        for _ in range(workers):
            self._idle.put(None)  # started when first needed

    async def ask(self, request: dict[str, Any]) -> JudgeReply:
        """The worker's verdict; `timeout` after the deadline, `error` where it dies."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._judge, request)

    def close(self) -> None:
        """End the workers, after the judgements in progress (their deadline bounds them)."""
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            if worker := self._idle.get():
                worker.end()

    def _judge(self, request: dict[str, Any]) -> JudgeReply:
        worker = self._idle.get()
        try:
            worker = worker or _Worker(self._module, self._deadline, self._memory)
            reply = worker.ask(request)
            if reply.pop("last"):
                worker.end()
                worker = None
            return reply
        finally:
            self._idle.put(worker)


class _Worker:
    """A process and the socket to it."""

    def __init__(self, module: str, deadline: float, memory: int) -> None:
        self._channel, theirs = socket.socketpair()
        self._seconds = deadline * PATIENCE
        self._ready = False
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(deadline), str(memory)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                process_group=0,  # the terminal's Ctrl-C is for the parent
                env={**os.environ, "SYMPY_CACHE_SIZE": "10000"},
            )

    def __del__(self) -> None:  # of a pool that nobody closed
        if self._process.returncode is None:
            self.end()

    def ask(self, request: dict[str, Any]) -> JudgeReply:
        """The reply, or one that says how the process ended; after a `last` one it is gone."""
        with suppress(OSError):  # it had died, or not even the kernel ended it in time
            if not self._ready:
                self._channel.settimeout(START_SECONDS)
                self._ready = bool(self._channel.recv(6))
                self._channel.settimeout(self._seconds)
            self._channel.sendall(json.dumps(request).encode() + b"\n")
            if line := self._channel.recv(REPLY_BYTES):
                return cast(JudgeReply, json.loads(line))
        self.end()
        status = self._process.returncode
        if status == -signal.SIGPROF:
            return {
                "status": "timeout",
                "detail": "no verdict before the deadline",
                "last": True,
            }
        detail = f"the worker ended with status {status}"
        return {"status": "error", "detail": detail, "last": True}

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._channel.close()


def serve(judge: Callable[[dict[str, Any]], JudgeReply]) -> None:
    """Be a worker, with the deadline and the memory of the command line.

    Say when ready, then answer the socket at descriptor 0 until it closes or memory is short: the
    answer after which half of it is held is the last.
    """
    deadline = float(sys.argv[1])
    memory = int(sys.argv[2])
    if sys.platform == "linux":  # macOS knows this limit and refuses to set it
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    logging.disable()
    gc.freeze()  # the libraries are not garbage: do not walk them again and again
    os.write(0, b"ready\n")
    last = False
    while not last and (line := sys.stdin.readline()):
        signal.setitimer(signal.ITIMER_PROF, deadline)
        verdict = judge(json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        last = _resident_bytes() > memory / 2
        os.write(0, json.dumps({**verdict, "last": last}).encode())


def _resident_bytes() -> int:
    """This process's memory now; its `ru_maxrss` would begin at that of the process it is from."""
    return int(psutil.Process().memory_info().rss)
