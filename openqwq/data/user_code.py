"""A user's own Python, named as `file.py:name` or `package.module:name`.

It is trusted, like a config: it runs in this process. What a model writes never comes here.
"""

import difflib
import hashlib
import importlib
import importlib.util
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from openqwq.types import OpenQwQError

_NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_REFERENCE = re.compile(rf"(?:[^:]+\.py|{_NAME}):{_NAME}")
RESERVED = ("stage", "model", "verifiers")  # `stage:NAME` and the like name other things
SLOW_IMPORT = 20.0  # seconds after which it is told
_LOADING = threading.Lock()
_SHIPPED: list[Path] = []  # folders to which a cluster brought the run's Python


def is_reference(name: str) -> bool:
    """Whether `name` names Python: `file.py:name` or `package.module:name`."""
    return name.partition(":")[0] not in RESERVED and bool(_REFERENCE.fullmatch(name))


def load_object(reference: str) -> Any:
    """What `reference` names; its module is imported once in a process.

    Raises OpenQwQError where the file or the name is missing, or the import fails.
    """
    if not is_reference(reference):
        raise OpenQwQError(
            f"{reference!r} does not name Python: write file.py:name or package.module:name"
        )
    place, _, name = reference.rpartition(":")
    with _LOADING, _told_if_slow(place):
        if place.endswith(".py"):
            module = _module_of_file(Path(place).expanduser().absolute())
        else:
            module = _module_of_package(place)

    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise OpenQwQError(f"{place} has no {name!r}{_nearest(part, dir(found))}")
        found = getattr(found, part)
    return found


def shipped_to(folder: Path) -> None:
    """Take files that are not at their own places from `folder`, in the rest of this process.

    For actors alone: on the user's own machine another file of the same name is not meant.
    """
    _SHIPPED.append(folder)


@contextmanager
def _told_if_slow(place: str) -> Iterator[None]:
    """Say on standard error what the process waits for, if the block takes long."""
    told = f"qwq: {place} is still being imported after {SLOW_IMPORT:g} s; Ctrl-C ends the wait"
    timer = threading.Timer(SLOW_IMPORT, print, [told], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@cache
def _module_of_file(path: Path) -> ModuleType:
    named = path
    places = [path, *(folder / path.name for folder in _SHIPPED)]
    path = next((place for place in places if place.is_file()), named)
    if not path.is_file():
        files = [each.name for each in named.parent.glob("*.py")]
        raise OpenQwQError(f"{named} does not exist{_nearest(named.name, files)}")

    # Files next to it can be imported, but they hide no installed package.
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)

    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    name = f"openqwq_user_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's file may raise anything
        del sys.modules[name]
        raise _failed(str(path), error) from error
    return module


@cache
def _module_of_package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise OpenQwQError(
                f"the module {name} is not installed: check the name, or name a file, file.py:name"
            ) from error
        raise _failed(name, error) from error
    except (Exception, SystemExit) as error:  # the user's package may raise anything
        raise _failed(name, error) from error


def _failed(place: str, error: BaseException) -> OpenQwQError:
    """The import's failure, with the line of the user's file in which it came."""
    line = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == place and frame.lineno:
            line = f" in line {frame.lineno}"
    if isinstance(error, SyntaxError) and error.filename == place:
        line = f" in line {error.lineno}"
    return OpenQwQError(
        f"{place} cannot be imported: {type(error).__name__}{line}: {error}; correct the file"
    )


def _nearest(word: str, known: list[str]) -> str:
    matches = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {matches[0]!r}?" if matches else ": check the name"


def file_of(reference: str) -> Path | None:
    """The file of `file.py:name`; None for a package or for something else."""
    place, _, _ = reference.rpartition(":")
    if is_reference(reference) and place.endswith(".py"):
        return Path(place).expanduser().absolute()
    return None
