"""The processes that fork: a zygote that never reads a request, so that nothing of one run is in
the memory of another, and pid 1 of each run, which forks a confined process per case and kills all
it left. Both do little between forks, since every page that they touch has to be copied.
"""

import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import CodeType

from openqwq.sandbox import linux, program
from openqwq.sandbox.doctor import inspect
from openqwq.sandbox.protocol import DEFAULT, RunRequest
from openqwq.sandbox.seccomp import confine, seccomp_program
from openqwq.sandbox.served import serve
from openqwq.sandbox.trial import run_tests

FILES = 8  # the most that an order brings, Landlock's rules among them
KILL: int = signal.SIGKILL
kill = linux.libc.kill  # os.kill raises, which touches more pages


@dataclass(frozen=True)
class Zygote:
    """A warm interpreter, clean of requests. `last_pid` is a descriptor of ns_last_pid."""

    layers: frozenset[str]
    last_pid: int | None

    def serve(self, runs: socket.socket) -> None:
        """Fork pid 1 of a new pid namespace for each run that comes, one after the other."""
        linux.libc_call("prctl", linux.PDEATHSIG, KILL, 0, 0, 0)
        linux.gain_no_privileges()
        occupy()
        null = os.open("/dev/null", os.O_RDWR)
        self.rehearse(null)
        gc.collect()
        gc.freeze()
        while files := socket.recv_fds(runs, 1, 2)[1]:
            pid = linux.fork(linux.NEWPID)
            if pid == 0:
                linux.system_call(linux.PRCTL, linux.PDEATHSIG, KILL, 0, 0, 0)
                # compiling a program may print its text: never on the host's
                os.dup2(null, 2)
                with suppress(ConnectionError, EOFError):  # the supervisor was killed
                    Init(self, *files).serve()
                os._exit(0)
            for file in files:
                os.close(file)
            os.waitpid(pid, 0)

    def rehearse(self, null: int) -> None:
        """Do what runs do, so that what an interpreter makes at first use is there to share.

        Reports go to `null`: some builds of libffi keep a file open, for reading, where they go.
        """
        os.dup2(null, program.REPORT)
        request = RunRequest("print()")
        for _ in range(16):
            program.load_program(RunRequest.known_good(request.to_json()), None)
            sys.stdout.flush()
            for number in range(3):
                os.dup2(number, number)
        program.new_main()


class Init:
    """Pid 1 of one run: does what the supervisor orders over a socket, and ends with it."""

    def __init__(self, zygote: Zygote, request: int, orders: int) -> None:
        self.request = RunRequest.known_good(program.receive(request))
        self.limits = self.request.limits or DEFAULT
        program.remember(self.request.source)
        linux.set_common_limits(self.limits)
        os.setpgid(0, 0)  # kill(0) must not reach the zygote, whose group we were born in
        self.orders = socket.socket(fileno=orders)
        self.last_pid = zygote.last_pid
        self.poll = select.poll()
        self.poll.register(orders, select.POLLIN)
        calls = seccomp_program(self.limits.processes > 1)
        steps: dict[str, Callable[[list[int]], None]] = {
            "privileges": lambda _: linux.drop_capabilities(),
            "landlock": lambda files: linux.landlock(files[-1]),
            "descriptors": descriptors,
            "seccomp": lambda _: confine(calls),
        }
        self.steps = {name: step for name, step in steps.items() if name in zygote.layers}
        self.code: CodeType | None = None
        self.program = 0  # the process of the program, also where another one is watched

    def serve(self) -> None:
        """Obey orders, "JOB CASE COMPILED", until the supervisor is gone."""
        while True:
            text, files, _, _ = socket.recv_fds(self.orders, 64, FILES)
            if not text:
                return
            if files:  # else it is a signal that came too late
                job, case, compiled = text.split()
                if compiled == b"1" and self.code is None:
                    imported = self.request.form != "stdin"
                    self.code = program.compiled(self.request.source, imported)
                self.start(job, int(case), files)

    def start(self, job: bytes, case: int, files: list[int]) -> None:
        """Fork a confined process for a job; if it is the one to be watched, tell how it ended."""
        if self.last_pid is not None:  # else a case could count up for the next one to see
            os.pwrite(self.last_pid, b"1", 0)
        pid = linux.fork()
        if pid == 0:
            self.be(job, case, files)
        for file in files:
            os.close(file)
        if job != b"script":
            self.program = pid
        if job != b"serve":
            self.attend(pid)

    def attend(self, pid: int) -> None:
        """Pass signals on until a process ends, then kill all; tell wait statuses and CPU time."""
        process = os.pidfd_open(pid)
        self.poll.register(process, select.POLLIN)
        while self.poll.poll()[-1][0] != process:
            number = int(self.orders.recv(64) or KILL)
            if number == KILL:
                break
            os.kill(-1, number)
            self.orders.send(b"done")
        self.poll.unregister(process)
        os.close(process)
        statuses = {}
        cpu = 0.0
        while kill(-1, KILL) == 0:  # until nothing is left, not even a zombie
            ended, statuses[ended], usage = os.wait4(-1, 0)
            cpu += usage.ru_utime + usage.ru_stime
        self.orders.send(b"%d %d %f" % (statuses[pid], statuses[self.program], cpu))

    def be(self, job: bytes, case: int, files: list[int]) -> None:
        """Confine this process and do the job in it; never returns."""
        status = 1
        request = self.request
        try:
            os.dup2(files[2], 2)  # what went wrong is told where the program's errors are
            if job == b"probe":
                program.send(program.REPORT, inspect(self.steps, files))
                return
            for step in self.steps.values():
                step(files)
            told = program.OUTPUT if job == b"serve" else program.REPORT
            os.write(told, b"\n")
            linux.set_limits(self.limits)
            if job == b"run":
                status = program.run(request, request.cases[case], self.code)
            elif job == b"serve":
                status = serve(request)
            elif job == b"script":
                status = run_tests(request.entry_point or "")
            else:
                status = program.session()
        except BaseException as error:
            # hostile code ran in here: it must not reach our stack
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status)


def occupy() -> None:
    """Take the descriptors below FILES, so that files come above the numbers they are to have."""
    while (null := os.open("/dev/null", os.O_RDWR)) < FILES:
        pass
    os.close(null)


def descriptors(files: list[int]) -> None:
    """Make all but the last of `files` the descriptors 0, 1, ..., and leave nothing else open."""
    for number, file in enumerate(files[:-1]):
        os.dup2(file, number)
    linux.system_call(linux.CLOSE_RANGE, len(files) - 1, 2**31 - 1, 0)
    os.chdir("/tmp")
