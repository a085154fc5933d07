"""What the text of a test script says: which names it needs, which of them it uses as classes, and
which tests it defines but does not run.
"""

import ast
import builtins
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec

CHECKS = {
    "isinstance",
    "issubclass",
    "assertIsInstance",
    "assertNotIsInstance",
    "str",
    "repr",
}
PATCHED = {"builtins.input", "builtins.print", "sys.stdin", "sys.stdout", "sys.stderr"}


@cache
def plain_attributes() -> set[str]:
    """What a result that is data may be asked for."""
    kinds = [
        str,
        bytes,
        int,
        float,
        complex,
        list,
        tuple,
        dict,
        set,
        frozenset,
        deque,
        Counter,
    ]
    # imported only here: most processes need none of these
    kinds.append(import_module("decimal").Decimal)
    kinds += [import_module("datetime").datetime, import_module("datetime").timedelta]
    return {name for kind in kinds for name in dir(kind)}


@dataclass
class ScriptNames:
    """The names of one script."""

    tree: ast.Module
    needed: set[str] = field(default_factory=set)  # neither the script's own nor builtin
    called: set[str] = field(default_factory=set)
    as_classes: set[str] = field(default_factory=set)
    # absent, with the names imported
    modules: dict[str, list[str]] = field(default_factory=dict)
    patched: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, text: str) -> "ScriptNames":
        """Read a script; SyntaxError or ValueError where it is not Python."""
        found = cls(ast.parse(text, "tests.py"))
        bound = set(dir(builtins)) | {"__name__", "__file__", "candidate"}
        variables: dict[str, set[str]] = {}
        for node in ast.walk(found.tree):
            bound |= _bound(node)
            found._see(node, variables)
        found._absent_modules()
        found.needed -= bound
        for names in found.modules.values():
            found.needed |= {name for name in names if name != "*"}
        for node in ast.walk(found.tree):
            match node:
                case ast.Attribute(value=value, attr=attribute) if (
                    attribute not in plain_attributes()
                ):
                    found.as_classes |= variables.get(ast.unparse(value), set())
                # a call made for its effect
                case ast.Expr(value=ast.Call(func=ast.Attribute(value=value))):
                    made = variables.get(ast.unparse(value), set())
                    found.as_classes |= {name for name in made if name[0].isupper()}
        found.as_classes &= found.needed
        return found

    def _see(self, node: ast.AST, variables: dict[str, set[str]]) -> None:
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                self.needed.add(name)
            case ast.Call(func=ast.Name(id=name), args=arguments):
                self.called.add(name)
                if not arguments and name[0].isupper():
                    self.as_classes.add(name)
            case ast.Attribute(value=ast.Name(id=name)):
                self.as_classes.add(name)
            case ast.Attribute(value=ast.Call(func=ast.Name(id=name)), attr=attribute):
                if attribute not in plain_attributes():
                    self.as_classes.add(name)
            case ast.ExceptHandler(type=kind) if kind is not None:
                self.as_classes |= _names(kind)
        match node:
            case ast.Call(func=function, args=arguments):
                checked = function.id if isinstance(function, ast.Name) else ""
                checked = function.attr if isinstance(function, ast.Attribute) else checked
                if checked in CHECKS:
                    for argument in arguments:
                        self.as_classes |= _names(argument) | _constructed(argument)
                if checked in ("patch", "object", "setattr") and "patch" in ast.unparse(
                    function
                ):
                    self.patched |= _texts(arguments[:1])
            case ast.Assign(targets=[target], value=value):
                variables.setdefault(ast.unparse(target), set()).update(_constructed(value))
            case ast.withitem(context_expr=value, optional_vars=ast.expr() as target):
                variables.setdefault(ast.unparse(target), set()).update(_constructed(value))
            case (
                ast.BinOp(left=left, right=right)
                | ast.Compare(left=left, comparators=[right])
            ):
                both = _constructed(left) & _constructed(right)
                self.as_classes |= {name for name in both if name[0].isupper()}

    def _absent_modules(self) -> None:
        for node in ast.walk(self.tree):
            if (
                isinstance(node, ast.ImportFrom)
                and node.module
                and not _present(node.module)
            ):
                names = [alias.name for alias in node.names]
                self.modules.setdefault(node.module, []).extend(names)
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if not _present(alias.name):
                        self.modules.setdefault(alias.name, [])

    def without_absent_imports(self) -> ast.Module:
        """The script with the imports of absent modules taken out."""
        tree: ast.Module = _Imports(set(self.modules)).visit(self.tree)
        return ast.fix_missing_locations(tree)

    def aliases(self) -> Iterator[tuple[str, str]]:
        """Names as they are imported from absent modules, and as they are called."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.module in self.modules:
                for alias in node.names:
                    yield alias.name, alias.asname or alias.name

    def module_names(self) -> Iterator[str]:
        """What absent modules are called that are imported as a whole."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name in self.modules:
                        yield alias.asname or alias.name

    def top_level_calls(self) -> set[str]:
        """The functions that the script itself calls outside functions and classes."""
        found = set()
        for part in self.tree.body:
            if not isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for node in ast.walk(part):
                    if isinstance(node, ast.Call):
                        found |= _names(node.func)
        return found


class _Imports(ast.NodeTransformer):
    """Takes imports of some modules out."""

    def __init__(self, modules: set[str]) -> None:
        self.modules = modules

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt:
        return ast.copy_location(ast.Pass(), node) if node.module in self.modules else node

    def visit_Import(self, node: ast.Import) -> ast.stmt:
        kept = [alias for alias in node.names if alias.name not in self.modules]
        return ast.copy_location(ast.Import(kept) if kept else ast.Pass(), node)


def _present(module: str) -> bool:
    """Whether a module can be imported here."""
    try:
        return find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return module == "__main__"


def _bound(node: ast.AST) -> set[str]:
    """The names that a node gives a value."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            return {name}
        case (
            ast.FunctionDef(name=name)
            | ast.AsyncFunctionDef(name=name)
            | ast.ClassDef(name=name)
        ):
            return {name}
        case ast.arg(arg=name):
            return {name}
        case ast.ExceptHandler(name=str(name)):
            return {name}
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return {(alias.asname or alias.name).partition(".")[0] for alias in aliases}
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            return {name}
    return set()


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _constructed(node: ast.AST) -> set[str]:
    """The names that are called to make what a node is, or its parts are."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name):
            if re.match(r"[A-Z]", part.func.id) or part is node:
                found.add(part.func.id)
    return found


def _texts(nodes: list[ast.expr]) -> set[str]:
    return {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
