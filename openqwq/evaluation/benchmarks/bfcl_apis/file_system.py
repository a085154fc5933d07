"""GorillaFileSystem: a small tree of directories and text files with shell-like functions."""

import difflib
from collections.abc import Iterator
from typing import Any

from openqwq.evaluation.benchmarks.bfcl_apis.calling import ApiError, require

Node = dict[str, Any]  # {"type": "file", "content": ...} or {"type": "directory", "contents": ...}
COUNTED = {"l": "lines", "w": "words", "c": "characters"}


class FileSystem:
    """`root` is the tree as configured; `working` names the directories from it to the current."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.root: dict[str, Node] = config.get("root") or {
            "workspace": {"type": "directory", "contents": {}}
        }
        self.working: list[str] = []
        self._fix(self.root)

    def _fix(self, contents: dict[str, Node]) -> None:
        """Give every directory its contents and every file text."""
        for node in contents.values():
            if node.get("type") == "directory":
                self._fix(node.setdefault("contents", {}))
            else:
                node["content"] = str(node.get("content", ""))

    def _directory(self) -> dict[str, Node]:
        contents: dict[str, Node] = next(iter(self.root.values()))["contents"]
        for name in self.working:
            contents = contents[name]["contents"]
        return contents

    def _file(self, name: str) -> Node:
        require("/" not in name, f"{name}: give the name of a file here, not a path")
        node = self._directory().get(name)
        if node is None or node["type"] != "file":
            raise ApiError(f"{name}: no such file")
        return node

    def _pwd(self) -> Node:
        return {"current_working_directory": "/".join(["", next(iter(self.root)), *self.working])}

    def _ls(self, a: bool = False) -> Node:
        names = [name for name in self._directory() if a or not name.startswith(".")]
        return {"current_directory_content": names}

    def _cd(self, folder: str) -> Node:
        if folder == "..":
            require(self.working, "cd: already at the root directory")
            self.working.pop()
        elif folder not in (".", ""):
            node = self._directory().get(folder)
            known = node is not None and node["type"] == "directory"
            require(known, f"cd: {folder}: no such directory")
            self.working.append(folder)
        here = self.working[-1] if self.working else next(iter(self.root))
        return {"current_working_directory": here}

    def _mkdir(self, dir_name: str) -> None:
        self._new(dir_name)
        self._directory()[dir_name] = {"type": "directory", "contents": {}}

    def _touch(self, file_name: str) -> None:
        self._new(file_name)
        self._directory()[file_name] = {"type": "file", "content": ""}

    def _new(self, name: str) -> None:
        require(name and "/" not in name, f"{name!r}: give a name, not a path")
        require(name not in self._directory(), f"{name}: exists already")

    def _echo(self, content: str, file_name: str | None = None) -> Node | None:
        if file_name in (None, "None", ""):
            return {"terminal_output": content}
        name = str(file_name)
        require("/" not in name, f"{name}: give a name, not a path")
        self._directory()[name] = {"type": "file", "content": content}
        return None

    def _cat(self, file_name: str) -> Node:
        return {"file_content": self._file(file_name)["content"]}

    def _find(self, path: str = ".", name: str | None = None) -> Node:
        wanted = "" if name in (None, "None") else str(name)
        contents = self._directory()
        for part in path.removeprefix("./").split("/"):
            if part not in (".", ""):
                node = contents.get(part)
                known = node is not None and node["type"] == "directory"
                require(known, f"find: {path}: no such directory")
                contents = contents[part]["contents"]
        return {"matches": list(_search(contents, path.rstrip("/"), wanted))}

    def _wc(self, file_name: str, mode: str = "l") -> Node:
        require(mode in COUNTED, f"wc: mode {mode} is not one of l, w, c")
        text = self._file(file_name)["content"]
        parts = {"l": text.splitlines(), "w": text.split(), "c": text}[mode]
        return {"count": len(parts), "type": COUNTED[mode]}

    def _sort(self, file_name: str) -> Node:
        lines = self._file(file_name)["content"].splitlines()
        return {"sorted_content": "\n".join(sorted(lines))}

    def _grep(self, file_name: str, pattern: str) -> Node:
        lines = self._file(file_name)["content"].splitlines()
        return {"matching_lines": [line for line in lines if pattern in line]}

    def _tail(self, file_name: str, lines: int = 10) -> Node:
        every = self._file(file_name)["content"].splitlines()
        return {"last_lines": "\n".join(every[-lines:] if lines > 0 else [])}

    def _diff(self, file_name1: str, file_name2: str) -> Node:
        texts = [self._file(name)["content"].splitlines() for name in (file_name1, file_name2)]
        lines = [line for line in difflib.ndiff(*texts) if line[0] in "+-"]
        return {"diff_lines": "\n".join(lines)}

    def _du(self, human_readable: bool = False) -> Node:
        size = float(sum(_sizes(self._directory())))
        if not human_readable:
            return {"disk_usage": f"{size:.0f} bytes"}
        power = 0
        while size >= 1024 and power < 3:
            size, power = size / 1024, power + 1
        return {"disk_usage": f"{size:.2f} {('B', 'KB', 'MB', 'GB')[power]}"}

    def _mv(self, source: str, destination: str) -> Node:
        return self._transfer(source, destination, "moved")

    def _cp(self, source: str, destination: str) -> Node:
        return self._transfer(source, destination, "copied")

    def _transfer(self, source: str, destination: str, verb: str) -> Node:
        here = self._directory()
        require(source in here, f"{source}: no such file or directory")
        require("/" not in destination, f"{destination}: give a name here, not a path")
        target, shown = here.get(destination), destination
        node = here[source]
        if target is not None and target["type"] == "directory":
            require(target is not node, f"{source}: cannot be put into itself")
            place, name, shown = target["contents"], source, f"{destination}/{source}"
        else:
            place, name = here, destination
        require(name not in place, f"{shown}: exists already")
        place[name] = here.pop(source) if verb == "moved" else _copied(node)
        return {"result": f"'{source}' {verb} to '{shown}'"}

    def _rm(self, file_name: str) -> Node:
        require(file_name in self._directory(), f"rm: {file_name}: no such file or directory")
        del self._directory()[file_name]
        return {"result": f"'{file_name}' removed"}

    def _rmdir(self, dir_name: str) -> Node:
        node = self._directory().get(dir_name)
        known = node is not None and node["type"] == "directory"
        require(known, f"rmdir: {dir_name}: no such directory")
        require(node and not node["contents"], f"rmdir: {dir_name}: not empty")
        del self._directory()[dir_name]
        return {"result": f"'{dir_name}' removed"}


def _copied(node: Node) -> Node:
    if node["type"] == "file":
        return dict(node)
    contents = {name: _copied(each) for name, each in node["contents"].items()}
    return {"type": "directory", "contents": contents}


def _search(contents: dict[str, Node], path: str, wanted: str) -> Iterator[str]:
    for name, node in contents.items():
        if wanted in name:
            yield f"{path}/{name}"
        if node["type"] == "directory":
            yield from _search(node["contents"], f"{path}/{name}", wanted)


def _sizes(contents: dict[str, Node]) -> Iterator[int]:
    for node in contents.values():
        if node["type"] == "directory":
            yield from _sizes(node["contents"])
        else:
            yield len(node["content"].encode())
