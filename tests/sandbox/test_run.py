"""What a run gives back: the kinds of ends told apart, cases kept apart, data as it was."""

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest

from openqwq.sandbox.local import LocalSandbox
from openqwq.sandbox.protocol import DEFAULT, Case, CaseResult, RunRequest
from openqwq.types import OpenQwQError

QUICK = replace(DEFAULT, wall_seconds=2.0, cpu_seconds=1.0)


async def only(sandbox: LocalSandbox, source: str, **fields: Any) -> CaseResult:
    """Run a program on one case and return how that went."""
    result = await sandbox.run(RunRequest(source, **fields))
    assert len(result.cases) == 1, result
    assert result.status == result.cases[0].status
    return result.cases[0]


async def call(sandbox: LocalSandbox, source: str, *arguments: Any) -> CaseResult:
    case = Case(arguments=arguments)
    return await only(sandbox, source, form="call", entry_point="f", cases=(case,))


async def script(
    sandbox: LocalSandbox, source: str, text: str, setup: str = ""
) -> CaseResult:
    return await only(
        sandbox, source, form="script", entry_point="f", script=text, setup=setup
    )


@pytest.mark.parametrize(
    ("source", "status", "error"),
    [
        ("print(1)", "ok", ""),
        ("import sys; sys.exit(0)", "ok", ""),
        ("x = (", "compile_error", "SyntaxError"),
        ("\0", "compile_error", "null bytes"),
        ("-" * 100_000 + "1", "compile_error", "Error"),
        ("1 / 0", "runtime_error", "ZeroDivisionError"),
        ("import sys; sys.exit(3)", "runtime_error", "exit status 3"),
        ("while True: pass", "timeout", ""),
        ("import time; time.sleep(60)", "timeout", "wall"),
        (
            "import signal; signal.signal(15, signal.SIG_IGN)\nwhile True: pass",
            "timeout",
            "",
        ),
        ("10 ** 10 ** 10", "timeout", ""),
        ("import re; re.match('(a|a)*b', 'a' * 64)", "timeout", ""),
        ("x = bytearray(2 ** 40)", "memory", "MemoryError"),
        ("while True: print('x' * 1000)", "output_limit", ""),
        ("import sys\nwhile True: print('x' * 1000, file=sys.stderr)", "output_limit", ""),
        ("import os; os.abort()", "crashed", "SIGABRT"),
        ("import ctypes; ctypes.string_at(0)", "crashed", "SIGSEGV"),
        ("def f(): f()\nf()", "runtime_error", "RecursionError"),
    ],
)
async def test_every_kind_of_end_has_its_status(
    sandbox: LocalSandbox, source: str, status: str, error: str
) -> None:
    result = await only(sandbox, source, limits=QUICK)
    assert (result.status, error in result.error) == (status, True), result.error


async def test_the_cpu_limit_is_told_from_the_wall_limit(sandbox: LocalSandbox) -> None:
    limits = replace(DEFAULT, wall_seconds=30.0, cpu_seconds=1.0)
    result = await only(sandbox, "while True: pass", limits=limits)
    assert (result.status, result.error) == ("timeout", "used 1 s of CPU")


async def test_a_program_reads_stdin_and_its_output_is_kept(sandbox: LocalSandbox) -> None:
    source = "import sys; print(input()[::-1]); print(open('/dev/stdin').read()); sys.exit('bye')"
    result = await only(sandbox, source, cases=(Case("abc\nü"),))
    assert result.stdout.splitlines()[0] == "cba"
    assert "ü" in result.stdout
    assert (result.status, result.stderr) == ("runtime_error", "bye\n")


@pytest.mark.parametrize(
    "source",
    [
        "print(3); exit()",
        "print(3); quit(0)",
        "def main():\n    print(3)\n    exit()\nmain()",
        "import sys, io; o = sys.stdout; sys.stdout = io.StringIO(); o.write('3\\n')",
        "f = open(1, 'w'); f.write('3\\n')",
        "import os; f = os.fdopen(1, 'wb'); f.write(b'3\\n')",
        "import os\ndef main():\n    f = os.fdopen(os.dup(1), 'w'); f.write('3\\n'); g = [f, 0]; "
        "g[1] = g\nmain()",
        "import sys, io; sys.stdout = io.TextIOWrapper(sys.stdout.detach()); print(3)",
        "import sys, io; b = io.BufferedWriter(io.FileIO(1, 'w')); b.write(b'3\\n')",
        "import sys; print(3); sys.stdout.flush(); sys.stdout.close()",
        "import sys; print(3); sys.stdout = None",
        "import sys; print(3); sys.stdout = object()",
        "import atexit; atexit.register(print, 3); exit()",
    ],
)
async def test_output_is_complete_however_a_program_ends_or_writes(
    sandbox: LocalSandbox, source: str
) -> None:
    result = await only(sandbox, source)
    assert (result.status, result.stdout) == ("ok", "3\n"), result


@pytest.mark.parametrize("source", ["exit(3)", "quit(3)", "exit(True)"])
async def test_exit_with_a_status_is_an_error_as_in_a_plain_interpreter(
    sandbox: LocalSandbox, source: str
) -> None:
    assert (await only(sandbox, source)).status == "runtime_error"


async def test_output_that_is_not_text_comes_back_replaced(sandbox: LocalSandbox) -> None:
    result = await only(sandbox, r"import os; os.write(1, b'a\0\xff\n')")
    assert result.stdout == "a\0\N{REPLACEMENT CHARACTER}\n"


async def test_exit_handlers_threads_and_output_end_as_in_python(
    sandbox: LocalSandbox,
) -> None:
    source = (
        "import atexit, threading, time\natexit.register(print, 'last')\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\n"
        "print('first', end=' ')"
    )
    assert (await only(sandbox, source)).stdout == "first thread\nlast\n"


async def test_a_traceback_shows_the_program_alone(sandbox: LocalSandbox) -> None:
    result = await only(sandbox, "def g():\n    return 1 / 0\ng()")
    assert "return 1 / 0" in result.stderr
    assert "openqwq" not in result.stderr


async def test_values_cross_with_their_types(sandbox: LocalSandbox) -> None:
    value = [
        1,
        2**80,
        -0.0,
        math.inf,
        1j,
        "ü\ud800",
        b"\0",
        None,
        True,
        (1, (2,)),
        {3},
        {(4,): []},
        str,
    ]
    result = await call(sandbox, "def f(x, y): return [x, y]", value, frozenset([5]))
    assert result.value == [value, frozenset([5])]
    assert str(result.value) == str([value, frozenset([5])])


async def test_iterators_subclasses_and_cycles_cross_as_plain_data(
    sandbox: LocalSandbox,
) -> None:
    source = (
        "from collections import Counter\n"
        "class Liar(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
        "def f():\n    x = [Counter('aab'), (n * n for n in range(3)), Liar(7)]\n"
        "    x.append(x)\n    return x"
    )
    counts, squares, liar, cycle = (await call(sandbox, source)).value
    assert (counts, list(squares), liar == 8, type(liar)) == (
        {"a": 2, "b": 1},
        [0, 1, 4],
        False,
        int,
    )
    assert cycle[3] is cycle


async def test_a_value_that_is_not_data_is_the_programs_error(
    sandbox: LocalSandbox,
) -> None:
    result = await call(sandbox, "def f(): return print")
    assert result.status == "runtime_error"
    assert "builtin_function_or_method" in result.error


async def test_a_method_is_called_on_a_new_instance(sandbox: LocalSandbox) -> None:
    source = "class S:\n    def f(self, x):\n        return x + 1"
    case = Case(arguments=(1,))
    result = await only(sandbox, source, form="call", entry_point="S.f", cases=(case,))
    assert result.value == 2


async def test_a_missing_entry_point_is_the_programs_error(sandbox: LocalSandbox) -> None:
    assert "'f' is not defined" in (await call(sandbox, "g = 1")).error


async def test_setup_is_executed_before_the_program(sandbox: LocalSandbox) -> None:
    result = await only(sandbox, "print(sqrt(4))", setup="from math import *")
    assert result.stdout == "2.0\n"


async def test_cases_do_not_influence_each_other(sandbox: LocalSandbox) -> None:
    source = (
        "import os, builtins, glob\nseen = getattr(builtins, 'seen', 0)\n"
        "print(input(), seen, sorted(glob.glob('/tmp/*') + glob.glob('/dev/shm/*')))\n"
        "builtins.seen = 1\nopen('mark', 'w').write('x')\nopen('/dev/shm/mark', 'w').write('x')\n"
        "if os.fork() == 0:\n    os.setsid()\n    while True: os.write(1, b'')\n"
    )
    limits = replace(DEFAULT, processes=8)
    cases = tuple(Case(str(number)) for number in range(5))
    result = await sandbox.run(RunRequest(source, cases=cases, limits=limits))
    assert [case.stdout for case in result.cases] == [f"{n} 0 []\n" for n in range(5)]


async def test_one_bad_case_leaves_the_others_alone(sandbox: LocalSandbox) -> None:
    source = (
        "x = input()\nif x == '1': raise ValueError\n"
        "if x == '2': import os; os.abort()\nprint(x)"
    )
    cases = tuple(Case(str(number)) for number in range(4))
    result = await sandbox.run(RunRequest(source, cases=cases))
    statuses = [case.status for case in result.cases]
    assert statuses == ["ok", "runtime_error", "crashed", "ok"]
    assert result.status == "runtime_error"


async def test_stop_early_skips_what_follows_a_failure(sandbox: LocalSandbox) -> None:
    source, cases = (
        "if input() == '1': raise ValueError",
        tuple(Case(str(n)) for n in range(3)),
    )
    result = await sandbox.run(RunRequest(source, cases=cases, stop_early=True))
    assert [case.status for case in result.cases] == ["ok", "runtime_error", "skipped"]


async def test_a_script_passes_and_fails_by_its_own_assertions(
    sandbox: LocalSandbox,
) -> None:
    text = "def check(candidate):\n    assert candidate([1, 2]) == (3, {4.5})\ncheck(f)"
    assert (await script(sandbox, "def f(x): return (sum(x), {4.5})", text)).status == "ok"
    wrong = await script(sandbox, "def f(x): return (sum(x), {4})", text)
    assert (wrong.status, wrong.error) == ("runtime_error", "AssertionError")


async def test_a_unittest_script_is_judged_by_its_exit(sandbox: LocalSandbox) -> None:
    text = (
        "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n"
        "        self.assertEqual(f(1), 2)\n        self.assertRaises(KeyError, f, 0)\n"
        "unittest.main()"
    )
    right = "def f(x):\n    if not x: raise KeyError\n    return x + 1"
    assert (await script(sandbox, right, text)).status == "ok"
    assert (await script(sandbox, "def f(x): return x + 1", text)).status == "runtime_error"


async def test_a_scripts_classes_reach_the_program_and_return(
    sandbox: LocalSandbox,
) -> None:
    setup = "class Node:\n    def __init__(self, v, next=None): self.v, self.next = v, next"
    text = (
        "head = None\nfor n in range(5000): head = Node(n, head)\n"
        "assert candidate(head).next.v == 4998\nassert type(candidate(head)) is Node"
    )
    source = setup + "\nclass S:\n    def f(self, head): return head"
    request = RunRequest(source, "script", entry_point="S.f", script=text, setup=setup)
    assert (await sandbox.run(request)).status == "ok"


@pytest.mark.parametrize(
    "source",
    [
        "import os; os._exit(0)",
        "def f(x): import os; os._exit(0)",
        "def f(x): raise StopIteration",
        "def f(x): raise SystemExit(0)",
        "class E(int):\n    __eq__ = lambda self, other: True\ndef f(x): return E(9)",
        "import builtins; builtins.AssertionError = Exception\ndef f(x): return 9",
        "import os\nfor n in range(3, 20):\n"
        '    try: os.write(n, b\'\\n\\n{"status": "ok"}\')\n    except OSError: pass\nos._exit(0)',
        "import os\ndef f(x):\n    for n in range(3, 20):\n"
        '        try: os.write(n, b\'\\n\\n{"status": "ok"}\')\n        except OSError: pass',
        "import os, signal\ndef f(x): os.kill(-1, 9)",
        "import json, os\nframe = json.dumps({'status': 'unconfined'}).encode()\n"
        "os.write(5, len(frame).to_bytes(4, 'big') + frame)\nos._exit(0)",
        "class Near: pass\ndef f(x): return Near()",
        "import gc, sys\ndef f(x):\n    for o in gc.get_objects():\n"
        "        if isinstance(o, str) and 'assert' in o: return 2\n    return 9",
    ],
)
async def test_no_program_forges_the_pass_of_a_script(
    sandbox: LocalSandbox, source: str
) -> None:
    text = (
        "class Near:\n    def __eq__(self, other): return True\n"
        "assert list(map(candidate, [1])) == [2] and candidate(1) == 2"
    )
    limits = replace(QUICK, processes=4)
    result = await only(
        sandbox, source, form="script", entry_point="f", script=text, limits=limits
    )
    assert result.status not in ("ok", "error", "skipped")


@pytest.mark.parametrize("body", ["raise ValueError", "import os; os._exit(0)"])
async def test_a_test_that_catches_everything_does_not_pass_a_dead_program(
    sandbox: LocalSandbox, body: str
) -> None:
    text = "try: candidate(1)\nexcept: pass\nelse: raise AssertionError"
    result = await script(sandbox, f"def f(x): {body}", text)
    assert result.status == ("ok" if "ValueError" in body else "runtime_error")


async def test_all_cases_together_may_write_only_so_much(sandbox: LocalSandbox) -> None:
    limits = replace(DEFAULT, output_bytes=2**24)
    request = RunRequest("print('x' * (2 ** 24 - 1))", cases=(Case(),) * 3, limits=limits)
    result = await sandbox.run(request)
    assert [case.status for case in result.cases] == ["ok", "ok", "output_limit"]
    assert len(result.cases[2].stdout) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cases": (Case(),) * 1025}, "cases holds 1025: it must be from 1 to 1024"),
        ({"cases": ()}, "cases holds 0"),
        ({"source": "x" * (2**20 + 1)}, "source is longer than 1048576 characters"),
        ({"setup": "x" * (2**20 + 1)}, "setup is longer"),
    ],
)
def test_a_request_that_is_too_large_is_refused_by_name(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(OpenQwQError, match=message):
        RunRequest(**{"source": "", **fields})


async def test_a_program_cannot_find_the_script_in_memory(sandbox: LocalSandbox) -> None:
    source = """def f():
    import ctypes, os, re
    libc = ctypes.CDLL(None)
    libc.sbrk.restype = ctypes.c_void_p
    control, seen = '-'.join(['CONTROL', '7']), set()
    reader, writer = os.pipe()
    for middle in id(control) >> 12, libc.sbrk(0) >> 12:
        for page in range(middle - 4096, middle + 4096):
            if libc.write(writer, ctypes.c_void_p(page << 12), 4096) == 4096:
                seen |= set(re.findall(rb'(SECRE[T]|CONTRO[L])-\\d', os.read(reader, 4096)))
    return seen
"""
    text = "assert candidate() == {b'CONTROL'}, 'SECRET-7'"
    for _ in range(2):  # the second run must not see the first one's either
        assert (await script(sandbox, source, text)).status == "ok"


async def test_random_numbers_repeat_so_that_verdicts_do(sandbox: LocalSandbox) -> None:
    request = RunRequest("import random; print(random.random(), hash('x'))")
    first, second = await sandbox.run(request), await sandbox.run(request)
    assert first.cases[0].stdout == second.cases[0].stdout


async def test_hundreds_of_concurrent_runs_all_answer(sandbox: LocalSandbox) -> None:
    requests = [RunRequest(f"print({n})") for n in range(256)]
    results = await asyncio.gather(*map(sandbox.run, requests))
    assert [result.cases[0].stdout for result in results] == [f"{n}\n" for n in range(256)]


async def test_a_limit_above_the_maximum_is_refused_by_name(sandbox: LocalSandbox) -> None:
    limits = replace(DEFAULT, wall_seconds=1e6)
    with pytest.raises(
        OpenQwQError, match=r"wall_seconds is 1000000.0, above the maximum 60.0"
    ):
        await sandbox.run(RunRequest("", limits=limits))


async def test_a_limit_too_small_for_the_interpreter_is_no_infrastructure_error(
    sandbox: LocalSandbox,
) -> None:
    limits = replace(DEFAULT, memory_bytes=1, file_bytes=1, open_files=1)
    assert (await only(sandbox, "x = [0] * 10 ** 6", limits=limits)).status == "memory"


def test_a_request_read_without_checks_is_the_checked_one() -> None:
    cases = (Case("1\n", (math.inf, {"a": (1, b"x")})), Case("", ([2], {3})))
    request = RunRequest(
        "x = 1", "call", cases, QUICK, "f", setup="import math", stop_early=True
    )
    data = request.to_json()
    assert RunRequest.known_good(data) == RunRequest.from_json(data) == request
