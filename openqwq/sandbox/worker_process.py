"""One worker as the pool sees it: a process, and a socket for the programs it runs."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from openqwq.sandbox import program
from openqwq.sandbox.doctor import require_platform
from openqwq.sandbox.installed import find_packages, modules
from openqwq.sandbox.packages import THREADS
from openqwq.types import OpenQwQError

MAIN = (
    "import sys; sys.path.append({root!r}); from openqwq.sandbox.worker import main; "
    "sys.path.remove({root!r}); "
    "main({descriptor}, frozenset({layers!r}), {packages!r}, {imports!r})"
)
MESSAGE_BYTES = 2000  # of a dead worker's last words


class WorkerDiedError(Exception):
    """The worker is gone, hung, or could not start; an infrastructure failure."""


class Worker:
    """One warm interpreter and the socket to it; killed on any trouble, never repaired."""

    def __init__(
        self, layers: Collection[str], packages: Sequence[str] = (), core: int | None = None
    ) -> None:
        require_platform()
        ours, theirs = socket.socketpair()
        environment = {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"}
        # Functions are looked up at the start, and not again in each fork.
        environment["LD_BIND_NOW"] = "1"
        # A worker computes nothing by OpenMP: its start need not look what else runs.
        environment["GOMP_SPINCOUNT"] = "0"
        if packages:
            environment |= THREADS
        code = MAIN.format(
            root=str(Path(__file__).parents[2]),
            descriptor=theirs.fileno(),
            layers=sorted(layers),
            packages=find_packages(packages),
            imports=modules(packages),
        )
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115  # no text of it on our stderr
        self._socket = ours
        self._writer: asyncio.StreamWriter | None = None
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-S", "-P", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._messages,
                pass_fds=[theirs.fileno()],
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        if core is not None:  # before it has forked: the processes of its runs inherit it
            os.sched_setaffinity(self._process.pid, {core})

    async def start(self) -> dict[str, str]:
        """Connect and return what the worker could not set up, by layer.

        Raises OpenQwQError for a package that cannot be imported in the sandbox.
        """
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._socket)
        failed: dict[str, str] = await self._receive(60.0)
        if "packages" in failed:
            raise OpenQwQError(
                f"packages cannot be imported in the sandbox: {failed['packages']}; leave it out, "
                "or install it so that `python -c 'import …'` works here"
            )
        return failed

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def kill(self) -> None:
        """Kill the worker with all its programs and reap it."""
        (self._writer or self._socket).close()
        self._process.kill()
        self._process.wait()
        self._messages.close()

    async def ask(self, *frames: Any, seconds: float) -> Any:
        """Send frames and return the next answer; raise WorkerDiedError where there is none."""
        assert self._writer
        for frame in frames:
            self._writer.write(program.frame(frame))
        return await self._receive(seconds)

    async def _receive(self, seconds: float) -> Any:
        try:
            async with asyncio.timeout(seconds):
                length = int.from_bytes(await self._reader.readexactly(4), "big")
                return json.loads(await self._reader.readexactly(length))
        except TimeoutError as error:
            raise WorkerDiedError(
                f"a sandbox worker gave no answer in {seconds} s"
            ) from error
        except (EOFError, OSError) as error:
            raise WorkerDiedError(f"a sandbox worker died: {self._last_words()}") from error

    def _last_words(self) -> str:
        """Return the end of what the worker wrote to stderr, with every odd character escaped."""
        size = os.fstat(self._messages.fileno()).st_size
        written = os.pread(
            self._messages.fileno(), MESSAGE_BYTES, max(0, size - MESSAGE_BYTES)
        )
        text = one_line(written.decode("ascii", "backslashreplace").strip())
        return text or "it was killed, and said nothing"


def one_line(text: str) -> str:
    """Return text that is fit for a log: at most `MESSAGE_BYTES` characters, odd ones escaped."""
    shown = []
    for character in text[:MESSAGE_BYTES]:
        if not character.isprintable():
            character = character.encode("unicode_escape").decode("ascii")
        shown.append(character)
    return "".join(shown)
