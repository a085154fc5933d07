"""What the documents name exists: files and functions of the lives, links between pages."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "openqwq"
LIVES = (ROOT / "docs" / "life.md").read_text("utf-8")
NAMED = re.findall(r"`([\w/]+\.py): ([\w.]+)`", LIVES)
FILES = set(re.findall(r"`([\w/]+\.(?:py|json))\b", LIVES))
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


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
