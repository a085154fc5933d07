"""What runs inside confined processes: the hostile program's host and, apart, the trusted script.

Descriptors: 0-2 standard, 3 the report, 4 and 5 the pipes from and to the other side. A first
newline (report, or pipe of a script's program) says that confinement holds, a second one on the
report that compiling survived; only after it does hostile code run.
"""

import atexit
import gc
import io
import json
import linecache
import os
import site
import sys
import threading
import traceback
from ast import Expr, Expression, If, parse, stmt, unparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import CodeType, ModuleType
from typing import Any

from openqwq.sandbox.data import encode
from openqwq.sandbox.protocol import Case, RunRequest

REPORT = 3
INPUT = 4
OUTPUT = 5
CHANNEL = 6
FILE = "program.py"
UNCOMPILABLE = (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError)
FAILED = ("compile_error", "runtime_error", "memory")
BY_LINE = 1  # a buffering
GUARDS = ("__name__ == '__main__'", "'__main__' == __name__")
BUFFERED = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)
Report = dict[str, Any]
SUCCEEDED: Report = {"status": "ok", "value": None}
SUCCESS = json.dumps(SUCCEEDED).encode()  # made once and not by each case


class ProgramGone(BaseException):
    """The program behind the pipe is gone; no test may catch this."""


class UnusableError(BaseException):
    """The tests themselves cannot run or cannot decide; no test may catch this."""


def send(descriptor: int, data: Any) -> None:
    """Write one frame."""
    write(descriptor, frame(data))


def frame(data: Any) -> bytes:
    """Return a frame: four bytes of length, then JSON."""
    payload = json.dumps(data).encode()
    return len(payload).to_bytes(4, "big") + payload


def write(descriptor: int, payload: bytes | bytearray) -> None:
    """Write all of it."""
    rest = memoryview(payload)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def receive(descriptor: int) -> Any:
    """Read one frame; raise EOFError where the writer is gone."""

    def exactly(count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = os.read(descriptor, min(count - len(parts), 2**20))
            if not part:
                raise EOFError("the other side closed the pipe")
            parts += part
        return bytes(parts)

    return json.loads(exactly(int.from_bytes(exactly(4), "big")))


def open_streams() -> None:
    """Open the standard streams once, before the forks that put other files under 0, 1 and 2."""
    sys.stdin = open_stream(0, "r")
    with as_pipe(1):
        sys.stdout = open_stream(1, "w")
    with as_pipe(2):
        sys.stderr = open_stream(2, "w", "backslashreplace", BY_LINE)
    sys.__stdin__ = sys.stdin  # type: ignore[misc]
    sys.__stdout__ = sys.stdout  # type: ignore[misc]
    sys.__stderr__ = sys.stderr  # type: ignore[misc]
    sys.argv = [FILE]
    site.setquit()  # `exit` and `quit`, which -S leaves out
    site.sethelper()


def open_stream(number: int, mode: str, errors: str = "strict", buffering: int = -1) -> Any:
    """Open a descriptor as a text stream, which leaves it open at its end."""
    return open(number, mode, buffering, "utf-8", errors, closefd=False)


@contextmanager
def as_pipe(number: int) -> Iterator[None]:
    """Make a descriptor a pipe for a while: a file asks once whether it can seek, and keeps it."""
    original = os.dup(number)
    reader, writer = os.pipe()
    os.dup2(writer, number)
    yield
    os.dup2(original, number)
    for descriptor in (original, reader, writer):
        os.close(descriptor)


def new_main() -> None:
    """Make an empty `__main__`: once, for all the forks to have."""
    sys.modules["__main__"] = ModuleType("__main__")


def main_names() -> dict[str, Any]:
    """Return the namespace of `__main__`."""
    return vars(sys.modules["__main__"])


def remember(source: str) -> None:
    """Have tracebacks show the program's lines."""
    linecache.cache[FILE] = (len(source), None, source.splitlines(True), FILE)


def compiled(source: str, imported: bool = False) -> CodeType:
    """Compile a program; raises one of UNCOMPILABLE.

    One that is `imported`, for its functions to be called, is without what stands under
    `if __name__ == "__main__":`.
    """
    if not imported or "__main__" not in source:
        return compile(source, FILE, "exec", dont_inherit=True)
    tree = parse(source, FILE)
    body: list[stmt] = []
    for statement in tree.body:
        if isinstance(statement, If) and unparse(statement.test) in GUARDS:
            body += statement.orelse
        else:
            body.append(statement)
    tree.body = body
    return compile(tree, FILE, "exec", dont_inherit=True)


def load_program(
    request: RunRequest, code: CodeType | None
) -> tuple[Report, dict[str, Any]]:
    """Execute the setup and the program; return what came of it and the namespace."""
    names = main_names()
    try:
        code = code or compiled(request.source, request.form != "stdin")
    except UNCOMPILABLE as error:
        return {"status": "compile_error", "error": error_text(error)}, names
    os.write(REPORT, b"\n")
    return guarded(lambda: execute_program(request.setup, code, names)), names


def execute_program(setup: str, code: CodeType, names: dict[str, Any]) -> None:
    """Execute the trusted setup, then the program, in one namespace."""
    if setup:
        exec(compiled(setup), names)
    exec(code, names)


def error_text(error: BaseException) -> str:
    """Return what a traceback ends with."""
    return "".join(traceback.format_exception_only(error)).strip()[:2000]


def guarded(body: Callable[[], Any]) -> Report:
    """Call hostile code; return the report of how it ended, with a traceback on stderr."""
    try:
        return {"status": "ok", "value": body()}
    except (ProgramGone, UnusableError):
        raise
    except SystemExit as stop:
        if stop.code in (None, 0):
            return {"status": "ok", "value": None}
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return {"status": "runtime_error", "error": f"exit status {stop.code}"[:2000]}
    except BaseException as error:
        # the program is hostile: whatever it raises is its result
        trace = error.__traceback__
        while trace and trace.tb_frame.f_code.co_filename != FILE:
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
        status = "runtime_error"
        if isinstance(error, MemoryError):
            status = "memory"
        return {"status": status, "error": error_text(error)}


def finish(report: Report) -> int:
    """End as the interpreter would (threads, atexit, flush), then send the report."""
    if threading.active_count() > 1 or threading._threading_atexits:  # type: ignore[attr-defined]
        threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    flush_files()
    write(REPORT, SUCCESS if report == SUCCEEDED else json.dumps(report).encode())
    return int(report["status"] != "ok")


def flush_files() -> None:
    """Write out every open file, as the interpreter does when it clears its modules.

    The program may have put another object in place of `sys.stdout`, closed it, or opened
    descriptor 1 again.
    """
    opened = [item for item in gc.get_objects() if type(item) in BUFFERED]
    texts = [item for item in opened if type(item) is io.TextIOWrapper]
    for file in (sys.stdout, sys.__stdout__, *texts, *opened):
        with suppress(Exception):  # closed, detached, or of a class without `flush`
            file.flush()


def entry(names: dict[str, Any], entry_point: str) -> Callable[..., Any]:
    """Find "name" or "Class.method"; a method is taken from a new instance.

    A name that is missing may be a method of `Solution`, as contests take it.
    """
    name, _, method = entry_point.partition(".")
    if name not in names and not method and hasattr(names.get("Solution"), name):
        name, method = "Solution", name
    if name not in names:
        raise NameError(f"name {name!r} is not defined")
    found: Callable[..., Any] = names[name]
    if method:
        found = getattr(found(), method)
    return found


def run(request: RunRequest, case: Case, code: CodeType | None) -> int:
    """Be one case of the forms stdin and call."""
    report, names = load_program(request, code)
    if report["status"] == "ok" and request.form == "call":
        point = request.entry_point or ""
        report = guarded(lambda: json.dumps(encode(entry(names, point)(*case.arguments))))
    elif report["status"] == "ok":
        report["value"] = None
    return finish(report)


def session() -> int:
    """Be an interpreter that keeps its variables; a report ends with NUL."""
    names = main_names()
    while True:
        try:
            source = receive(INPUT)
        except EOFError:
            return 0
        report = {**guarded(lambda: interact(source, names)), "value": None}  # noqa: B023
        sys.stdout.flush()
        os.write(REPORT, json.dumps(report).encode() + b"\0")


def interact(source: str, names: dict[str, Any]) -> None:
    """Execute `source` and print the value of a last expression."""
    remember(source)
    tree = parse(source, FILE)
    last = None
    if tree.body and isinstance(tree.body[-1], Expr):
        last = tree.body.pop()
    exec(compile(tree, FILE, "exec", dont_inherit=True), names)
    if isinstance(last, Expr):
        value = eval(
            compile(Expression(last.value), FILE, "eval", dont_inherit=True), names
        )
        if value is not None:
            print(repr(value))
