"""The programs of `livecodebench_programs.toml`, each as name, form, source and tests."""

import tomllib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

Program = tuple[str, str, str, list[tuple[str, str]]]

SUM = [("1 2\n", "3\n"), ("10 -4\n", "6\n")]
ADD = [("1\n2", "3"), ("10\n-4", "6")]
# a count, then a number on each line
LINES = [("2\n1\n5\n", "6\n"), ("3\n1\n2\n3\n", "6\n")]
NAMED = {"sum": SUM, "add": ADD, "lines": LINES}
LONG = {
    "{lines}": "\n".join(map(str, range(20_000))),
    "{line}": " ".join(map(str, range(20_000))),
}
METHOD = "class Solution:\n    def f(self, {}):\n        return {}"


def programs() -> Iterator[Program]:
    """All of them, with names that differ."""
    path = Path(__file__).with_suffix(".toml")
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    reading, writing = data["read"], data["write"]
    for name, body in reading.items():
        yield f"reads by {name}", "stdin", body.format(writing["print"]), SUM
    for name, statement in writing.items():
        yield f"writes by {name}", "stdin", reading["input"].format(statement), SUM
    for way, name in product(
        ("sys.stdin.read", "main guard", "readline as input"), writing
    ):
        body = reading[way].format(writing[name])
        yield f"reads by {way}, writes by {name}", "stdin", body, SUM

    for name, expression in data["prelude"].items():
        added = f"a + b + ({expression})"
        yield f"prelude: {name}", "stdin", reading["input"].format(f"print({added})"), SUM
        yield f"prelude of a method: {name}", "call", METHOD.format("a, b", added), ADD
    for expected, text in data["printed"]:
        yield (
            f"{text!r} for {expected!r}",
            "stdin",
            f"print({text!r}, end='')",
            [("", expected)],
        )
    for expression, expected in data["returned"]:
        source = METHOD.format("a", expression)
        yield f"returns {expression} for {expected}", "call", source, [("1", expected)]
    for program in data["program"]:
        yield program["name"], program["form"], program["source"], _tests(program["tests"])


def _tests(given: Any) -> list[tuple[str, str]]:
    if isinstance(given, str):
        return NAMED[given]
    return [(text, LONG.get(expected, expected)) for text, expected in given]
