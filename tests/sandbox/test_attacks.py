"""Hostile programs, each seen from outside: 0 escapes, 0 forged passes, nothing left behind.

A file of `attacks/` begins with its claim and what must be observed:

    # run: stdin | session            the program runs; `expect` names the statuses allowed
    # judge: stdin call script        the code verifier judges it in these forms: never correct,
                                      never an error (which would drop the sample unscored)
    # expect: timeout crashed
    # observe: stdout is A B          words of the output; `has`: a part of it; `host`: a rule below
    # limits: processes=4             fields of Limits
    # cases: 3                        the program runs on as many cases
    # needs: PATH                     what must be writable here for the claim to hold

`bench/sandbox_soak.py` does thousands of such runs.
"""

import asyncio
import json
import os
import random
import re
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from fcntl import F_GETLK, F_UNLCK, F_WRLCK, LOCK_EX, LOCK_NB, fcntl, flock
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from openqwq.sandbox.local import LocalSandbox, LocalSession
from openqwq.sandbox.protocol import Case, CaseResult, Limits, RunRequest
from openqwq.types import CodeTests, Score, Task, TestCase
from openqwq.verify.code import CodeVerifier

ATTACKS = sorted(Path(__file__).with_name("attacks").glob("*.py"))
SLOW = {"memory_flood", "memory_scan", "garbage_collector", "repeated_hash", "huge_number"}
MARKED = [
    Path(place) for place in ("/tmp", "/var/tmp", "/dev/shm", "/run", "/root", "/", ".")
]
FIRST, SECOND = (f"EXPECTED-{secrets.token_hex(8)}" for _ in range(2))
FIRST_NUMBER, SECOND_NUMBER = random.SystemRandom().sample(range(10**11, 10**12), 2)
SETUP = (
    "class Box:\n    def __init__(self, v): self.v = v\n"
    "    def same(self, o): return self.v == o"
)
SCRIPT = f"""
import colorsys  # a module that nothing has imported before
class Lenient:
    def __eq__(self, other): return True
for number, expected in (1, {FIRST!r}), (2, {SECOND!r}):
    found = candidate(number)
    assert found.same(expected) if isinstance(found, Box) else found == expected
"""
STDIN = CodeTests("stdin", (TestCase("1", FIRST), TestCase("2", SECOND)))
CALL = CodeTests("call", (TestCase([1], FIRST), TestCase([2], SECOND)), "f", setup=SETUP)
NUMBERS = TestCase("1", str(FIRST_NUMBER)), TestCase("2", str(SECOND_NUMBER))
VALUES = TestCase([1], FIRST_NUMBER), TestCase([2], SECOND_NUMBER)
TESTS = {
    "stdin": (STDIN, replace(STDIN, cases=NUMBERS, float_tolerance=1e-6)),
    "call": (CALL, replace(CALL, cases=VALUES, float_tolerance=1e-6)),
    "script": (CodeTests("script", (), "f", SCRIPT, SETUP),),
}
pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Attack:
    """One program and the fields of its header."""

    source: str
    header: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "Attack":
        source = path.read_text(encoding="utf-8")
        return cls(source, dict(re.findall(r"^# (\w+):[ ]?(.*)$", source, re.MULTILINE)))

    @property
    def claimed(self) -> bool:
        """Whether its claim is made on this machine."""
        return os.access(self.header.get("needs", "/dev/null"), os.W_OK)

    @property
    def limits(self) -> Limits:
        given = dict(part.split("=") for part in self.header.get("limits", "").split())
        quick = Limits(wall_seconds=10.0, cpu_seconds=5.0)
        return replace(
            quick, **{name: type(getattr(quick, name))(v) for name, v in given.items()}
        )


class Host:
    """Bait on this machine, and what can be seen of it and of the sandbox from outside."""

    def __init__(self, place: Path, sandbox: LocalSandbox) -> None:
        self.sandbox, self.secret = sandbox, f"CANARY-{secrets.token_hex(16)}"
        os.environ["OPENQWQ_CANARY"] = self.secret
        self.file, name = place / "secret", f"openqwq-{secrets.token_hex(4)}"
        self.file.write_text(self.secret)
        self.place = place
        self.victim = subprocess.Popen(
            ["sleep", "1000"], user=65534 if os.geteuid() == 0 else None, cwd="/"
        )
        self.sockets = [socket.create_server(("127.0.0.1", 0))]
        for address in (str(place / "socket"), "\0" + name):
            self.sockets.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            self.sockets[-1].bind(address)
        for listener in self.sockets:
            listener.setblocking(False)
        os.chmod(place / "socket", 0o777)
        bait = {"file": str(self.file), "socket": str(place / "socket"), "abstract": name}
        bait |= {"pid": self.victim.pid, "port": self.sockets[0].getsockname()[1]}
        self.bait = json.dumps(bait)

    def close(self) -> None:
        del os.environ["OPENQWQ_CANARY"]
        self.victim.kill()
        self.victim.wait()
        for listener in self.sockets:
            listener.close()

    def inside(self) -> list[int]:
        """Return the processes of the sandbox below workers and zygotes, orphans included."""
        workers = self.sandbox.pids()
        for pid in self.sandbox.pids():
            text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            workers += map(int, text.split())
        spaces = {os.readlink(f"/proc/{pid}/ns/user") for pid in workers}
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if (
                    os.readlink(path / "ns/user") in spaces
                    and int(path.name) not in workers
                ):
                    found.append(int(path.name))
            except OSError:  # it has ended, or is not ours to see
                continue
        return found

    def seen(self) -> dict[str, Any]:
        """Return everything that no program may change."""
        state: dict[str, Any] = {
            "mounts": Path("/proc/self/mountinfo").read_text(),
            "shared": Path("/proc/sysvipc/shm").read_text(),
            "marks": [
                str(path) for place in MARKED for path in place.glob("openqwq_mark*")
            ],
            "bait": sorted(path.name for path in self.place.iterdir()),
            "victim": self.victim.poll(),
            "deaths": self.sandbox.deaths,
        }
        state["workers"] = []
        for pid in self.sandbox.pids():  # another pid after a script's time-out
            files = len(os.listdir(f"/proc/{pid}/fd"))
            sockets = {
                kind: len(Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()) - 1
                for kind in (
                    "tcp",
                    "tcp6",
                    "udp",
                    "udp6",
                    "unix",
                    "raw",
                    "packet",
                    "netlink",
                )
            }
            mounts = len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
            state["workers"].append((files, sockets, mounts))
        return state

    async def quiet(self) -> None:
        """Wait until no process is left; the answer may be here before the supervisor is gone."""
        for _ in range(400):
            if not self.inside():
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"processes left behind: {self.inside()}")

    async def check(self, before: dict[str, Any]) -> None:
        """Fail where something is left behind, changed, or has reached the bait."""
        await self.quiet()
        source = (
            "import os; print(os.listdir('/tmp'), os.listdir('/dev/shm'), sum(range(101)))"
        )
        # on every worker: one that was given up with its script starts again only when needed
        runs = [self.sandbox.run(RunRequest(source)) for _ in range(self.sandbox.workers)]
        for after in await asyncio.gather(*runs):
            assert after.cases[0].stdout.replace("'.stdin'", "") == "[] [] 5050\n"
        await self.quiet()
        now = self.seen()
        changed = {
            key: (before[key], now[key]) for key in before if before[key] != now[key]
        }
        assert not changed, changed
        assert self.file.read_text() == self.secret
        for listener in self.sockets:
            with pytest.raises(BlockingIOError):
                listener.accept() if listener is self.sockets[0] else listener.recv(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(
    layers: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Host]:
    if layers["namespaces"]:
        pytest.skip(f"user namespaces are absent here: {layers['namespaces']}")
    place = tmp_path_factory.mktemp("host")
    async with LocalSandbox(workers=1) as sandbox:
        await sandbox.run(RunRequest(""))
        host = Host(place, sandbox)
        try:
            yield host
        finally:
            host.close()


def leaks(host: Host, result: CaseResult | Score) -> Iterator[str]:
    """Return what of the secrets a result tells."""
    text = str(result)
    yield from (word for word in (host.secret, FIRST, SECOND) if word in text)


async def run(host: Host, attack: Attack) -> list[CaseResult]:
    """Run a program on the bait, or in a session, and return how each case went."""
    if attack.header["run"] == "session":
        session: LocalSession = await host.sandbox.session(attack.limits)
        try:
            return [await session.run(attack.source)]
        finally:
            await session.close()
    cases = (Case(host.bait),) * int(attack.header.get("cases", 1))
    result = await host.sandbox.run(
        RunRequest(attack.source, cases=cases, limits=attack.limits)
    )
    assert result.cases, result
    return list(result.cases)


def observed(attack: Attack, result: CaseResult) -> None:
    """Check the header's `observe` on one result."""
    where, _, rule = attack.header.get("observe", "host nothing").partition(" ")
    if where == "host":
        return
    kind, _, text = rule.partition(" ")
    found = getattr(result, where)
    assert found.split() == text.split() if kind == "is" else text in found, result


async def outside(host: Host, attack: Attack) -> None:
    """Check a rule about the host while the program is running."""
    rule = attack.header.get("observe", "")
    if not rule.startswith("host"):
        return
    for _ in range(200):
        await asyncio.sleep(0.005)
        if len(found := host.inside()) > 1:  # the supervisor and the program
            break
    await asyncio.sleep(0.3)
    if rule == "host undumpable":
        owners = {os.stat(f"/proc/{pid}/maps").st_uid for pid in found[1:]}
        assert owners == {0}, (
            "the kernel gives the /proc entries of undumpable processes to root"
        )
    path = "/usr/lib/os-release"
    with open(path if os.path.exists(path) else os.__file__) as file:
        flock(file, LOCK_EX | LOCK_NB)
        record = struct.pack("hhqqi4x", F_WRLCK, 0, 0, 0, 0)  # of the whole file
        kind = struct.unpack_from("h", fcntl(file, F_GETLK, record))
        assert kind == (F_UNLCK,), "a record lock of a program is on the host's file"


async def judge(host: Host, attack: Attack, form: str) -> None:
    """Check that the verifier fails a program: never correct, never unscored, never kept busy."""
    verifier = CodeVerifier(host.sandbox, thinking=False, limits=attack.limits)
    for tests in TESTS[form]:
        task = Task("one", "code", (), "code", tests=tests)
        # an end by force: what keeps the judge busy may not be interruptible
        signal.alarm(60)
        started = time.process_time()
        score = await verifier.score(task, attack.source)
        signal.alarm(0)
        assert time.process_time() - started < 3, "the judge itself was kept busy"
        assert (score.value, score.status in ("wrong", "timeout")) == (0.0, True), (
            form,
            score,
        )
        assert not list(leaks(host, score))


async def execute(host: Host, attack: Attack) -> None:
    """Run a program and check how each of its cases went."""
    for result in await run(host, attack):
        assert result.status in attack.header["expect"].split(), result
        assert not list(leaks(host, result))
        observed(attack, result)


@pytest.mark.parametrize("path", ATTACKS, ids=lambda path: path.stem)
async def test_no_attack_escapes_or_forges_a_pass(host: Host, path: Path) -> None:
    await host.sandbox.run(RunRequest(""))  # a worker is there, also after one was given up
    await host.quiet()
    attack, before = Attack.read(path), host.seen()
    if not attack.claimed:
        pytest.skip(f"{attack.header['needs']} cannot be written here")
    if "run" in attack.header:
        await asyncio.gather(execute(host, attack), outside(host, attack))
    for form in attack.header.get("judge", "").split():
        await judge(host, attack, form)
    await host.check(before)


def suited(slow: bool = False) -> list[Attack]:
    """Return the attacks that a run of many can hold."""
    attacks = [Attack.read(path) for path in ATTACKS if slow or path.stem not in SLOW]
    attacks = [attack for attack in attacks if attack.claimed]
    return [a for a in attacks if "wall_seconds" not in a.header.get("limits", "")]


async def mixed_runs(host: Host, count: int, width: int = 4) -> None:
    """Do `count` runs, half of them hostile; fail on a wrong result or on anything left behind."""

    async def one(attack: Attack) -> None:
        async with slots:
            if "run" in attack.header:
                await execute(host, attack)
            elif attack.header:
                await judge(host, attack, chance.choice(attack.header["judge"].split()))
            else:
                cases = (Case("1 2"), Case("3 4"))
                result = await host.sandbox.run(RunRequest(attack.source, cases=cases))
                assert [case.stdout for case in result.cases] == ["3\n", "7\n"]

    slots, chance = asyncio.Semaphore(width), random.Random(0)
    ordinary = Attack("print(sum(map(int, input().split())))", {})
    await host.sandbox.run(RunRequest(""))
    await host.quiet()
    before, files = host.seen(), len(os.listdir("/proc/self/fd"))
    mixed = chance.choices(suited(), k=count // 2) + [ordinary] * (count - count // 2)
    await asyncio.gather(*[one(attack) for attack in chance.sample(mixed, count)])
    await host.check(before)
    assert len(os.listdir("/proc/self/fd")) == files
    assert host.sandbox.deaths == 0


async def test_nothing_is_left_behind_after_mixed_runs(host: Host) -> None:
    await mixed_runs(host, 60)


async def test_hostile_requests_under_load_are_all_answered_in_flat_memory() -> None:
    command = [sys.executable, "bench/sandbox_soak.py", "--runs", "0", "--requests", "120"]
    run = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "120 hostile requests, 120 answers, 0 errors" in run.stdout
