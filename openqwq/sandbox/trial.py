"""The trusted tests of a script, in a process of their own: only they say that a program passes."""

import inspect
import os
import sys
from collections.abc import Callable
from importlib import import_module
from types import FunctionType
from typing import Any

from openqwq.sandbox.far import Far, Tests
from openqwq.sandbox.program import (
    CHANNEL,
    FAILED,
    INPUT,
    UNCOMPILABLE,
    ProgramGone,
    UnusableError,
    compiled,
    error_text,
    finish,
    guarded,
    main_names,
    receive,
)
from openqwq.sandbox.script_names import PATCHED, ScriptNames


def run_tests(entry_point: str) -> int:
    """Be the trusted tests; their text is read here, where the program cannot see it."""
    given = receive(CHANNEL)
    os.close(CHANNEL)
    names = main_names()
    if os.read(INPUT, 1) != b"\n":
        return finish({"status": "unconfined"})
    try:
        script = read_script(given["script"])
        execute_setup(given["setup"], names)
        started = receive(INPUT)
        report = {key: started[key] for key in ("status", "error") if key in started}
        if report["status"] == "ok":
            report = guarded(lambda: trial(script, entry_point, names))
        elif report["status"] not in FAILED:  # forged
            report = {"status": "ended"}
    except (ProgramGone, EOFError):
        report = {"status": "ended"}
    except UnusableError as reason:
        report = {"status": "unusable", "error": str(reason)[:2000]}
    return finish({**report, "value": None})


def read_script(text: str) -> ScriptNames:
    """Read the tests; UnusableError where they cannot be compiled, or patch the program."""
    try:
        script = ScriptNames.read(text)
        compiled(text)
    except UNCOMPILABLE as error:
        raise UnusableError(f"the tests cannot be compiled: {error_text(error)}") from error
    foreign = sorted(script.patched - PATCHED)
    if foreign:
        raise UnusableError(
            f"the tests patch {foreign[0]!r}, which the program's process does not see"
        )
    return script


def execute_setup(setup: str, names: dict[str, Any]) -> None:
    """Execute the trusted setup; UnusableError where it fails."""
    try:
        exec(compiled(setup), names)
    except (Exception, *UNCOMPILABLE) as error:
        raise UnusableError(f"the setup fails: {error_text(error)}") from error


def trial(script: ScriptNames, entry_point: str, names: dict[str, Any]) -> None:
    """Execute the script with the program's names in place, then the tests that it defines."""
    tests = Tests(names)
    # of these alone may the program make instances: the script's own may be lenient when compared
    for name, part in names.items():
        if isinstance(part, type) and part.__module__ == "__main__":
            tests.classes[name] = part
    tests.bind(script, entry_point)
    for module, imported in script.modules.items():
        if not any(name in names or name == "*" for name in imported) and imported:
            raise UnusableError(f"the tests import {module!r}, which is not in the sandbox")
        if not imported and module in ("pytest", "numpy", "hypothesis", "pandas"):
            raise UnusableError(f"the tests import {module!r}, which is not in the sandbox")
    if tests.unusable:
        raise UnusableError(tests.unusable)
    try:
        execute_script(script, tests)
    except ImportError as error:
        if "program_says" in vars(error):
            raise
        raise UnusableError(f"the tests cannot import: {error_text(error)}") from error
    except Exception as error:
        if tests.calls or tests.unusable or tests.ended:
            raise_what_was_caught(tests)
            raise
        raise UnusableError(
            f"the tests fail before they call the program: {error_text(error)}"
        ) from error
    raise_what_was_caught(tests)
    if not tests.calls:
        raise UnusableError("the tests never call the program")


def raise_what_was_caught(tests: Tests) -> None:
    """A test that catches everything has caught these too."""
    if tests.ended:
        raise ProgramGone
    if tests.unusable:
        raise UnusableError(tests.unusable)


def execute_script(script: ScriptNames, tests: Tests) -> None:
    """Execute the script, then the tests that it defines and does not run itself."""
    names = tests.names
    code = compile(script.without_absent_imports(), "tests.py", "exec", dont_inherit=True)
    try:
        exec(code, names)
    except SystemExit as stop:  # of unittest.main, which has run everything
        if stop.code:
            raise
        return
    own = script.top_level_calls()
    # unittest is there only if the script imports it
    case = getattr(sys.modules.get("unittest"), "TestCase", Far)
    for name, found in list(names.items()):
        if (
            name in own
            or getattr(found, "__module__", "") != "__main__"
            or isinstance(found, Far)
        ):
            continue
        if isinstance(found, type) and issubclass(found, case):
            run_case(found)
        elif isinstance(found, type) and name.startswith("Test"):
            run_class(found)
        elif isinstance(found, FunctionType) and name.startswith("test"):
            run_function(found)
        elif (
            isinstance(found, FunctionType)
            and name == "check"
            and found.__code__.co_argcount == 1
        ):
            found(names["candidate"])


def run_case(kind: type) -> None:
    """Run a unittest case; AssertionError with the first failure."""
    unittest = import_module("unittest")
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(kind).run(result)
    for _, text in [*result.failures, *result.errors]:
        raise AssertionError(text.strip().splitlines()[-1])


def run_class(kind: type) -> None:
    """Run the test methods of a class as pytest does, each on an instance of its own."""
    for name in dir(kind):
        if name.startswith("test"):
            instance = kind()
            getattr(instance, "setup_method", getattr(instance, "setUp", lambda: None))()
            run_function(getattr(instance, name))


def run_function(function: Callable[..., Any]) -> None:
    """Call a test function; UnusableError where it needs fixtures."""
    needed = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty
    ]
    if needed:
        raise UnusableError(
            f"the test {function.__name__!r} needs the fixture {needed[0]!r}: run by hand"
        )
    result = function()
    if inspect.iscoroutine(result):
        import_module("asyncio").run(result)
