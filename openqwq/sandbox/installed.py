"""Packages that programs may import: installed ones by name, or a directory of them.

A worker sees each package at `/packages/NAME`, and nothing else of the place it was installed in.
"""

import re
from collections.abc import Sequence
from importlib.metadata import Distribution, PackageNotFoundError, packages_distributions
from pathlib import Path

from openqwq.types import OpenQwQError


def find_packages(names: Sequence[str]) -> dict[str, str]:
    """Return the file or directory on this machine for each entry of /packages.

    A name is that of a distribution or of a module ("scikit-learn" or "sklearn") and brings what
    the distribution requires; a name with a slash is a directory whose entries are taken.
    Raises OpenQwQError for a name that is not installed here.
    """
    found: dict[str, str] = {}
    for name in names:
        if "/" in name:
            found |= _entries_of_directory(name)
        else:
            found |= _entries_of_distribution(name)
    return found


def modules(names: Sequence[str]) -> list[str]:
    """Return the modules to import before programs start: those of the packages named."""
    found = []
    for name in names:
        if "/" in name:
            continue
        for entry in _own_entries(_distribution(name)):
            module = entry.removesuffix(".py")
            if module.isidentifier() and not module.startswith("_"):
                found.append(module)
    return found


def _entries_of_directory(name: str) -> dict[str, str]:
    directory = Path(name)
    if not directory.is_dir():
        raise OpenQwQError(
            f"packages is {name!r}: it must be a directory, or an installed package"
        )
    return {entry.name: str(entry.resolve()) for entry in directory.iterdir()}


def _entries_of_distribution(name: str) -> dict[str, str]:
    """Return the entries of a distribution and of all that it requires and is installed."""
    found: dict[str, str] = {}
    waiting = [_distribution(name)]
    seen = set()
    while waiting:
        distribution = waiting.pop()
        seen.add(distribution.metadata["Name"])
        found |= _own_entries(distribution)
        for requirement in _required(distribution):
            try:
                needed = Distribution.from_name(requirement)
            except PackageNotFoundError:
                continue  # of another platform or Python: importing the package shows if it is not
            if needed.metadata["Name"] not in seen:
                waiting.append(needed)
    if not found:
        raise OpenQwQError(
            f"packages holds {name!r}, whose files are not where it is installed (an editable "
            "installation): name the directory that holds it"
        )
    return found


def _distribution(name: str) -> Distribution:
    """Find a distribution by its own name or by that of a module in it."""
    try:
        return Distribution.from_name(name)
    except PackageNotFoundError:
        owners = packages_distributions().get(name)
    if not owners:
        raise OpenQwQError(
            f"packages holds {name!r}, which is not installed here: install it where OpenQwQ is, "
            "or name a directory that holds it"
        )
    return Distribution.from_name(owners[0])


def _own_entries(distribution: Distribution) -> dict[str, str]:
    """Return what a distribution has at the top of its installation directory."""
    tops = {file.parts[0] for file in distribution.files or ()}
    if not tops:  # a system's package, which has no list of its files
        for name in (distribution.read_text("top_level.txt") or "").split():
            tops |= {name, f"{name}.py"}

    found = {}
    for top in sorted(tops):
        if top in ("..", "/", "__pycache__") or top.endswith(".pth"):
            continue
        path = Path(str(distribution.locate_file(top))).resolve()
        if path.exists():
            found[top] = str(path)
    return found


def _required(distribution: Distribution) -> list[str]:
    """Return the names of the distributions that one requires, its extras left out."""
    names = []
    for requirement in distribution.requires or ():
        text, _, marker = requirement.partition(";")
        if "extra" not in marker:
            names.append(re.split(r"[^\w.-]", text.strip())[0])
    return names
