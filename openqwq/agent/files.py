"""Reading and searching in one folder, and never outside it."""

import os
from collections.abc import Iterator
from pathlib import Path

from openqwq.agent.tools import tool
from openqwq.types import OpenQwQError, Tool

MAX_BYTES = 2 * 2**20  # of a file that is searched or read
MAX_FILES = 20_000
MAX_MATCHES = 100
LINE_CHARACTERS = 200


class Folder:
    """The files below `root`; symbolic links that lead out of it are refused.

    Raises OpenQwQError if `root` is not a directory.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise OpenQwQError(f"{root} is not a directory: name one to read files from")
        self.root = root.resolve()

    def tools(self) -> list[Tool]:
        """Its three tools; none of them acts."""
        return [tool(self.read_file), tool(self.list_folder), tool(self.search_folder)]

    def read_file(self, path: str, first_line: int = 1, lines: int = 200) -> str:
        """Read lines of a text file.

        Args:
            path: relative to the folder
            first_line: counted from 1
            lines: how many at most
        """
        if first_line < 1 or lines < 1:
            raise OpenQwQError("first_line and lines must be at least 1")
        found = self._text(self._inside(path)).splitlines()
        after = first_line - 1 + lines
        shown = found[first_line - 1 : after]
        if len(found) > after:
            more = len(found) - after
            shown.append(f"[{more} more lines: ask with first_line={first_line + lines}]")
        return "\n".join(shown)

    def list_folder(self, path: str = ".") -> str:
        """List the files and folders in a folder; folders end with a slash.

        Args:
            path: relative to the folder, "." for itself
        """
        folder = self._inside(path)
        if not folder.is_dir():
            raise OpenQwQError(f"{path!r} is not a folder: read_file reads files")
        names: list[str] = []
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            slash = "/" if entry.is_dir(follow_symlinks=False) else ""
            names.append(entry.name + slash)
        return "\n".join(names) or "(empty)"

    def search_folder(self, text: str, path: str = ".") -> str:
        """Find the lines that contain a text, in every file below a folder, in any letter case.

        Args:
            text: looked for as it is, not as a pattern
            path: relative to the folder, "." for all of it
        """
        if not text:
            raise OpenQwQError("text is empty: say what to look for")
        matches: list[str] = []
        unread = 0
        for file in self._files(self._inside(path)):
            try:
                lines = _lines(file)
            except OSError:
                unread += 1
                continue
            for number, line in enumerate(lines, 1):
                if text.lower() in line.lower():
                    name = file.relative_to(self.root)
                    matches.append(f"{name}:{number}: {line.strip()[:LINE_CHARACTERS]}")
            if len(matches) >= MAX_MATCHES:
                return "\n".join([*matches[:MAX_MATCHES], "[more matches left out]"])
        if not matches:
            matches.append(f"no line contains {text!r}")
        if unread:
            matches.append(f"[files that cannot be read: {unread}]")
        return "\n".join(matches)

    def _inside(self, path: str) -> Path:
        try:
            found = (self.root / path).resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as error:
            # RuntimeError: links in a circle
            raise OpenQwQError(
                f"there is no {path!r}: list_folder shows what there is"
            ) from error
        if not found.is_relative_to(self.root):
            raise OpenQwQError(f"{path!r} is outside the folder: use a path below it")
        return found

    def _files(self, folder: Path) -> Iterator[Path]:
        """What is below `folder`, by name; links and .git are not followed."""
        seen = 0
        for parent, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if name != ".git")
            for name in sorted(names):
                seen += 1
                if seen > MAX_FILES:
                    raise OpenQwQError(
                        f"over {MAX_FILES} files are below: search in a subfolder"
                    )
                file = Path(parent, name)
                if not file.is_symlink():
                    yield file

    def _text(self, file: Path) -> str:
        name = file.relative_to(self.root)
        if not file.is_file():  # a pipe or a device might never end
            raise OpenQwQError(
                f"{str(name)!r} is not a file: list_folder shows what there is"
            )
        if file.stat().st_size > MAX_BYTES:
            raise OpenQwQError(
                f"{str(name)!r} has over {MAX_BYTES:,} bytes: it is too large"
            )
        try:
            return file.read_bytes().decode(errors="replace")
        except OSError as error:
            raise OpenQwQError(f"{str(name)!r} cannot be read: {error.strerror}") from error


def _lines(file: Path) -> list[str]:
    """The lines of a small text file; of anything else none. Raises OSError."""
    if not file.is_file() or file.stat().st_size > MAX_BYTES:
        return []
    with file.open("rb") as stream:
        data = stream.read(MAX_BYTES)
    if b"\0" in data[:1024]:
        return []
    return data.decode(errors="replace").splitlines()
