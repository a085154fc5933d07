"""The supervisor of a worker: it orders each run's processes, watches each case's pipes, end and
clock, and answers. It holds what requests and programs said, so no process of a run is its fork.
"""

import json
import os
import random
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from math import ceil
from typing import Any

from openqwq.sandbox import linux, program
from openqwq.sandbox.init import KILL, Zygote, occupy
from openqwq.sandbox.packages import PACKAGES, import_packages
from openqwq.sandbox.protocol import DEFAULT, Limits, RunRequest
from openqwq.sandbox.seccomp import seccomp_program

LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
COMMON = "bisect functools heapq itertools math operator string"
REPORTED = ("ok", "compile_error", "runtime_error", "memory")
OF_SCRIPTS = ("ended", "unconfined")  # the program behind the pipe is gone, or never was
RUN_BYTES = 2**25  # of output and values, of all cases of a run together
START_SECONDS = 10.0  # in which a case must be confined, before its wall time counts
ANSWER_SECONDS = 0.1  # that a case's answer may wait for the next one's
REASONS = {"timeout": "the wall time ran out", "output_limit": "wrote more than output_bytes"}
Report = dict[str, Any]


def main(
    descriptor: int, layers: frozenset[str], packages: dict[str, str], imports: list[str]
) -> None:
    """Enter the namespaces, fork the zygote, then serve one run or session at a time.

    `packages` are the entries of /packages with their sources; `imports` the modules to import.
    """
    channel = socket.socket(fileno=descriptor)
    occupy()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # pid 1 is immune to signals it does not handle
    sys.path[:] = [path for path in sys.path if os.path.isdir(path)]
    paths = {*LIBRARIES, os.path.join(sys.base_prefix, "lib"), *sys.path}
    tops = [path for path in paths if not any(path.startswith(other + "/") for other in paths)]
    readable, last_pid = sorted(filter(os.path.exists, tops)), None

    with suppress(OSError):  # a read-only /proc/sys, or a kernel without it
        last_pid = os.open("/proc/sys/kernel/ns_last_pid", os.O_WRONLY)
    places = {path: path for path in (*readable, *DEVICES)}
    if packages:
        places |= {f"{PACKAGES}/{name}": source for name, source in packages.items()}
        readable.append(PACKAGES)
        sys.path.append(PACKAGES)
    try:
        enter(places)
    except OSError as error:
        return program.send(descriptor, {"namespaces": str(error)})
    linux.checked("prctl", linux.PDEATHSIG, KILL, 0, 0, 0)
    for name in COMMON.split():
        import_module(name)  # what programs import most, once for all
    try:
        import_packages(imports)
    except ImportError as error:
        return program.send(descriptor, {"packages": str(error)})
    for children in (False, True):
        seccomp_program(children)
    program.open_streams()
    os.environ["HOME"] = "/tmp"
    os.environ.pop("LD_BIND_NOW", None)  # has had its effect: forks need not look up functions
    random.seed(0)  # a program that draws numbers gets the same verdict every time
    sockets, theirs = socket.socketpair()
    if linux.fork() == 0:
        sockets.close()
        channel.close()
        Zygote(layers, last_pid).serve(theirs)
        os._exit(0)
    theirs.close()
    with suppress(OSError):  # a program that writes goes on; else it would wait for us each time
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    supervisor = Supervisor(channel, layers, readable, sockets)
    program.send(descriptor, {})
    while channel.recv(1, socket.MSG_PEEK):
        supervisor.serve()
    return None


def enter(paths: dict[str, str]) -> None:
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
        linux.checked("setgroups", 0, None)  # named in the error where root is one of a container
        linux.checked("setresgid", linux.NOBODY, linux.NOBODY, linux.NOBODY)
        linux.checked("setresuid", linux.NOBODY, linux.NOBODY, linux.NOBODY)
        linux.checked("prctl", linux.DUMPABLE, 1, 0, 0, 0)  # else uid_map belongs to root
        linux.new_user_namespace(process, linux.NOBODY, linux.NOBODY)
    os.close(process)
    others = linux.NEWNS | linux.NEWCGROUP | linux.NEWUTS | linux.NEWIPC | linux.NEWNET
    linux.checked("unshare", others)
    linux.checked("sethostname", b"sandbox", len("sandbox"))


class Supervisor:
    """Answers requests; dies on any failure of our own."""

    def __init__(
        self,
        channel: socket.socket,
        layers: frozenset[str],
        readable: list[str],
        zygote: socket.socket,
    ) -> None:
        self.channel, self.layers, self.readable, self.zygote = channel, layers, readable, zygote
        self.untouched: list[Any] = []  # what `seen` told of the mounted /tmp
        self.room = 0  # bytes of standard input that it holds
        self.rules: int | None = None  # a descriptor of Landlock's, for the mounted /tmp

    def serve(self) -> None:
        """Answer one request, with a pid namespace of its own."""
        data = program.receive(self.channel.fileno())
        if "probe" in data:
            self.probe()
        elif "session" in data:
            self.session(Limits(**data["session"]))
        else:
            self.run(data)
        self.empty()
        self.init.close()

    def begin(self, request: RunRequest) -> None:
        """Start pid 1 of a run and tell it the request, without what goes in by files."""
        (read, write), (self.init, theirs) = (
            os.pipe(),
            socket.socketpair(type=socket.SOCK_SEQPACKET),
        )
        socket.send_fds(self.zygote, [b"\n"], [read, theirs.fileno()])
        os.close(read)
        theirs.close()
        cases = tuple(replace(case, stdin="") for case in request.cases)
        program.send(write, replace(request, cases=cases).to_json())
        os.close(write)

    def run(self, data: dict[str, Any]) -> None:
        """Answer with one frame per case; several go together while cases are quick."""
        request, skip, room = RunRequest.from_json(data), False, RUN_BYTES
        self.begin(request)
        answers, answered = b"", time.monotonic()
        compiled = False  # by pid 1, once a case has shown that it does no harm
        for number in range(len(request.cases)):
            result: Report = {"status": "skipped"}
            if not skip:
                result, survived = self.case(request, number, compiled)
                quick = result["seconds"] < 1  # else compiling it again might hold us up
                compiled = compiled or (survived and quick and len(request.cases) > 1)
            room -= sum(len(result.get(name) or "") for name in ("stdout", "stderr", "value"))
            if room < 0:
                result = {"status": "output_limit", "error": f"a run wrote over {RUN_BYTES} bytes"}
            skip = request.stop_early and result["status"] != "ok"
            answers += program.frame(result)
            if number + 1 == len(request.cases) or time.monotonic() > answered + ANSWER_SECONDS:
                program.write(self.channel.fileno(), answers)
                answers, answered = b"", time.monotonic()

    def order(self, job: str, files: list[int], case: int = 0, compiled: bool = False) -> None:
        """Have pid 1 start a process with `files` as its descriptors 0, 1, ..."""
        self.landlock_rules()
        rules = files[0] if self.rules is None else self.rules
        socket.send_fds(self.init, [f"{job} {case} {compiled:d}".encode()], [*files, rules])

    def landlock_rules(self) -> None:
        """Make the rules once for each mounted /tmp, and not for each case."""
        if self.rules is None and "landlock" in self.layers:
            self.rules = linux.landlock_rules([*self.readable, "/dev"], "/tmp")

    def empty(self) -> None:
        """Drop the mounted /tmp with all that is in it."""
        if self.untouched:
            linux.checked("umount2", b"/tmp", linux.DETACH)
            self.untouched = []
        if self.rules is not None:
            os.close(self.rules)
            self.rules = None

    def fresh(self, stdin: str, limits: Limits) -> int:
        """Make /tmp empty, by a new mount if it was touched; return the opened standard input."""
        text = stdin.encode("utf-8", "surrogatepass")
        if self.untouched and (len(text) > self.room or seen() != self.untouched):
            self.empty()
        if self.untouched:
            os.unlink("/tmp/.stdin")
        else:
            self.room = len(text) + 2**16
            options = f"mode=700,size={limits.file_bytes + self.room + 2**16},nr_inodes=4096"
            flags = linux.NOSUID | linux.NODEV | linux.NOEXEC | linux.NOATIME
            linux.mount("tmpfs", "/tmp", b"tmpfs", flags, options)
        file = os.open("/tmp/.stdin", os.O_WRONLY | os.O_CREAT, 0o644)
        program.write(file, text)
        os.close(file)
        self.untouched = seen()
        return os.open("/tmp/.stdin", os.O_RDONLY)

    def case(self, request: RunRequest, number: int, compiled: bool) -> tuple[Report, bool]:
        """Run one case; also say whether the program was compiled without harm."""
        limits, scripted = request.limits or DEFAULT, request.form == "script"
        pipes, (out_end, err_end, report_end) = outlets(limits)
        _, err, report = pipes
        file = self.fresh(request.cases[number].stdin, limits)
        ends = [file, out_end, err_end, report_end]
        if scripted:
            null = os.open("/dev/null", os.O_RDWR)
            (to, to_end), (back, back_end) = os.pipe(), os.pipe()
            ends += [null, to, to_end, back, back_end]
            self.order("serve", [null, out_end, err_end, null, to, back_end])
            channel = self.channel.fileno()
            self.order("script", [null, null, null, report_end, back, to_end, channel])
        else:
            self.order("run", [file, out_end, err_end, report_end], number, compiled)
        for end in ends:
            os.close(end)
        started = time.monotonic()
        reason, texts = self.watch(pipes, limits.wall_seconds)
        if reason != "exited":
            self.init.send(b"%d" % KILL)
        watched, own, cpu = map(float, self.init.recv(64).split())
        reason = drain(pipes, texts) or reason
        # What floods ran, so it was confined, though the script that is to judge it had not begun.
        flooded = scripted and reason == "output_limit"
        if not flooded and not texts[report].startswith(b"\n"):
            raise OSError(f"a process could not be confined: {texts[err].decode(errors='replace')}")
        result = output(texts, pipes)
        result |= {"seconds": time.monotonic() - started, "cpu_seconds": cpu}
        if reason == "exited":
            result |= verdict(parse(texts[report]), int(watched), int(own), request, cpu)
        else:
            result |= {"status": reason, "error": REASONS[reason]}
        return result, texts[report].startswith(b"\n\n")

    def watch(
        self, pipes: dict[int, int], wall: float, report: int | None = None
    ) -> tuple[str, dict[int, bytearray]]:
        """Collect output until exit, time-out, a full pipe or, in a session, a whole report."""
        deadline, init, poll = time.monotonic() + wall, self.init.fileno(), select.poll()
        confined_by = time.monotonic() + (0 if report else START_SECONDS)
        texts, reason = {pipe: bytearray() for pipe in pipes}, ""
        poll.register(self.channel, select.POLLRDHUP)
        for descriptor in (init, *pipes):
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
                if descriptor == init:  # it tells how the process ended
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
        return reason, texts

    def probe(self) -> None:
        """Answer with what `doctor.inspect` finds in a process confined like a case."""
        self.begin(RunRequest(""))
        null, (report, report_end), missing = self.fresh("", Limits()), os.pipe(), {}
        try:
            self.landlock_rules()
        except OSError as error:
            missing, self.layers = {"landlock": str(error)}, self.layers - {"landlock"}
        self.order("probe", [null, null, 2, report_end])
        os.close(report_end)
        program.send(self.channel.fileno(), program.receive(report) | missing)

    def session(self, limits: Limits) -> None:
        """Serve one interpreter's calls; between calls everything in it is stopped."""
        lasting = replace(limits, cpu_seconds=10**9)  # a call's CPU is bounded by its wall time
        self.begin(RunRequest("", limits=lasting))
        stdin, (source, source_end) = self.fresh("", limits), os.pipe()
        pipes, ends = outlets(limits)
        report, files = list(pipes)[2], [stdin, *ends, source]
        self.order("session", files)
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
            self.signal(signal.SIGCONT)
            started = time.monotonic()
            program.send(source_end, text)
            reason, texts = self.watch(pipes, limits.wall_seconds, report)
            if reason != "exited":
                self.signal(signal.SIGSTOP)
            for pipe in pipes:  # what was written before the report
                while len(texts[pipe]) <= pipes[pipe] and select.select([pipe], [], [], 0)[0]:
                    texts[pipe] += os.read(pipe, 2**16) or b"\0" * pipes[pipe]
            result = parse(texts[report].rstrip(b"\0")) if reason == "reported" else {}
            if result.get("status") not in REPORTED:
                reason = "crashed" if reason in ("reported", "exited") else reason
                result = {"status": reason, "error": REASONS.get(reason, "the interpreter ended")}
            result |= {"seconds": time.monotonic() - started, **output(texts, pipes)}
            program.send(self.channel.fileno(), result)

    def signal(self, number: int) -> None:
        """Have pid 1 signal everything, or tell that there is nothing any more."""
        self.init.send(b"%d" % number)
        self.init.recv(64)


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
    status, limit = report.get("status"), ceil((request.limits or DEFAULT).cpu_seconds)
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
