"""The pool: dead workers are replaced, cancelled and closed ones leave nothing, sessions last."""

import asyncio
import os
import signal
import threading
from dataclasses import replace

import pytest

from openqwq.sandbox.local import LocalSandbox
from openqwq.sandbox.protocol import DEFAULT, Case, RunRequest
from openqwq.types import OpenQwQError

SLOW = RunRequest("import time; time.sleep(1); print('done')")


async def kill_workers(sandbox: LocalSandbox, dead: list[int] | None = None) -> list[int]:
    """Kill the workers when there are others than the dead ones; returns their process ids."""
    while not set(sandbox.pids()) - set(dead or []):
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.4)
    killed = list(sandbox.pids())
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    return killed


async def test_a_run_survives_the_death_of_its_worker(sandbox: LocalSandbox) -> None:
    result, _ = await asyncio.gather(sandbox.run(SLOW), kill_workers(sandbox))
    assert (result.status, sandbox.deaths) == ("ok", 1)


async def test_a_second_death_is_an_infrastructure_error(sandbox: LocalSandbox) -> None:
    async def kill_twice() -> None:
        await kill_workers(sandbox, await kill_workers(sandbox))

    slow = RunRequest("import time; time.sleep(8)")
    result, _ = await asyncio.gather(sandbox.run(slow), kill_twice())
    assert (result.status, result.cases) == ("error", ())
    assert "worker died" in result.error
    assert (await sandbox.run(RunRequest("print(1)"))).status == "ok"


async def test_a_cancelled_run_ends_its_program_and_frees_the_worker(
    sandbox: LocalSandbox,
) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await sandbox.run(RunRequest("import time; time.sleep(50)"))
    assert (await sandbox.run(RunRequest("print(1)"))).status == "ok"


async def test_closing_drains_and_leaves_no_process_thread_or_descriptor(
    sandbox: LocalSandbox,
) -> None:
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    other = LocalSandbox(workers=2)
    await other.start()
    running = [asyncio.create_task(other.run(SLOW)) for _ in range(3)]
    await asyncio.sleep(0.1)
    pids = other.pids()
    await other.close()
    await asyncio.sleep(0.05)
    assert [(await task).status for task in running] == ["ok"] * 3
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_large_requests_and_answers_pass(sandbox: LocalSandbox) -> None:
    limits = replace(DEFAULT, output_bytes=2**23)
    text = "x" * 2**22
    request = RunRequest("print(input())", cases=(Case(text),) * 2, limits=limits)
    assert [c.stdout for c in (await sandbox.run(request)).cases] == [text + "\n"] * 2


async def test_a_session_keeps_its_variables_and_prints_the_last_value(
    sandbox: LocalSandbox,
) -> None:
    session, other = await sandbox.session(), await sandbox.session()
    assert (await session.run("import math\nx = 3")).stdout == ""
    assert (await session.run("print('a'); math.sqrt(x + 1)")).stdout == "a\n2.0\n"
    assert "not defined" in (await other.run("x")).error
    failed = await session.run("x = 4\n1 / 0")
    assert (failed.status, "ZeroDivisionError" in failed.stderr) == ("runtime_error", True)
    assert "SyntaxError" in (await session.run("def")).error
    assert (await session.run("x")).stdout == "4\n"
    assert (await session.run("import socket; socket.socket()")).status == "runtime_error"
    await session.close()
    with pytest.raises(OpenQwQError, match="closed"):
        await session.run("x")


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("while True: pass", "timeout"),
        ("while True: print('x' * 99)", "output_limit"),
        ("import os; os._exit(0)", "crashed"),
        ("import os; os.write(3, b'junk\\0')", "crashed"),
    ],
)
async def test_a_call_that_breaks_a_session_ends_it_with_a_clear_result(
    sandbox: LocalSandbox, source: str, status: str
) -> None:
    session = await sandbox.session(replace(DEFAULT, wall_seconds=1.0))
    assert (await session.run(source)).status == status
    with pytest.raises(OpenQwQError, match=f"{status}.*open a new session"):
        await session.run("1")
    assert not sandbox.open_sessions


async def test_a_session_does_nothing_between_calls(sandbox: LocalSandbox) -> None:
    session = await sandbox.session()
    await session.run(
        "import threading\nn = 0\ndef g():\n    global n\n    while True: n += 1\n"
        "threading.Thread(target=g, daemon=True).start()"
    )
    first = int((await session.run("n")).stdout)
    await asyncio.sleep(2)  # tens of millions, if it ran
    assert int((await session.run("n")).stdout) < first + 5_000_000


async def test_an_idle_session_expires_and_sessions_are_bounded(
    layers: dict[str, str],
) -> None:
    if layers["namespaces"]:
        pytest.skip(f"user namespaces are absent here: {layers['namespaces']}")
    async with LocalSandbox(workers=1, sessions=1, idle_seconds=0.3) as sandbox:
        session = await sandbox.session()
        with pytest.raises(OpenQwQError, match="the maximum"):
            await sandbox.session()
        await asyncio.sleep(1.5)
        with pytest.raises(OpenQwQError, match="idle"):
            await session.run("1")
        assert (await (await sandbox.session()).run("1")).stdout == "1\n"
