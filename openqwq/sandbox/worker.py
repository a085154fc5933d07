"""The trusted process inside: a warm interpreter that forks one supervisor per run, in fresh
namespaces; the supervisor forks one confined process per case, watches it and kills all it left.
"""

import fcntl
import gc
import json
import os
import random
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from math import ceil
from types import CodeType
from typing import Any

from openqwq.sandbox import linux, program
from openqwq.sandbox.doctor import inspect
from openqwq.sandbox.protocol import Case, Limits, RunRequest

LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
COMMON = "bisect functools heapq itertools math operator string"
REPORTED = ("ok", "compile_error", "runtime_error", "memory")
OF_SCRIPTS = ("ended", "unconfined")  # the program behind the pipe is gone, or never was
RUN_BYTES = 2**25  # of output and values, of all cases of a run together
START_SECONDS = 10.0  # in which a case must be confined, before its wall time counts
REASONS = {"timeout": "the wall time ran out", "output_limit": "wrote more than output_bytes"}
Report = dict[str, Any]


def main(descriptor: int, layers: frozenset[str], packages: str) -> None:
    """Enter the namespaces, say how that went, then serve one run or session at a time."""
    channel = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # pid 1 is immune to signals it does not handle
    sys.path[:] = [path for path in sys.path if os.path.isdir(path)]
    sys.path += [packages] if packages else []
    supervisor = Supervisor(channel, layers)
    with suppress(OSError):  # a read-only /proc/sys, or a kernel without it
        supervisor.last_pid = os.open("/proc/sys/kernel/ns_last_pid", os.O_WRONLY)
    try:
        enter([*supervisor.readable, *DEVICES])
    except OSError as error:
        return program.send(descriptor, {"namespaces": str(error)})
    linux.checked("prctl", linux.PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for name in COMMON.split():
        import_module(name)  # what programs import most, once for all
    for children in (False, True):
        linux.seccomp_program(children)
    program.open_streams()
    os.environ["HOME"] = "/tmp"
    random.seed(0)  # a program that draws numbers gets the same verdict every time
    gc.collect()
    gc.freeze()
    program.send(descriptor, {})
    while channel.recv(1, socket.MSG_PEEK):  # the request itself is read by the supervisor only
        pid = linux.fork(linux.NEWPID | linux.NEWNS)
        if pid == 0:
            supervisor.serve()
            os._exit(0)
        if os.waitpid(pid, 0)[1]:
            return None
    return None


def enter(paths: list[str]) -> None:
    """Take the minimal root, an unprivileged host user, and empty namespaces of every kind."""
    process = os.open("/proc/self", os.O_PATH)
    with open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")
    try:
        linux.checked("unshare", linux.NEWNS)  # real root: mount first, then become nobody
    except PermissionError:
        linux.new_user_namespace(process, os.geteuid(), os.getegid(), linux.NEWNS)
        linux.build_root(paths)
    else:
        linux.build_root(paths)
        os.setgroups([])
        os.setresgid(linux.NOBODY, linux.NOBODY, linux.NOBODY)
        os.setresuid(linux.NOBODY, linux.NOBODY, linux.NOBODY)
        linux.checked("prctl", linux.DUMPABLE, 1, 0, 0, 0)  # else uid_map belongs to root
        linux.new_user_namespace(process, linux.NOBODY, linux.NOBODY)
    os.close(process)
    others = linux.NEWNS | linux.NEWCGROUP | linux.NEWUTS | linux.NEWIPC | linux.NEWNET
    linux.checked("unshare", others)
    socket.sethostname("sandbox")


class Supervisor:
    """Runs the cases of one request; trusted, and pid 1 of the run's pid namespace."""

    def __init__(self, channel: socket.socket, layers: frozenset[str]) -> None:
        self.channel, self.layers = channel, layers
        self.untouched: list[Any] = []  # what `seen` told of the mounted /tmp
        self.room = 0  # bytes of standard input that it holds
        self.rules: int | None = None  # a descriptor of Landlock's, for the mounted /tmp
        self.last_pid: int | None = None  # a descriptor by which pids start anew for each case
        paths = {*LIBRARIES, os.path.join(sys.base_prefix, "lib"), *sys.path}
        self.readable = [
            path
            for path in sorted(paths)
            if os.path.exists(path) and not any(path.startswith(other + "/") for other in paths)
        ]

    def serve(self) -> None:
        """Answer one request with one frame per case; die on any failure of our own."""
        linux.checked("prctl", linux.PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        data = program.receive(self.channel.fileno())
        if "probe" in data:
            return self.probe()
        if "session" in data:
            return self.session(Limits(**data["session"]))
        request, code, skip, room = RunRequest.from_json(data), None, False, RUN_BYTES
        for case in request.cases:
            result: Report = {"status": "skipped"}
            if not skip:
                result, survived = self.case(request, case, code)
                quick = result["seconds"] < 1  # else compiling it again might hold us up
                if survived and quick and code is None and len(request.cases) > 1:
                    code = program.compiled(request.source)
            room -= sum(len(result.get(name) or "") for name in ("stdout", "stderr", "value"))
            if room < 0:
                result = {"status": "output_limit", "error": f"a run wrote over {RUN_BYTES} bytes"}
            skip = request.stop_early and result["status"] != "ok"
            program.send(self.channel.fileno(), result)
        return None

    def fresh(self, stdin: str, limits: Limits) -> int:
        """Make /tmp empty, by a new mount if it was touched; return the opened standard input."""
        text = stdin.encode("utf-8", "surrogatepass")
        if self.untouched and (len(text) > self.room or seen() != self.untouched):
            linux.checked("umount2", b"/tmp", linux.DETACH)
            self.untouched = []
            if self.rules is not None:
                os.close(self.rules)
                self.rules = None
        if self.untouched:
            os.unlink("/tmp/.stdin")
        else:
            self.room = len(text) + 2**16
            options = f"mode=700,size={limits.file_bytes + self.room + 2**16},nr_inodes=4096"
            flags = linux.NOSUID | linux.NODEV | linux.NOEXEC | linux.NOATIME
            linux.mount("tmpfs", "/tmp", b"tmpfs", flags, options)
        with open("/tmp/.stdin", "wb") as file:
            file.write(text)
        self.untouched = seen()
        return os.open("/tmp/.stdin", os.O_RDONLY)

    def steps(self, limits: Limits, files: list[int]) -> dict[str, Callable[[], None]]:
        """Return what confines the calling process, by layer, in order."""
        steps: dict[str, Callable[[], None]] = {
            "privileges": linux.drop_privileges,
            "landlock": lambda: linux.landlock(self.landlock_rules()),
            "descriptors": partial(descriptors, files),
            "seccomp": partial(linux.seccomp, limits.processes > 1),
        }
        return {name: step for name, step in steps.items() if name in self.layers}

    def landlock_rules(self) -> int:
        """Return the rules, made once and not by each case, which would cost it 0.3 ms."""
        if self.rules is None:
            self.rules = linux.landlock_rules([*self.readable, "/dev"], "/tmp")
        return self.rules

    def spawn(self, job: Callable[[], int], limits: Limits, files: list[int], phase: int) -> int:
        """Fork a confined process with `files` as its descriptors 0, 1, ...; return its pid."""
        if "landlock" in self.layers:
            self.landlock_rules()
        pid = linux.fork()
        if pid:
            return pid
        code = 1
        try:
            for step in self.steps(limits, files).values():
                step()
            os.write(phase, b"\n")
            linux.set_limits(limits)
            code = job()
        except BaseException as error:  # hostile code ran in here: it must not reach our stack
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)

    def case(self, request: RunRequest, case: Case, code: CodeType | None) -> tuple[Report, bool]:
        """Run one case; also say whether the program was compiled without harm."""
        limits, scripted, point = request.limits, request.form == "script", request.entry_point
        stdin, null = self.fresh(case.stdin, limits), os.open("/dev/null", os.O_RDWR)
        if self.last_pid is not None:  # else a case could count up for the next one to see
            os.pwrite(self.last_pid, b"1", 0)
        pipes, (out_end, err_end, report_end) = outlets(limits)
        _, err, report = pipes
        ends = [stdin, null, out_end, err_end, report_end]
        if scripted:
            (to, to_end), (back, back_end) = os.pipe(), os.pipe()
            ends += [to, to_end, back, back_end]
            files = [null, out_end, err_end, null, to, back_end]
            hostile = self.spawn(partial(program.serve, request), limits, files, program.OUTPUT)
            files = [null, null, null, report_end, back, to_end, self.channel.fileno()]
            job = partial(program.script, point or "")
        else:
            files, job = ends[:1] + ends[2:], partial(program.run, request, case, code)
        watched = self.spawn(job, limits, files, program.REPORT)
        for end in ends:
            os.close(end)
        started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        reason, texts = self.watch(watched, pipes, limits.wall_seconds)
        codes, usage = end_all(), resource.getrusage(resource.RUSAGE_CHILDREN)
        reason = drain(pipes, texts) or reason
        if not texts[report].startswith(b"\n"):
            raise OSError(f"a process could not be confined: {texts[err].decode()}")
        cpu = usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime
        result = output(texts, pipes)
        result |= {"seconds": time.monotonic() - started, "cpu_seconds": cpu}
        if reason == "exited":
            own = codes[hostile] if scripted else codes[watched]
            result |= verdict(parse(texts[report]), codes[watched], own, request, cpu)
        else:
            result |= {"status": reason, "error": REASONS[reason]}
        return result, texts[report].startswith(b"\n\n")

    def watch(
        self, pid: int, pipes: dict[int, int], wall: float, report: int | None = None
    ) -> tuple[str, dict[int, bytearray]]:
        """Collect output until exit, time-out, a full pipe or, in a session, a whole report."""
        deadline, process, poll = time.monotonic() + wall, os.pidfd_open(pid), select.poll()
        confined_by = time.monotonic() + (0 if report else START_SECONDS)
        texts, reason = {pipe: bytearray() for pipe in pipes}, ""
        poll.register(self.channel, select.POLLRDHUP)
        for descriptor in (process, *pipes):
            poll.register(descriptor, select.POLLIN)
        while not reason:
            remaining = deadline - time.monotonic()
            if remaining <= 0 and not any(texts.values()) and time.monotonic() < confined_by:
                deadline = time.monotonic() + wall  # a busy machine: the program has not begun
                continue
            if remaining <= 0:
                reason = "timeout"
                break
            for descriptor, _ in poll.poll(remaining * 1000 + 1):
                if descriptor == self.channel.fileno():
                    os._exit(1)  # nobody waits for the answer any more
                if descriptor == process:
                    reason = reason or "exited"
                    continue
                chunk, text = os.read(descriptor, 2**16), texts[descriptor]
                text += chunk
                if not chunk:
                    poll.unregister(descriptor)
                if len(text) > pipes[descriptor]:
                    reason = "output_limit"
                elif descriptor == report and text.endswith(b"\0"):
                    reason = "reported"
        os.close(process)
        return reason, texts

    def probe(self) -> None:
        """Answer with what `doctor.inspect` finds in a process confined like a case."""
        null, (report, report_end) = self.fresh("", Limits()), os.pipe()
        pid = linux.fork()
        if pid == 0:
            steps = self.steps(Limits(), [null, null, 2, report_end])
            program.send(program.REPORT, inspect(steps))
            os._exit(0)
        os.close(report_end)
        program.send(self.channel.fileno(), program.receive(report))

    def session(self, limits: Limits) -> None:
        """Serve one interpreter's calls; between calls everything in it is stopped."""
        stdin, (source, source_end) = self.fresh("", limits), os.pipe()
        pipes, ends = outlets(limits)
        report, files = list(pipes)[2], [stdin, *ends, source]
        lasting = replace(limits, cpu_seconds=10**9)  # a call's CPU is bounded by its wall time
        pid = self.spawn(program.session, lasting, files, program.REPORT)
        for end in files:
            os.close(end)
        reason = "reported"
        if os.read(report, 1) != b"\n":
            raise OSError("the interpreter could not be confined")
        while reason == "reported":
            try:
                text = program.receive(self.channel.fileno())
            except EOFError:
                return
            signal_all(signal.SIGCONT)
            started = time.monotonic()
            program.send(source_end, text)
            reason, texts = self.watch(pid, pipes, limits.wall_seconds, report)
            signal_all(signal.SIGSTOP)
            for pipe in pipes:  # what was written before the report
                while len(texts[pipe]) <= pipes[pipe] and select.select([pipe], [], [], 0)[0]:
                    texts[pipe] += os.read(pipe, 2**16) or b"\0" * pipes[pipe]
            result = parse(texts[report].rstrip(b"\0")) if reason == "reported" else {}
            if result.get("status") not in REPORTED:
                reason = "crashed" if reason in ("reported", "exited") else reason
                result = {"status": reason, "error": REASONS.get(reason, "the interpreter ended")}
            result |= {"seconds": time.monotonic() - started, **output(texts, pipes)}
            program.send(self.channel.fileno(), result)


def descriptors(files: list[int]) -> None:
    """Make `files` the descriptors 0, 1, ... of this process, and leave it nothing else."""
    high = [fcntl.fcntl(file, fcntl.F_DUPFD, 100) for file in files]
    for number, file in enumerate(high):
        os.dup2(file, number)
    linux.checked("syscall", linux.CLOSE_RANGE, len(files), 2**31, 0)
    os.setpgid(0, 0)  # kill(0) must not reach the worker, whose group we were born in
    os.chdir("/tmp")


def seen() -> list[Any]:
    """Return what changes when anything is put into /tmp, taken out, or set on it."""
    with os.scandir("/tmp") as entries:
        found: list[Any] = [(entry.name, entry.inode()) for entry in entries]
    state = os.stat("/tmp")
    return [*found, state.st_mode, state.st_mtime_ns, state.st_ctime_ns]


def outlets(limits: Limits) -> tuple[dict[int, int], list[int]]:
    """Open the pipes for output, errors and report: what may be read from each, and their ends."""
    pairs = [os.pipe() for _ in range(3)]
    most = (limits.output_bytes, limits.output_bytes, limits.output_bytes + 2**16)
    return {reader: size for (reader, _), size in zip(pairs, most, strict=True)}, [
        writer for _, writer in pairs
    ]


def signal_all(number: int) -> None:
    """Send a signal to every process of the pid namespace but this one."""
    with suppress(ProcessLookupError):
        os.kill(-1, number)


def end_all() -> dict[int, int]:
    """Kill and reap every process; return the wait statuses."""
    signal_all(signal.SIGKILL)
    codes: dict[int, int] = {}
    with suppress(ChildProcessError):
        while True:
            pid, code = os.waitpid(-1, 0)
            codes[pid] = code
    return codes


def drain(pipes: dict[int, int], texts: dict[int, bytearray]) -> str:
    """Read what is left in pipes without writers, and close them; say if it was too much."""
    for pipe, limit in pipes.items():
        while len(texts[pipe]) <= limit and (chunk := os.read(pipe, 2**16)):
            texts[pipe] += chunk
        os.close(pipe)
    return "output_limit" if any(len(texts[pipe]) > pipes[pipe] for pipe in pipes) else ""


def output(texts: dict[int, bytearray], pipes: dict[int, int]) -> Report:
    """Return stdout and stderr as text."""
    names = zip(("stdout", "stderr"), pipes.items(), strict=False)
    return {name: texts[pipe][:size].decode("utf-8", "replace") for name, (pipe, size) in names}


def parse(text: bytearray) -> Report:
    """Read a report, which the program may have forged: {} unless it has the right form."""
    try:
        report = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(report, dict) or report.get("status") not in (*REPORTED, *OF_SCRIPTS):
        return {}
    texts = {name: report.get(name) for name in ("error", "value")}
    texts = {name: text for name, text in texts.items() if isinstance(text, str)}
    return {"status": report["status"], **texts}


def verdict(report: Report, code: int, own: int, request: RunRequest, cpu: float) -> Report:
    """Say how a case ended: by its report, its wait status, and the program's `own`."""
    status, limit = report.get("status"), ceil(request.limits.cpu_seconds)
    if request.form == "script" and status == "unconfined":
        raise OSError("the program's process could not be confined")
    if status == "ended":
        code, status = own, None
    if os.WIFSIGNALED(code):
        number = os.WTERMSIG(code)
        if number == signal.SIGXCPU or (number == signal.SIGKILL and cpu >= limit):
            return {"status": "timeout", "error": f"used {limit} s of CPU"}
        return {"status": "crashed", "error": f"killed by {signal.Signals(number).name}"}
    if status in REPORTED and (status != "ok" or not os.WEXITSTATUS(code)):
        return report
    if request.form == "stdin" and not os.WEXITSTATUS(code):
        return {"status": "ok"}
    error = f"ended early with exit status {os.WEXITSTATUS(code)}"
    return {"status": "runtime_error", "error": error}
