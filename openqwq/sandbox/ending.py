"""How a case ended: by its report, which may be forged, and by what the kernel says."""

import json
import os
import signal
from dataclasses import dataclass
from math import ceil

from openqwq.sandbox.program import Report
from openqwq.sandbox.protocol import DEFAULT, RunRequest

REPORTED = ("ok", "compile_error", "runtime_error", "memory")
# the program behind the pipe is gone, or never was; the tests cannot run
OF_SCRIPTS = ("ended", "unconfined", "unusable")
REASONS = {
    "timeout": "the wall time ran out",
    "output_limit": "wrote more than output_bytes",
}


@dataclass(frozen=True)
class Ending:
    """The wait statuses of the process watched and of the program's own, and their CPU seconds."""

    status: int
    program_status: int
    cpu_seconds: float

    @classmethod
    def read(cls, text: bytes) -> "Ending":
        """Read what pid 1 tells of a case."""
        status, program_status, seconds = text.split()
        return cls(int(status), int(program_status), float(seconds))


def parse(text: bytearray) -> Report:
    """Read a report; return {} unless it has the right form."""
    if not text.strip():
        return {}
    try:
        report = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(report, dict):
        return {}

    status = report.get("status")
    if status not in REPORTED and status not in OF_SCRIPTS:
        return {}
    read = {"status": status}
    for name in ("error", "value"):
        if isinstance(report.get(name), str):
            read[name] = report[name]
    return read


def case_outcome(report: Report, ending: Ending, request: RunRequest) -> Report:
    """Say how a case ended that nobody had to stop.

    Raises OSError where the program was not confined: the sandbox's failure.
    """
    reported = report.get("status")
    status = ending.status
    if request.form == "script" and reported == "unconfined":
        raise OSError("the program's process could not be confined")
    if request.form == "script" and reported == "unusable":
        return report
    if reported == "ended":  # the script says that the program did
        reported = None
        status = ending.program_status

    if os.WIFSIGNALED(status):
        return _killed(os.WTERMSIG(status), ending, request)
    code = os.WEXITSTATUS(status)
    if reported in REPORTED and (reported != "ok" or code == 0):
        return report
    if request.form == "stdin" and code == 0:
        return {"status": "ok"}
    return {"status": "runtime_error", "error": f"ended early with exit status {code}"}


def _killed(number: int, ending: Ending, request: RunRequest) -> Report:
    """Say why the kernel killed a process."""
    limit = ceil((request.limits or DEFAULT).cpu_seconds)
    spent = number == signal.SIGKILL and ending.cpu_seconds >= limit
    if number == signal.SIGXCPU or spent:
        return {"status": "timeout", "error": f"used {limit} s of CPU"}
    return {"status": "crashed", "error": f"killed by {signal.Signals(number).name}"}
