"""The package keeps the shape its design gives it: rooms, imports, sizes, names, docstrings.

Each rule is a function from source text to complaints; it is tried on a bad example, then on the
package. A source is named by its path inside `openqwq`, e.g. `engine/cache.py`.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from textwrap import indent
from typing import NamedTuple

import pytest

# Lowest first, each with the libraries that it may import: a room imports only those above it here.
ROOMS: dict[str, frozenset[str]] = {
    name: frozenset(libraries.split())
    for name, libraries in {
        "types": "",
        "config": "tomli_w",
        "data": "huggingface_hub pyarrow",
        "text": "jinja2 llguidance tokenizers",
        "model": "gguf numpy psutil safetensors torch",
        "engine": "numpy torch xllamacpp",
        "sandbox": "",
        "verify": "antlr4 langdetect latex2sympy2_extended math_verify psutil sympy",
        "tasks": "reasoning_gym",
        "agent": "jsonschema mcp referencing",
        "evaluation": "jinja2 matplotlib rich",
        "train": "numpy rich safetensors torch",
        "cluster": "numpy ray safetensors torch vllm",
        "serve": "httpx jsonschema_rs prometheus_client prompt_toolkit rich sse_starlette"
        " starlette uvicorn",
        "cli": "rich shtab",
        "__main__": "",
    }.items()
}
ONLY_IN_FILE = {
    "agent/mcp_server.py": {"uvicorn"},
    "agent/verifiers_adapter.py": {"verifiers"},
    "agent/verifiers_endpoint.py": {"aiohttp"},
    "agent/verifiers_harness.py": {"httpx", "verifiers"},
    "engine/remote.py": {"httpx"},
    "serve/doctor.py": {"psutil", "torch"},
    "sandbox/client.py": {"httpx"},
    "sandbox/link.py": {"numpy"},  # only where the settings allow it
    "sandbox/packages.py": {"numpy"},
    "sandbox/ascii_json.py": {"starlette"},
    "sandbox/server.py": {"sse_starlette", "starlette", "uvicorn"},
}
ONLY_FOR_TYPE_CHECKING = {"types.py": {"torch"}}
FILE_LINES, FUNCTION_LINES = 400, 60
VAGUE = {"common", "helper", "helpers", "manager", "managers", "util", "utils"}

PACKAGE = Path(__file__).parents[1] / "openqwq"
SOURCES = {
    path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(PACKAGE.rglob("*.py"))
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Import(NamedTuple):
    """`import module`, or one name of `from module import name`, and what it is called here."""

    module: str
    name: str
    bound: str
    type_checking: bool


def room_of(path: str) -> str:
    """The room of a file; "" for the package's own `__init__.py`, which is below every room."""
    first = PurePosixPath(path).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def imports(node: ast.AST, type_checking: bool = False) -> Iterator[Import]:
    """Every import below `node`, at whatever depth, and modules imported by a literal name."""
    for child in ast.iter_child_nodes(node):
        inside = type_checking or (isinstance(node, ast.If) and is_type_checking(node.test))
        match child:
            case ast.Import(names=names):
                for name in names:
                    bound = name.asname or name.name.partition(".")[0]
                    yield Import(name.name, "", bound, inside)
            case ast.ImportFrom(module=module, names=names, level=level):
                for name in names:
                    origin = "." * level + (module or "")
                    yield Import(origin, name.name, name.asname or name.name, inside)
            case ast.Call(func=function, args=[ast.Constant(value=str(module)), *_]) if (
                ast.unparse(function).rpartition(".")[2] in {"import_module", "__import__"}
            ):
                yield Import(module, "", "", inside)
        yield from imports(child, inside)


def rooms_imported(source: str) -> Iterator[tuple[str, Import]]:
    """The room that each import of the package reaches ("" for the package itself)."""
    for found in imports(ast.parse(source)):
        package, *rest = [*found.module.split("."), found.name]
        if package == "openqwq":
            target = rest[0]
            yield target if len(rest) > 1 or target in ROOMS else "", found


def order_complaints(path: str, source: str) -> list[str]:
    """Imports of a higher room, and relative imports, which would hide one."""
    order = ["", *ROOMS]
    here = room_of(path)
    if here not in order:
        return [f"{path}: {here!r} is not a room of the design"]
    complaints = [
        f"{path} imports {found.module} {found.name}".rstrip()
        for target, found in rooms_imported(source)
        if target not in order or order.index(target) > order.index(here)
    ]
    relative = [
        found for found in imports(ast.parse(source)) if found.module.startswith(".")
    ]
    return complaints + [f"{path} imports {found.module} relatively" for found in relative]


def privacy_complaints(path: str, source: str) -> list[str]:
    """Another room's private names: imported, or read from something that was imported."""
    foreign = [found for target, found in rooms_imported(source) if target != room_of(path)]
    names = {
        f"{found.module}.{found.name}".rstrip(".")
        for found in foreign
        if any(is_private(part) for part in [*found.module.split("."), found.name])
    }
    bound = {found.bound for found in foreign}
    names |= {
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and is_private(node.attr)
        and ast.unparse(node.value).partition(".")[0] in bound
    }
    return [f"{path} uses the private {name}" for name in sorted(names)]


def third_party_complaints(path: str, source: str) -> list[str]:
    """Libraries that the design does not grant to this room or file."""
    allowed = {"openqwq", ""} | sys.stdlib_module_names | ONLY_IN_FILE.get(path, set())
    if room_of(path) in ROOMS:
        allowed |= ROOMS[room_of(path)]
    typing_only = ONLY_FOR_TYPE_CHECKING.get(path, set())
    return [
        f"{path} imports {found.module}"
        for found in imports(ast.parse(source))
        for library in [found.module.partition(".")[0]]
        if library not in allowed and not (found.type_checking and library in typing_only)
    ]


def size_complaints(path: str, source: str) -> list[str]:
    """Files and functions that are too long."""
    lines = len(source.splitlines())
    complaints = (
        [f"{path} has {lines} lines of at most {FILE_LINES}"] if lines > FILE_LINES else []
    )
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                complaints.append(
                    f"{path}: {node.name} has {length} of {FUNCTION_LINES} lines"
                )
    return complaints


def docstring_complaints(path: str, source: str) -> list[str]:
    """The module, public classes, and public functions and methods without a docstring."""

    def missing(node: ast.Module | ast.ClassDef, name: str) -> Iterator[str]:
        if not ast.get_docstring(node):
            yield f"{path}: {name} has no docstring"
        for child in node.body:
            if isinstance(child, ast.ClassDef) and not is_private(child.name):
                yield from missing(child, child.name)
            elif isinstance(child, Function) and not (
                child.name.startswith("_") or ast.get_docstring(child)
            ):
                yield f"{path}: {child.name} has no docstring"

    return list(missing(ast.parse(source), "the module"))


def name_complaints(path: str, source: str) -> list[str]:
    """Module and folder names that say nothing about what is inside."""
    words = {
        word
        for part in PurePosixPath(path).with_suffix("").parts
        for word in part.split("_")
    }
    return [f"{path}: {word!r} names nothing" for word in sorted(words & VAGUE)]


Rule = Callable[[str, str], list[str]]
RULES: dict[str, Rule] = {
    "imports only lower rooms": order_complaints,
    "leaves other rooms' private names alone": privacy_complaints,
    "uses only the libraries granted to it": third_party_complaints,
    "keeps files and functions short": size_complaints,
    "documents what is public": docstring_complaints,
    "is named for what it holds": name_complaints,
}
LONG_FUNCTION = "def f():\n" + "    x = 1\n" * 60
BAD: list[tuple[Rule, str, str]] = [
    (order_complaints, "text/stream.py", "import openqwq.engine.cache"),
    (order_complaints, "text/stream.py", "from openqwq.model import rope"),
    (order_complaints, "text/stream.py", "from openqwq import train"),
    (order_complaints, "text/stream.py", "def f():\n    from openqwq.cli import main"),
    (
        order_complaints,
        "verify/math.py",
        "if TYPE_CHECKING:\n    from openqwq.tasks.a import A",
    ),
    (
        order_complaints,
        "verify/math.py",
        "import importlib\nimportlib.import_module('openqwq.cli')",
    ),
    (order_complaints, "verify/math.py", "from openqwq.extra import A"),
    (order_complaints, "verify/math.py", "from . import answer"),
    (order_complaints, "__init__.py", "from openqwq.types import Task"),
    (order_complaints, "extra/math.py", "x = 1"),
    (privacy_complaints, "train/loop.py", "from openqwq.engine.cache import _slots"),
    (privacy_complaints, "train/loop.py", "from openqwq.engine._cache import slots"),
    (privacy_complaints, "train/loop.py", "import openqwq.engine\nopenqwq.engine._slots()"),
    (
        privacy_complaints,
        "train/loop.py",
        "from openqwq.engine import cache as c\nc._slots()",
    ),
    (third_party_complaints, "text/stream.py", "import torch.nn"),
    (third_party_complaints, "model/qwen2.py", "def f():\n    import transformers"),
    (third_party_complaints, "sandbox/worker.py", "import httpx"),
    (third_party_complaints, "types.py", "import torch"),
    (third_party_complaints, "types.py", "if TYPE_CHECKING:\n    import numpy"),
    (
        third_party_complaints,
        "types.py",
        "if TYPE_CHECKING:\n    x = 1\nelse:\n    import numpy",
    ),
    (size_complaints, "config.py", "x = 1\n" * 401),
    (size_complaints, "config.py", LONG_FUNCTION),
    (size_complaints, "config.py", "class A:\n" + indent(LONG_FUNCTION, " ")),
    (docstring_complaints, "config.py", "x = 1"),
    (docstring_complaints, "config.py", '"""M."""\ndef f(): ...'),
    (docstring_complaints, "config.py", '"""M."""\nclass A: ...'),
    (
        docstring_complaints,
        "config.py",
        '"""M."""\nclass A:\n    "A."\n    async def f(self): ...',
    ),
    (name_complaints, "engine/utils.py", ""),
    (name_complaints, "helpers/engine.py", ""),
    (name_complaints, "engine/cache_manager.py", ""),
]
GOOD: list[tuple[Rule, str, str]] = [
    (
        order_complaints,
        "cli.py",
        "import openqwq.train.loop\nfrom openqwq import __version__, serve",
    ),
    (order_complaints, "text/stream.py", "from openqwq.text import tokenizer"),
    (privacy_complaints, "text/stream.py", "from openqwq.text.tokenizer import _pieces"),
    (privacy_complaints, "cli.py", "from openqwq import __version__"),
    (third_party_complaints, "types.py", "import ast\nif TYPE_CHECKING:\n    import torch"),
    (third_party_complaints, "sandbox/server.py", "import uvicorn"),
    (size_complaints, "config.py", LONG_FUNCTION.replace("    x = 1\n", "", 1)),
    (docstring_complaints, "config.py", '"""M."""\ndef _f(): ...\nclass _A: ...'),
    (name_complaints, "text/commonmark.py", ""),
]


@pytest.mark.parametrize(("rule", "path", "source"), BAD)
def test_the_rule_catches_the_bad_example(rule: Rule, path: str, source: str) -> None:
    assert len(rule(path, source)) == 1


@pytest.mark.parametrize(("rule", "path", "source"), GOOD)
def test_the_rule_accepts_the_good_example(rule: Rule, path: str, source: str) -> None:
    assert rule(path, source) == []


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_package(rule: Rule) -> None:
    complaints = [text for path, source in SOURCES.items() for text in rule(path, source)]
    assert not complaints, "\n".join(complaints)
