"""The supervisor of a worker: it orders each run's processes, watches each case's pipes, end and
clock, and answers. It holds what requests and programs said, so no process of a run is its fork.
"""

import os
import select
import signal
import socket
import time
from dataclasses import replace
from typing import Any

from openqwq.sandbox import linux, program
from openqwq.sandbox.ending import REASONS, REPORTED, Ending, case_outcome, parse
from openqwq.sandbox.init import KILL
from openqwq.sandbox.outlets import Outlets
from openqwq.sandbox.program import Report
from openqwq.sandbox.protocol import DEFAULT, Limits, RunRequest

RUN_BYTES = 2**25  # of output and values, of all cases of a run together
START_SECONDS = 10.0  # in which a case must be confined, before its wall time counts
ANSWER_SECONDS = 0.1  # that a case's answer may wait for the next one's
QUICK_SECONDS = 1.0  # a case that took less may be compiled by pid 1, which nobody watches
STDIN_ROOM = 2**16  # of a mounted /tmp beyond the first case's input, for the next ones'
INODES = 4096


class Supervisor:
    """Answers requests; dies on any failure of our own."""

    def __init__(
        self,
        channel: socket.socket,
        layers: frozenset[str],
        readable: list[str],
        zygote: socket.socket,
    ) -> None:
        self.channel = channel
        self.layers = layers
        self.readable = readable
        self.zygote = zygote
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
            self.run(RunRequest.from_json(data))
        self.empty()
        self.init.close()

    def begin(self, request: RunRequest) -> None:
        """Start pid 1 of a run and tell it the request, without what goes in by files."""
        read, write = os.pipe()
        self.init, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        socket.send_fds(self.zygote, [b"\n"], [read, theirs.fileno()])
        os.close(read)
        theirs.close()

        cases = tuple(replace(case, stdin="") for case in request.cases)
        program.send(write, replace(request, cases=cases).to_json())
        os.close(write)

    def run(self, request: RunRequest) -> None:
        """Answer with one frame per case; several go together while cases are quick."""
        self.begin(request)
        room = RUN_BYTES
        skip = False
        compiled = False  # by pid 1, once a case has shown that it does no harm
        answers = b""
        answered = time.monotonic()
        for number in range(len(request.cases)):
            result: Report = {"status": "skipped"}
            if not skip:
                result, survived = self.case(request, number, compiled)
                quick = result["seconds"] < QUICK_SECONDS
                if survived and quick and len(request.cases) > 1:
                    compiled = True

            for name in ("stdout", "stderr", "value"):
                room -= len(result.get(name) or "")
            if room < 0:
                result = {
                    "status": "output_limit",
                    "error": f"a run wrote over {RUN_BYTES} bytes",
                }
            if request.stop_early and result["status"] != "ok":
                skip = True

            answers += program.frame(result)
            last = number + 1 == len(request.cases)
            if last or time.monotonic() > answered + ANSWER_SECONDS:
                program.write(self.channel.fileno(), answers)
                answers = b""
                answered = time.monotonic()

    def case(self, request: RunRequest, number: int, compiled: bool) -> tuple[Report, bool]:
        """Run one case; also say whether the program was compiled without harm."""
        limits = request.limits or DEFAULT
        outlets = Outlets(limits)
        stdin = self.fresh(request.cases[number].stdin, limits)
        if request.form == "script":
            self.start_script(outlets)
        else:
            self.order("run", [stdin, *outlets.writers()], number, compiled)
        for end in (stdin, *outlets.writers()):
            os.close(end)

        started = time.monotonic()
        reason = self.watch(outlets, limits.wall_seconds)
        if reason != "exited":
            self.init.send(b"%d" % KILL)
        ending = Ending.read(self.init.recv(64))
        for outlet in outlets.all():
            outlet.read_rest()
        if outlets.overflown():
            reason = "output_limit"
        self.require_confined(request, reason, outlets)

        result: Report = {**outlets.texts(), "cpu_seconds": ending.cpu_seconds}
        result["seconds"] = time.monotonic() - started
        if reason == "exited":
            result |= case_outcome(parse(outlets.report.text), ending, request)
        else:
            result |= {"status": reason, "error": REASONS[reason]}
        survived = outlets.report.text.startswith(b"\n\n")
        return result, survived

    def start_script(self, outlets: Outlets) -> None:
        """Start a program and, apart from it, the trusted script, with pipes between them."""
        output, errors, report = outlets.writers()
        null = os.open("/dev/null", os.O_RDWR)
        from_script, to_program = os.pipe()
        from_program, to_script = os.pipe()
        self.order("serve", [null, output, errors, null, from_script, to_script])
        channel = self.channel.fileno()  # the script's text comes over it
        self.order("script", [null, null, null, report, from_program, to_program, channel])
        for end in (null, from_script, to_program, from_program, to_script):
            os.close(end)

    def require_confined(self, request: RunRequest, reason: str, outlets: Outlets) -> None:
        """Raise OSError unless a case's process told that its confinement holds."""
        # What floods ran, so it was confined, though the script that is to judge it had not begun.
        flooded = request.form == "script" and reason == "output_limit"
        if not flooded and not outlets.report.text.startswith(b"\n"):
            raise OSError(f"a process could not be confined: {outlets.errors.decoded()}")

    def watch(self, outlets: Outlets, wall: float, session: bool = False) -> str:
        """Collect output until exit, time-out, a full pipe or, in a session, a whole report."""
        deadline = time.monotonic() + wall
        confined_by = time.monotonic() + (0 if session else START_SECONDS)
        by_reader = {outlet.reader: outlet for outlet in outlets.all()}
        init = self.init.fileno()
        poll = select.poll()
        poll.register(self.channel, select.POLLRDHUP)
        for descriptor in (init, *by_reader):
            poll.register(descriptor, select.POLLIN)

        reason = ""
        while not reason:
            remaining = deadline - time.monotonic()
            if remaining <= 0 and outlets.silent() and time.monotonic() < confined_by:
                # a busy machine: the program has not begun
                deadline = time.monotonic() + wall
                continue
            if remaining <= 0:
                return "timeout"

            for descriptor, _ in poll.poll(remaining * 1000 + 1):
                if descriptor == self.channel.fileno():
                    os._exit(1)  # nobody waits for the answer any more
                if descriptor == init:  # it tells how the process ended
                    reason = reason or "exited"
                    continue
                outlet = by_reader[descriptor]
                if not outlet.read():
                    poll.unregister(descriptor)
                if outlet.overflown:
                    reason = "output_limit"
                elif session and outlet is outlets.report and outlet.text.endswith(b"\0"):
                    reason = "reported"
        return reason

    def session(self, limits: Limits) -> None:
        """Serve one interpreter's calls; between calls everything in it is stopped."""
        # a call's CPU is bounded by its wall time
        lasting = replace(limits, cpu_seconds=10**9)
        self.begin(RunRequest("", limits=lasting))
        outlets = Outlets(limits)
        stdin = self.fresh("", limits)
        source, source_end = os.pipe()
        files = [stdin, *outlets.writers(), source]
        self.order("session", files)
        for end in files:
            os.close(end)
        if os.read(outlets.report.reader, 1) != b"\n":
            raise OSError("the interpreter could not be confined")

        lives = True
        while lives:
            try:
                text = program.receive(self.channel.fileno())
            except EOFError:
                return
            result, lives = self.answer_call(text, source_end, outlets, limits)
            program.send(self.channel.fileno(), result)

    def answer_call(
        self, text: str, source_end: int, outlets: Outlets, limits: Limits
    ) -> tuple[Report, bool]:
        """Run one call of a session; also say whether the interpreter outlived it."""
        outlets.clear()
        self.signal(signal.SIGCONT)
        started = time.monotonic()
        program.send(source_end, text)
        reason = self.watch(outlets, limits.wall_seconds, session=True)
        if reason != "exited":
            self.signal(signal.SIGSTOP)
        for outlet in outlets.all():  # what was written before the report
            outlet.read_ready()

        result: Report = {}
        if reason == "reported":
            result = parse(outlets.report.text.rstrip(b"\0"))
        if result.get("status") not in REPORTED:
            if reason in ("reported", "exited"):
                reason = "crashed"
            result = {
                "status": reason,
                "error": REASONS.get(reason, "the interpreter ended"),
            }
        result |= {"seconds": time.monotonic() - started, **outlets.texts()}
        return result, reason == "reported"

    def probe(self) -> None:
        """Answer with what `doctor.inspect` finds in a process confined like a case."""
        self.begin(RunRequest(""))
        null = self.fresh("", DEFAULT)
        report, report_end = os.pipe()
        missing = {}
        try:
            self.landlock_rules()
        except OSError as error:
            missing = {"landlock": str(error)}
            self.layers = self.layers - {"landlock"}
        self.order("probe", [null, null, 2, report_end])
        os.close(report_end)
        program.send(self.channel.fileno(), program.receive(report) | missing)

    def order(
        self, job: str, files: list[int], case: int = 0, compiled: bool = False
    ) -> None:
        """Have pid 1 start a process with `files` as its descriptors 0, 1, ..."""
        self.landlock_rules()
        rules = files[0] if self.rules is None else self.rules
        socket.send_fds(self.init, [f"{job} {case} {compiled:d}".encode()], [*files, rules])

    def signal(self, number: int) -> None:
        """Have pid 1 signal everything, or tell that there is nothing any more."""
        self.init.send(b"%d" % number)
        self.init.recv(64)

    def landlock_rules(self) -> None:
        """Make the rules once for each mounted /tmp, and not for each case."""
        if self.rules is None and "landlock" in self.layers:
            self.rules = linux.landlock_rules([*self.readable, "/dev"], "/tmp")

    def fresh(self, stdin: str, limits: Limits) -> int:
        """Make /tmp empty, by a new mount if it was touched; return the opened standard input."""
        text = stdin.encode("utf-8", "surrogatepass")
        if self.untouched and (len(text) > self.room or seen() != self.untouched):
            self.empty()
        if self.untouched:
            os.unlink("/tmp/.stdin")
        else:
            self.room = len(text) + STDIN_ROOM
            size = limits.file_bytes + self.room + 2**16
            options = f"mode=700,size={size},nr_inodes={INODES}"
            flags = linux.NOSUID | linux.NODEV | linux.NOEXEC | linux.NOATIME
            linux.mount("tmpfs", "/tmp", b"tmpfs", flags, options)

        file = os.open("/tmp/.stdin", os.O_WRONLY | os.O_CREAT, 0o644)
        program.write(file, text)
        os.close(file)
        self.untouched = seen()
        return os.open("/tmp/.stdin", os.O_RDONLY)

    def empty(self) -> None:
        """Drop the mounted /tmp with all that is in it."""
        if self.untouched:
            linux.libc_call("umount2", b"/tmp", linux.DETACH)
            self.untouched = []
        if self.rules is not None:
            os.close(self.rules)
            self.rules = None


def seen() -> list[Any]:
    """Return what changes when anything is put into /tmp, taken out, or set on it."""
    with os.scandir("/tmp") as entries:
        found: list[Any] = [(entry.name, entry.inode()) for entry in entries]
    state = os.stat("/tmp")
    return [*found, state.st_mode, state.st_mtime_ns, state.st_ctime_ns]
