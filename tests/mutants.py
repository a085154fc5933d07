"""Changes the code in small ways and says which changes no test notices: `make mutants`.

Each mutant is one file with one comparison turned round, `and` for `or`, a condition negated, a
number one larger, or a returned truth value reversed. It runs the file's tests in a process of its
own, which sees the mutant in place of the file. Which mutants are tried is drawn by a seed.

    python tests/mutants.py [--each N] [--seed N] [FILE ...]
"""

import argparse
import ast
import contextlib
import importlib.util
import io
import os
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

import pytest

ROOT = Path(__file__).parents[1]
SECONDS = 60  # for the tests of one mutant: one that runs on is noticed
TESTS = {
    "openqwq/verify/answer.py": ["tests/verify/test_answer.py"],
    "openqwq/verify/boxes.py": ["tests/verify/test_boxes.py"],
    "openqwq/verify/instructions.py": ["tests/verify/test_instructions.py"],
    "openqwq/verify/sentences.py": ["tests/verify/test_instructions.py"],
    "openqwq/verify/thinking.py": ["tests/verify/test_thinking.py"],
    "openqwq/verify/toolcalls.py": ["tests/verify/test_toolcalls.py"],
    "openqwq/text/forms.py": ["tests/text/test_replies.py", "tests/text/test_stream.py"],
    "openqwq/text/history.py": ["tests/text/test_history.py"],
    "openqwq/text/reading.py": ["tests/text/test_replies.py", "tests/text/test_stream.py"],
    "openqwq/text/stream.py": ["tests/text/test_replies.py", "tests/text/test_stream.py"],
    "openqwq/text/values.py": ["tests/text/test_replies.py", "tests/text/test_stream.py"],
    "openqwq/serve/guard.py": ["tests/serve/test_guard.py"],
    "openqwq/train/advantages.py": ["tests/train/test_advantages.py"],
    "openqwq/train/rewards.py": ["tests/train/test_rl.py"],
    "openqwq/evaluation/statistics.py": ["tests/evaluation/test_statistics.py"],
    "openqwq/evaluation/contamination.py": ["tests/evaluation/test_contamination.py"],
}
REVERSED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}


def changes(tree: ast.Module) -> Iterator[ast.AST]:
    """The nodes that `change` can change, in order."""
    for node in ast.walk(tree):
        match node:
            case ast.Compare(ops=[_]) | ast.BoolOp() | ast.If() | ast.IfExp():
                yield node
            case ast.Constant(value=bool() | int()):
                yield node


def change(node: ast.AST) -> str:
    """Change a node in place; what became of it, for the reader."""
    before = _shown(node)
    match node:
        case ast.Compare(ops=[operator]):
            node.ops = [REVERSED[type(operator)]()]
        case ast.BoolOp(op=ast.And()):
            node.op = ast.Or()
        case ast.BoolOp():
            node.op = ast.And()
        case ast.If() | ast.IfExp():
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case ast.Constant(value=bool(value)):
            node.value = not value
        case ast.Constant(value=int(value)):
            node.value = value + 1
    line = getattr(node, "lineno", 0)
    return f"line {line}: {before}  ->  {_shown(node)}"


def _shown(node: ast.AST) -> str:
    shown = node.test if isinstance(node, ast.If) else node
    return ast.unparse(shown)[:90]


class MutantFinder(SourceFileLoader):
    """Imports one module from a mutant's text."""

    def __init__(self, name: str, path: Path, text: str) -> None:
        super().__init__(name, str(path))
        self._text = text

    def find_spec(
        self, name: str, path: object, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `MetaPathFinder`."""
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def get_code(self, fullname: str) -> CodeType:
        """The mutant's code in place of the file's."""
        code: CodeType = compile(self._text, self.path, "exec")
        return code


def is_noticed(path: Path, text: str, tests: Sequence[str]) -> bool:
    """Whether the tests fail with `text` in place of the file."""
    child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        sys.meta_path.insert(0, MutantFinder(name, path, text))
        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests])
        os._exit(int(status))
    _, ended = os.waitpid(child, 0)
    return ended != 0


def main() -> None:
    """Try mutants and list those that survive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "files", nargs="*", help="default: all that have tests of their own"
    )
    parser.add_argument("--each", type=int, default=10, help="mutants of each file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tried = 0
    survivors = 0
    for name in options.files or TESTS:
        path = ROOT / name
        text = path.read_text("utf-8")
        if is_noticed(path, text, TESTS[name]):
            sys.exit(f"{name}: its tests fail without any change")
        places = range(sum(1 for _ in changes(ast.parse(text))))
        rng = random.Random(f"{options.seed}/{name}")
        for place in rng.sample(places, min(options.each, len(places))):
            tree = ast.parse(text)
            said = change(list(changes(tree))[place])
            tried += 1
            if not is_noticed(path, ast.unparse(tree), TESTS[name]):
                survivors += 1
                print(f"{name} {said}", flush=True)
    print(f"{survivors} of {tried} mutants survive")


if __name__ == "__main__":
    main()
