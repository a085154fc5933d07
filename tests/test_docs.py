"""What the documents name exists: functions of the lives, links, commands and their options."""

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from openqwq.cli import _parser

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "openqwq"
LIVES = (ROOT / "docs" / "life.md").read_text("utf-8")
NAMED = re.findall(r"`([\w/]+\.py): ([\w.]+)`", LIVES)
FILES = set(re.findall(r"`([\w/]+\.(?:py|json))\b", LIVES))
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
)


def defined(path: Path) -> set[str]:
    """Classes, functions and methods of a file, methods as Class.method."""
    names: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            for child in node.body:
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                    names.add(f"{node.name}.{child.name}")
    return names


def test_the_lives_name_something() -> None:
    assert len(NAMED) > 30


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED)))
def test_every_function_of_the_lives_exists(file: str, name: str) -> None:
    assert name in defined(PACKAGE / file)


@pytest.mark.parametrize("file", sorted(FILES - {"tests/test_docs.py"}))
def test_every_file_of_the_lives_exists(file: str) -> None:
    assert (PACKAGE / file).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language; those of shells often name none."""
    found = re.findall(
        r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return [text for name, text in found if name == language]


def shell_lines(page: Path) -> list[list[str]]:
    """The words of every command that a page shows, without variables set before it."""
    lines = []
    for block in blocks(page, "") + blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"(?:\w+=\S+ )*(?:qwq|make|python|pytest) ", line):
                words = shlex.split(line.replace("'\\''", ""), comments=True)
                while "=" in words[0]:
                    words.pop(0)
                lines.append(words)
    return lines


COMMANDS = [(page.name, words) for page in PAGES for words in shell_lines(page)]


@pytest.mark.parametrize(
    ("page", "words"),
    COMMANDS,
    ids=[f"{page}: {' '.join(words)}" for page, words in COMMANDS],
)
def test_a_command_of_a_page_is_one_that_exists(page: str, words: list[str]) -> None:
    """Options and verbs are parsed by the command itself; nothing runs."""
    program, *arguments = words
    if program == "qwq" and arguments != ["--help"]:
        parser, _ = _parser()
        parser.parse_args([word for word in arguments if word not in {"<", "/dev/null"}])
    if program == "make":
        targets = re.findall(
            r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE
        )
        for word in arguments:
            assert "=" in word or word in targets
    if program in {"python", "pytest"}:
        for word in arguments:
            if word.endswith(".py") or word.startswith("tests/"):
                assert (ROOT / word).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_in_python_and_toml_can_be_read(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, page.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for block in blocks(page, "toml"):
        tomllib.loads(block)
