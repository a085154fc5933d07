"""Hidden tests as data sets write them, as `CodeTests`.

Pairs of input and output (stdin, or calls where a function is named), APPS's and TACO's
`input_output`, code-contests' public, private and generated tests, and test code:
`check(candidate)` of HumanEval and LeetCode, lists of asserts as in MBPP.
"""

import ast
import builtins
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, get_args

from openqwq.sandbox.protocol import Limits
from openqwq.tasks.conversations import without_nulls
from openqwq.tasks.leetcode import LEETCODE_SETUP
from openqwq.tasks.templates import RowError, from_json
from openqwq.types import CodeTests, OpenQwQError, TestCase, TestForm

INPUTS = ("input", "inputs", "stdin", "arguments", "args")
OUTPUTS = ("output", "outputs", "expected", "expected_output", "stdout", "result")
ENTRY_POINTS = ("entry_point", "fn_name", "func_name", "function_name")
CONTESTS = ("public_tests", "private_tests", "generated_tests")
FORMS = get_args(TestForm)
_CHECKED_METHOD = re.compile(r"\bcheck\(\s*(\w+)\(\)\.(\w+)\s*\)")
_TOLERANCE = re.compile(r"(?:absolute|relative)\s+error[^.]*?10\^\{?\s*-\s*(\d+)\s*\}?")


def read_tests(value: Any, field: str, row: Mapping[str, Any]) -> CodeTests:
    """The tests that the column `field` holds; the row may name the function under test.

    Raises RowError for tests that are empty or of no known form.
    """
    value = from_json(value)
    entry_point = find_entry_point(row)
    if (
        isinstance(value, list | tuple)
        and value
        and all(isinstance(each, str) for each in value)
    ):
        value = "\n".join(value)
    if isinstance(value, str):
        return _script(value, entry_point, field, row)
    if isinstance(value, list | tuple):
        return _pairs(value, entry_point, field)
    if isinstance(value, Mapping):
        entry_point = find_entry_point({**row, **value})
        if "form" in value or "cases" in value or "script" in value:
            return _own(value, entry_point, field, row)
        return _columns(value, entry_point, field)
    raise RowError(
        field, f"the tests are {value!r:.80}: give a list, an object or test code"
    )


def contest_tests(row: Mapping[str, Any]) -> CodeTests:
    """The tests of code-contests' own columns, public ones first."""
    first: CodeTests | None = None
    cases: list[TestCase] = []
    for name in CONTESTS:
        value = from_json(row.get(name))
        inputs = value.get("input") if isinstance(value, Mapping) else value
        if inputs:  # a problem may have no tests of a kind
            tests = read_tests(value, name, row)
            first = first or tests
            cases += tests.cases
    if first is None:
        raise RowError(CONTESTS[0], "there are no tests: give some, or leave the row out")
    return replace(first, cases=tuple(cases))


def find_entry_point(row: Mapping[str, Any]) -> str | None:
    """The function under test by the row's own columns, or its metadata."""
    places = [row]
    for name in ("metadata", "extra_info", "input_output"):
        inner = from_json(row.get(name))
        if isinstance(inner, Mapping):
            places.append(inner)
    for place in places:
        for name in ENTRY_POINTS:
            found = place.get(name)
            if isinstance(found, str) and found.strip():
                return _in_class(found.strip(), row)
    return None


def called_function(script: str, solution: str | None = None) -> str | None:
    """The function that a script tests: the last of the solution's that it calls.

    Without a solution, the first function in an assert that is not Python's own.
    """
    called = _called_names(script)
    for node in reversed(_tree(solution or "").body):
        if isinstance(node, ast.FunctionDef) and node.name in called:
            return node.name
    for name in called:
        if not hasattr(builtins, name):
            return name
    return None


def with_tolerance(tests: CodeTests, statement: str) -> CodeTests:
    """The tests with the error that a statement grants to decimal numbers ("10^{-6}")."""
    found = _TOLERANCE.search(statement)
    if found is None or tests.form == "script" or tests.float_tolerance is not None:
        return tests
    return replace(tests, float_tolerance=10.0 ** -int(found[1]))


def _called_names(script: str) -> list[str]:
    """The plain functions that a script's asserts call, outermost and leftmost first."""
    names: list[str] = []
    for statement in ast.walk(_tree(script)):
        if not isinstance(statement, ast.Assert):
            continue
        for node in ast.walk(statement.test):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names.append(node.func.id)
    return names


def _tree(source: str) -> ast.Module:
    """A program as its syntax tree, which is empty for a text that is not Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a reference may have invalid escape sequences
        try:
            return ast.parse(source)
        except SyntaxError:
            return ast.Module([], [])


def _in_class(name: str, row: Mapping[str, Any]) -> str:
    """LeetCode's functions are methods of the class that the starter code begins."""
    starter = str(row.get("starter_code") or "")
    if "class Solution" in starter and "." not in name:
        return f"Solution.{name}"
    return name


def _script(
    script: str, entry_point: str | None, field: str, row: Mapping[str, Any]
) -> CodeTests:
    if not script.strip():
        raise RowError(field, "the tests are empty: give them, or leave the row out")
    setup = _setup(row)
    methods = _CHECKED_METHOD.findall(script)
    if methods:
        setup = f"{LEETCODE_SETUP}\n{setup}"
        entry_point = ".".join(methods[-1])
    elif entry_point is None:
        solution = row.get("code") or row.get("solution") or row.get("canonical_solution")
        if not isinstance(solution, str):
            solution = None
        entry_point = called_function(script, solution)
    else:
        entry_point = entry_point.replace("()", "")

    if entry_point is None:
        _require_python(script, field)
        raise RowError(
            field, "nothing says which function is tested: add a column entry_point"
        )
    if "def check(" in script and not re.search(r"^check\(", script, re.MULTILINE):
        script = f"{script}\n\ncheck(candidate)"
    return CodeTests("script", entry_point=entry_point, script=script, setup=setup)


def _require_python(script: str, field: str) -> None:
    try:
        ast.parse(script)
    except (SyntaxError, ValueError) as error:
        raise RowError(field, f"they are not Python ({error}): correct them") from error


def _setup(row: Mapping[str, Any]) -> str:
    """Trusted code that the problem grants: named imports, and what stands before a stub."""
    parts: list[str] = []
    for name in ("test_setup_code", "test_imports", "setup"):
        given = row.get(name)
        if isinstance(given, str):
            parts.append(given)
        elif isinstance(given, list | tuple):
            parts += map(str, given)
    prompt = row.get("prompt")
    entry_point = row.get("entry_point")
    if isinstance(prompt, str) and isinstance(entry_point, str):
        head, stub, _ = prompt.partition(f"def {entry_point}(")
        if stub and _is_python(head):
            parts.append(head)
    return "\n".join(filter(str.strip, parts))


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def _pairs(values: Sequence[Any], entry_point: str | None, field: str) -> CodeTests:
    """A list of objects, each with an input and an output."""
    form: TestForm = "call" if entry_point else "stdin"
    cases: list[TestCase] = []
    for number, value in enumerate(values):
        where = f"{field}.{number}"
        if not isinstance(value, Mapping):
            raise RowError(where, f"it is {value!r:.80}: a test has an input and an output")
        if entry_point is None and _is_call(value):
            entry_point = find_entry_point(value)
            form = "call"
        given = _one_of(value, INPUTS, where)
        wanted = _one_of(value, OUTPUTS, where)
        cases.append(_case(form, given, wanted, where))
    if form == "call" and entry_point is None:
        raise RowError(field, "the tests call a function, and none is named: add fn_name")
    return _with_cases(form, cases, entry_point, field)


def _is_call(value: Mapping[str, Any]) -> bool:
    """Whether one test calls a function: LiveCodeBench's, DeepCoder's, or one that names it."""
    kinds = value.get("testtype"), value.get("type")
    return (
        "functional" in kinds or "function_call" in kinds or bool(find_entry_point(value))
    )


def _columns(value: Mapping[str, Any], entry_point: str | None, field: str) -> CodeTests:
    """An object with a list of inputs and one of outputs, as in APPS."""
    givens = _one_of(value, INPUTS, field)
    wanteds = _one_of(value, OUTPUTS, field)
    if not isinstance(givens, list | tuple) or not isinstance(wanteds, list | tuple):
        return _pairs([value], entry_point, field)
    if len(givens) != len(wanteds):
        raise RowError(
            field, f"it has {len(givens)} inputs and {len(wanteds)} outputs: pair them"
        )
    form: TestForm = "call" if entry_point else "stdin"
    if form == "call" and all(map(_is_list_of_one, wanteds)):
        # as APPS keeps results of calls
        wanteds = [each[0] for each in wanteds]
    cases: list[TestCase] = []
    for given, wanted in zip(givens, wanteds, strict=True):
        cases.append(_case(form, given, wanted, f"{field}.{len(cases)}"))
    return _with_cases(form, cases, entry_point, field)


def _is_list_of_one(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 1


def _own(
    value: Mapping[str, Any], entry_point: str | None, field: str, row: Mapping[str, Any]
) -> CodeTests:
    """The form of `CodeTests` itself, with its fields as keys."""
    given = {key: item for key, item in value.items() if item is not None}
    known = [entry.name for entry in fields(CodeTests)]
    unknown = set(given) - set(known)
    if unknown:
        raise RowError(
            field, f"{min(unknown)!r} is not a key of tests: they are {', '.join(known)}"
        )
    form = given.pop("form", "script" if "script" in given else "stdin")
    if form not in FORMS:
        raise RowError(
            f"{field}.form", f"it is {form!r}: it must be one of {', '.join(FORMS)}"
        )
    entry_point = given.pop("entry_point", entry_point)
    cases = given.pop("cases", ())
    script = given.pop("script", None)
    if "limits" in given:
        given["limits"] = _read_limits(given["limits"], f"{field}.limits")
    if "packages" in given:
        given["packages"] = tuple(given["packages"])
    if form == "script":
        made = _script(script or "", entry_point, field, row)
    else:
        if form == "call" and not entry_point:
            raise RowError(field, "the form 'call' needs an entry_point: name the function")
        made = _pairs(cases, entry_point if form == "call" else None, field)
    return replace(made, **given)


def _read_limits(value: Any, field: str) -> Mapping[str, float]:
    """A task's own limits; RowError for a name or a value that the sandbox does not know."""
    limits = without_nulls(from_json(value))
    try:
        Limits.from_json(limits)
    except OpenQwQError as error:
        raise RowError(field, str(error)) from error
    return dict(limits)


def _case(form: TestForm, given: Any, wanted: Any, field: str) -> TestCase:
    if form == "stdin":
        return TestCase(_stream(given, field), _stream(wanted, field))
    if isinstance(given, str):  # LiveCodeBench: a line of JSON for each argument
        try:
            given = list(map(json.loads, filter(str.strip, given.split("\n"))))
            if isinstance(wanted, str):
                wanted = json.loads(wanted)
        except (ValueError, RecursionError) as error:
            raise RowError(
                field, f"an argument is not JSON ({error}): write a list of arguments"
            ) from error
    if not isinstance(given, list | tuple):
        raise RowError(field, f"the arguments are {given!r:.80}: they must be a list")
    return TestCase(list(given), wanted)


def _stream(value: Any, field: str) -> str:
    """Text of a standard stream; a list is its lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if isinstance(value, int | float):
        return str(value)
    raise RowError(
        field,
        f"it is {value!r:.80}: input and output are texts; where these are the arguments of a "
        "function, name it in a column entry_point",
    )


def _with_cases(
    form: TestForm, cases: Sequence[TestCase], entry_point: str | None, field: str
) -> CodeTests:
    if not cases:
        raise RowError(field, "there are no tests: give some, or leave the row out")
    return CodeTests(form, tuple(cases), entry_point)


def _one_of(value: Mapping[str, Any], names: Sequence[str], field: str) -> Any:
    for name in names:
        if value.get(name) is not None:
            return value[name]
    raise RowError(
        field, f"a test has {', '.join(value)}: it must have one of {', '.join(names)}"
    )
