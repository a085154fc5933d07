"""What programs write is data: no byte of it reaches the terminal or the log of the host."""

import asyncio
import logging
import os
import subprocess
import sys

import pytest

from openqwq.sandbox.local import LocalSandbox
from openqwq.sandbox.protocol import Case, RunRequest
from openqwq.sandbox.worker_process import WorkerDiedError

# Two cases: the second one's program is compiled by a process that has no stream of its own.
RUN_LOUD_PROGRAMS = r"""
import asyncio
from openqwq.sandbox.local import LocalSandbox
from openqwq.sandbox.protocol import Case, RunRequest

WARNING = "x = 1 is 1  # \x1b]0;owned\x07\x1b[2J\n"
SOURCES = [
    WARNING * 2000 + "print('fine')",
    WARNING + "raise ValueError('\x1b[2J')",
    "import sys, faulthandler, os\nsys.__stderr__.write('\x1b[2J')\nos.write(2, b'\x1b[2J')",
    "import ctypes; ctypes.string_at(0)",
    "import warnings; warnings.warn('\x1b[2J')",
    "x = ('\x1b[2J'",
]

async def main():
    async with LocalSandbox(workers=1) as sandbox:
        for source in SOURCES:
            result = await sandbox.run(RunRequest(source, cases=(Case(),) * 3))
            assert result.status != "error", result
            if source.endswith("print('fine')"):
                assert [case.stdout for case in result.cases] == ["fine\n"] * 3
        session = await sandbox.session()
        await session.run(WARNING + "1 / 0")
        assert sandbox.deaths == 0

asyncio.run(main())
print("done")
"""


def test_no_byte_of_a_program_reaches_the_host_and_no_unread_pipe_stops_a_run(
    layers: dict[str, str],
) -> None:
    if layers["namespaces"]:
        pytest.skip(f"user namespaces are absent here: {layers['namespaces']}")
    reader, writer = os.pipe()  # nobody reads it until the end
    command = [sys.executable, "-c", RUN_LOUD_PROGRAMS]
    run = subprocess.run(command, stdout=writer, stderr=writer, timeout=120)
    os.close(writer)
    with open(reader, "rb") as pipe:
        written = pipe.read()
    assert written == b"done\n"
    assert run.returncode == 0


async def test_the_last_words_of_a_worker_are_told_with_odd_characters_escaped(
    sandbox: LocalSandbox, caplog: pytest.LogCaptureFixture
) -> None:
    (worker,) = sandbox._alive
    os.write(worker._messages.fileno(), b"Trace\x1b[2J\xff\r\n")
    asking = asyncio.create_task(sandbox.run(RunRequest("import time; time.sleep(1)")))
    await asyncio.sleep(0.3)
    with caplog.at_level(logging.WARNING):
        worker._process.kill()
        assert (await asking).status == "ok"  # by another worker
    assert r"a sandbox worker died: Trace\x1b[2J\xff" in caplog.text.replace("\\\\", "\\")
    assert "\x1b" not in caplog.text


@pytest.mark.parametrize(
    "source",
    [
        r"raise ValueError('\x1b[2J\n\u202efake log line\ud800')",
        "x = (  # \x1b[2J\n\u202e",
        r"import sys; sys.exit('\x1b[2J\n')",
        r"import os; os.write(3, b'\n\n{\"status\": \"memory\", \"error\": \"\\u001b[2J\"}')",
        "import os\nreport = {'status': 'memory', 'error': '\\x07' * 10 ** 5}\n"
        "import json; os.write(3, json.dumps(report).encode()); os._exit(1)",
    ],
)
async def test_what_is_told_of_a_failure_is_one_line_fit_for_a_log(
    sandbox: LocalSandbox, source: str
) -> None:
    case = (await sandbox.run(RunRequest(source))).cases[0]
    assert case.error.isprintable()
    assert len(case.error) <= 8000
    session = await sandbox.session()
    assert (await session.run(source.replace("write(3", "write(9"))).error.isprintable()


async def test_a_worker_that_dies_without_a_word_says_so(sandbox: LocalSandbox) -> None:
    (worker,) = sandbox._alive
    worker._process.kill()
    with pytest.raises(WorkerDiedError, match="it was killed, and said nothing"):
        await worker._receive(10.0)


async def test_a_syntax_warning_is_on_the_programs_own_standard_error(
    sandbox: LocalSandbox,
) -> None:
    result = await sandbox.run(RunRequest("x = 1 is 1", cases=(Case(),) * 2))
    assert '"is" with' in result.cases[0].stderr
