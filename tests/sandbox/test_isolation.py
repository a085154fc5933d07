"""The layers: each holds here, each missing one is named, and hostile programs meet all of them."""

import asyncio
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from openqwq.sandbox.doctor import REMEDIES, require
from openqwq.sandbox.local import LocalSandbox
from openqwq.sandbox.protocol import DEFAULT, RunRequest
from openqwq.types import OpenQwQError

REPOSITORY = Path(__file__).parents[2]
DOCTOR = (
    "import asyncio; from openqwq.sandbox.local import doctor; print(asyncio.run(doctor()))"
)
WITHOUT = """
import ctypes, struct
from openqwq.sandbox import linux
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, {number}), (0x06, 0, 0, 0x50026), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
linux.libc_call("prctl", linux.NO_NEW_PRIVS, 1, 0, 0, 0)
linux.libc_call("syscall", linux.SECCOMP, 1, 0, struct.pack("HxxxxxxP", 4, ctypes.addressof(code)))
"""


def python(code: str) -> str:
    """Run code in a new interpreter at the repository's root and return what it prints."""
    command = [sys.executable, "-c", code]
    run = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return run.stdout


def test_every_layer_holds_on_this_machine(layers: dict[str, str]) -> None:
    if layers["namespaces"]:
        pytest.skip(f"user namespaces are absent here: {layers['namespaces']}")
    assert layers == dict.fromkeys(REMEDIES, "")


ORDINARY = (
    DOCTOR
    + """
from openqwq.sandbox.local import LocalSandbox
from openqwq.sandbox.protocol import Case, RunRequest
async def main():
    async with LocalSandbox(workers=1) as sandbox:
        cases = Case("1 2"), Case("3 4")
        adding = RunRequest("print(sum(map(int, input().split())))", cases=cases)
        print([case.stdout for case in (await sandbox.run(adding)).cases])
        for source in "open('/etc/passwd')", "import socket; socket.socket()", "while 1: pass":
            print((await sandbox.run(RunRequest(source, limits=quick))).cases[0].error)
        session = await sandbox.session()
        print([(await session.run(source)).stdout for source in ("x = 5", "x")])
from dataclasses import replace
from openqwq.sandbox.protocol import DEFAULT
quick = replace(DEFAULT, wall_seconds=1.0)
asyncio.run(main())
"""
)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_every_layer_holds_and_programs_run_for_an_ordinary_user(
    layers: dict[str, str],
) -> None:
    if layers["namespaces"]:
        pytest.skip(f"user namespaces are absent here: {layers['namespaces']}")
    if shutil.which("setpriv") is None:
        pytest.skip(
            "needs setpriv, to become an ordinary user (Debian: apt install util-linux)"
        )
    become = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
    for interpreter in (sys.executable, "/usr/bin/python3"):
        command = [*become, interpreter, "-c"]
        start = [*command, "import os, sys, openqwq.sandbox.local; os.stat(sys.executable)"]
        if subprocess.run(start, cwd=REPOSITORY, capture_output=True).returncode:
            continue  # it belongs to root, or is too old
        run = subprocess.run(
            [*command, ORDINARY], cwd=REPOSITORY, capture_output=True, text=True
        )
        found, *lines = run.stdout.splitlines()
        assert eval(found) == dict.fromkeys(REMEDIES, ""), run.stderr
        assert lines == [
            "['3\\n', '7\\n']",
            "FileNotFoundError: [Errno 2] No such file or directory: '/etc/passwd'",
            "PermissionError: [Errno 1] Operation not permitted",
            "the wall time ran out",
            "['', '5\\n']",
        ]
        return
    pytest.skip("no interpreter here can be read by an ordinary user")


@pytest.mark.parametrize(
    ("number", "missing"),
    [
        (272, "namespaces"),
        (442, "namespaces"),
        (444, "landlock"),
        (317, "seccomp"),
        (126, "privileges"),
    ],
)
def test_a_missing_system_call_is_a_missing_layer(number: int, missing: str) -> None:
    report = eval(python(WITHOUT.format(number=number) + DOCTOR))
    assert "Function not implemented" in report[missing]
    with pytest.raises(OpenQwQError, match=rf"'{missing}' is missing.*It needs .*"):
        require("full", report)
    if missing == "landlock":
        require("no-landlock", report)


async def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(OpenQwQError, match="full, no-landlock"):
        LocalSandbox(level="none")


@pytest.mark.parametrize(
    ("source", "refusal"),
    [
        ("import socket; socket.socket()", "Operation not permitted"),
        (
            "import socket; socket.create_connection(('127.0.0.1', 80))",
            "Operation not permitted",
        ),
        ("import os; os.listdir('/')", "Permission denied"),
        ("open('/etc/passwd')", "No such file"),
        ("open('/proc/self/status')", "No such file"),
        ("import os; os.listdir('/root')", "Error"),  # not to be read, or not there
        ("open('/usr/lib/x', 'w')", "Read-only"),
        ("import os; os.execv('/usr/lib/x', ['x'])", "Operation not permitted"),
        ("import os; os.fork()", "Operation not permitted"),
        ("import os; os.setuid(0)", "Operation not permitted"),
        ("import os; os.sched_setaffinity(1, {0})", "Operation not permitted"),
        ("import os; os.memfd_create('x')", "Operation not permitted"),
        ("import os; os.statvfs('/usr/lib')", "Operation not permitted"),
        (
            "import os; print(os.sysconf('SC_AVPHYS_PAGES')); os.fstatvfs(0)",
            "not permitted",
        ),
        (
            "import resource; resource.prlimit(1, resource.RLIMIT_CPU, (1, 1))",
            "not permitted",
        ),
        ("import termios; termios.tcgetwinsize(0)", "Operation not permitted"),
        ("import os; os.mkfifo('/tmp/x'); os.mknod('/tmp/y', 0o20600, 5)", "not permitted"),
        ("open('x', 'wb').write(bytes(2 ** 25))", "File too large"),
        ("for n in range(9): open(str(n), 'wb').write(bytes(2 ** 22))", "No space left"),
        ("files = [open('/dev/null') for _ in range(100)]", "Too many open files"),
        (
            "import threading, time\n"
            "for _ in range(100): threading.Thread(target=time.sleep, args=(9,)).start()",
            "",
        ),
    ],
)
async def test_what_programs_may_not_do_fails(
    sandbox: LocalSandbox, source: str, refusal: str
) -> None:
    limits = replace(DEFAULT, wall_seconds=3.0)
    result = await sandbox.run(RunRequest(source, limits=limits))
    assert result.status in ("runtime_error", "timeout")
    assert refusal in result.cases[0].stderr


async def test_a_database_in_a_file_works_without_the_locks_of_the_host(
    sandbox: LocalSandbox,
) -> None:
    source = (
        "import fcntl, sqlite3\nbase = sqlite3.connect('x.db')\n"
        "base.execute('create table t (a)')\nbase.execute('insert into t values (7)')\n"
        "base.commit()\nprint(*sqlite3.connect('x.db').execute('select a from t'))\n"
        "fcntl.lockf(open('lock', 'w'), fcntl.LOCK_EX)"
    )
    result = await sandbox.run(RunRequest(source))
    assert (result.status, result.cases[0].stdout) == ("ok", "(7,)\n"), result


async def test_a_program_sees_no_variable_file_or_descriptor_of_ours(
    sandbox: LocalSandbox,
) -> None:
    os.environ["OPENQWQ_SECRET"] = "x"
    source = (
        "import os\nfiles = []\nfor n in range(64):\n"
        "    try: files.append(os.fstat(n) and n)\n    except OSError: pass\n"
        "print(sorted(os.environ), files, os.getuid(), os.getcwd(), os.listdir())"
    )
    try:
        result = await sandbox.run(RunRequest(source))
    finally:
        del os.environ["OPENQWQ_SECRET"]
    variables = "['HOME', 'LANG', 'PYTHONHASHSEED']"
    assert result.cases[0].stdout == f"{variables} [0, 1, 2, 3] 1000 /tmp ['.stdin']\n"


async def test_children_are_allowed_up_to_the_limit_and_all_killed(
    sandbox: LocalSandbox,
) -> None:
    source = (
        "import os, sys, time\ncount = 0\ntry:\n    while True:\n"
        "        if os.fork() == 0: os.setsid(); time.sleep(100)\n        count += 1\n"
        "except BlockingIOError: print(count < 200)"
    )
    limits = replace(DEFAULT, processes=8)
    for _ in range(3):
        result = await sandbox.run(RunRequest(source, limits=limits))
        assert (result.status, result.cases[0].stdout) == ("ok", "True\n")
    assert sandbox.deaths == 0


async def test_a_weaker_level_asked_for_by_name_keeps_the_other_layers(
    layers: dict[str, str],
) -> None:
    if layers["namespaces"]:
        pytest.skip(f"user namespaces are absent here: {layers['namespaces']}")
    async with LocalSandbox(workers=1, level="no-landlock") as sandbox:
        source = "import os, socket; print(len(os.listdir('/')) < 10); socket.socket()"
        case = (await sandbox.run(RunRequest(source))).cases[0]
        assert (case.stdout, "Operation not permitted" in case.stderr) == ("True\n", True)


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`, seen from outside."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for process in found:
        found += children.get(process, [])
    return found[1:]


async def test_killing_the_parent_leaves_no_process(sandbox: LocalSandbox) -> None:
    code = """
import asyncio
from dataclasses import replace
from openqwq.sandbox.local import LocalSandbox
from openqwq.sandbox.protocol import DEFAULT, RunRequest
async def main():
    async with LocalSandbox(workers=2) as sandbox:
        source = "import os, time\\nos.fork(); os.setsid() if os.fork() == 0 else 0; time.sleep(50)"
        limits = replace(DEFAULT, wall_seconds=60.0, processes=8)
        await asyncio.gather(*[sandbox.run(RunRequest(source, limits=limits)) for _ in "12"])
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY) as parent:
        left: list[int] = []
        for _ in range(400):
            await asyncio.sleep(0.05)
            left = descendants(parent.pid)
            if len(left) >= 12:  # 2 workers, 2 supervisors, 2 x 4 processes of the programs
                break
        assert len(left) >= 12
        parent.kill()
    for _ in range(100):
        await asyncio.sleep(0.05)
        left = [pid for pid in left if Path(f"/proc/{pid}").exists()]
        if not left:
            break
    assert not left
