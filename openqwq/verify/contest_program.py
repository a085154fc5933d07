"""Runs a contest program on several tests in turn, in the way of LiveCodeBench's own grader.

This file is sent into the sandbox as the program: nothing here is trusted, and nothing here knows
an expected output. `run_tests` returns one row for each test that ran: ["output", what it printed
or returned], ["array", the only number of numpy's array], or ["failed" or "timeout", why], which
is the last.

What the grader does and what programs therefore meet: a prelude of imports before the program;
the body of a program that reads stdin inside a function, with its imports before it; `sys.stdin`
and `sys.stdout` replaced by objects that lack some of a file's methods; one process, and for a
method one instance, for all tests; some functions taken away.
"""

import ast
import builtins
import io
import os
import signal
import sys
from decimal import Decimal
from fractions import Fraction
from types import ModuleType
from typing import Any

STARRED = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools "
    "operator io sys json builtins typing"
)
NAMED = "string re datetime collections heapq bisect copy math random statistics itertools "
NAMED += "functools operator io sys json"
PRELUDE = "".join(
    [
        *(f"from {name} import *\n" for name in STARRED.split()),
        *(f"import {name}\n" for name in NAMED.split()),
        "sys.setrecursionlimit(50000)\n",
    ]
)
# functions of os
TAKEN = (
    "kill system putenv remove removedirs rmdir fchdir setuid fork forkpty killpg rename renames "
    "truncate replace unlink fchmod fchown chmod chown chroot lchflags lchmod lchown getcwd chdir"
)
ABSENT = "ipdb joblib resource psutil tkinter"  # modules
DIGITS = 50_000  # of an integer that may be printed
MAIN = "__name__ == '__main__'"
ResultRow = list[Any]


class TimeoutException(Exception):  # noqa: N818  # the name that the grader looks for
    """A test took too long. The program may catch it, as it may in the grader."""


class Input:
    """What stands in for `sys.stdin`: no iteration, and a buffer that has two methods."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.file = io.StringIO(text)
        self.buffer = InputBytes(text)

    def read(self, *_: object) -> str:
        """All of it, each time."""
        return self.text

    def readline(self, *arguments: int) -> str:
        """The next line."""
        return self.file.readline(*arguments)

    def readlines(self, *_: object) -> list[str]:
        """The lines without their ends; one more, empty, after a last line's end."""
        return self.text.split("\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class InputBytes:
    """What stands in for `sys.stdin.buffer`."""

    def __init__(self, text: str) -> None:
        self.content = text.encode()

    def read(self, *_: object) -> bytes:
        """All of it, each time."""
        return self.content

    def readline(self, *_: object) -> bytes:
        """The first line, each time."""
        return self.content.split(b"\n")[0] + b"\n"


def run_tests(
    source: str, inputs: list[Any], name: str | None, seconds: float
) -> list[ResultRow]:
    """Run `source` on each input: its text, or with the `name` of a function its arguments."""
    sys.set_int_max_str_digits(DIGITS)
    signal.signal(signal.SIGALRM, _ring)
    _take_away(source)
    text = PRELUDE + "\n\n" + source if name else as_function(source)
    try:
        function = compiled(text, name or "wrapped_function", seconds)
    except Exception as error:
        return [_failure(error)]

    rows: list[ResultRow] = []
    for given in inputs:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            if name:
                rows.append(called(function, given))
            else:
                rows.append(["output", printed(function, given)])
        except Exception as error:
            rows.append(_failure(error))
            break
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return rows


def _ring(*_: object) -> None:
    # as the grader's does, so that catching the exception wins nothing
    print("out of time")
    raise TimeoutException


def _failure(error: Exception) -> ResultRow:
    kind = "timeout" if "timeoutexception" in repr(error).lower() else "failed"
    return [kind, f"{type(error).__name__}: {error}"[:2000]]


def _take_away(source: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in TAKEN.split():
        setattr(os, name, None)
    for name in ABSENT.split():
        sys.modules[name] = None  # type: ignore[assignment]
    vars(builtins)["quit"] = None
    vars(builtins)["help"] = None
    if "shutil" in source:
        import shutil

        for name in ("rmtree", "move", "chown"):
            setattr(shutil, name, None)
    if "subprocess" in source:
        import subprocess

        vars(subprocess)["Popen"] = None


def as_function(source: str) -> str:
    """The program as the body of `wrapped_function`, after the prelude and its own imports.

    A last `if __name__ == "__main__":` is replaced by what it holds. A text that cannot be parsed
    comes back as it is.
    """
    try:
        body = ast.parse(source).body
        last = body[-1]
        if isinstance(last, ast.If) and ast.unparse(last.test).strip() == MAIN:
            text = ast.unparse(ast.Module(body[:-1], [])) + "\n"
            body = ast.parse(text + ast.unparse(ast.Module(last.body, []))).body
        imports: list[ast.stmt] = []
        others: list[ast.stmt] = []
        for part in body:
            kind = imports if isinstance(part, ast.Import | ast.ImportFrom) else others
            kind.append(part)
        nothing = ast.arguments([], [], None, [], [], None, [])
        function = ast.FunctionDef("wrapped_function", nothing, others, [], lineno=1)
        return "\n".join(
            [
                PRELUDE,
                ast.unparse(ast.Module(imports, [])),
                ast.unparse(ast.Module([function], [])),
            ]
        )
    except Exception:  # whatever a hostile text makes of the parser
        return source


def compiled(text: str, name: str, seconds: float) -> Any:
    """Execute `text` in a module of its own and return its function or method `name`."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        module = ModuleType("tmp_sol", "")
        exec(text, vars(module))
        holder = module.Solution() if "class Solution" in text else module
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return getattr(holder, name)


def printed(function: Any, text: str) -> str:
    """What the program prints; the texts that it reads come from objects in place of files."""
    lines = iter(text.split("\n"))
    earlier = sys.stdin  # `from sys import stdin` has bound it already
    output = io.StringIO()
    vars(output)["close"] = lambda _: None
    opening = builtins.open
    reading: dict[str, Any] = {
        "read": lambda *_: text,
        "readlines": lambda *_: text.split("\n"),
        "readline": lambda *_: next(lines),
    }
    vars(earlier).update(reading)
    stdout = sys.stdout
    sys.stdin = Input(text)
    sys.stdout = output
    vars(builtins)["open"] = lambda *_, **__: io.StringIO(text)
    try:
        function()
    except SystemExit:
        pass
    finally:
        vars(builtins)["open"] = opening
        sys.stdin = earlier
        sys.stdout = stdout
        for name in reading:
            vars(earlier).pop(name, None)
    return output.getvalue()


def called(function: Any, arguments: list[Any]) -> ResultRow:
    """The row of what the function returns."""
    value = function(*arguments)
    if hasattr(value, "dtype") and getattr(value, "shape", None) and value.size == 1:
        return ["array", value.item()]
    return ["output", plain(list(value) if isinstance(value, tuple) else value)]


def plain(value: Any) -> Any:
    """A value as plain data that is equal to the same JSON as `value` is.

    Raises TypeError for what is equal to no JSON: within a list the grader takes no tuple for one.
    """
    if hasattr(value, "dtype") and getattr(value, "size", 0) == 1:  # numpy's
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str | complex):
        return value
    if isinstance(value, Decimal | Fraction):
        return _number(value)
    if isinstance(value, list):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {plain(key): plain(part) for key, part in value.items()}
    raise TypeError(f"a value of type {type(value).__name__!r} is equal to no JSON")


def _number(value: Any) -> int | float:
    """The integer or the float that `value` is equal to."""
    if abs(value) < 2**4096 and value == int(value):
        return int(value)
    if value == float(value):
        return float(value)
    raise TypeError(f"{type(value).__name__} is equal to no JSON number")
