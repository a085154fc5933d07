"""The models on this disk: runs, GGUF files, the Hugging Face cache."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from openqwq.types import OpenQwQError

DEPTH = 4  # levels of folders that are looked through


class LocalModel(NamedTuple):
    """One model: what to call it in other verbs, its kind, its bytes on disk."""

    name: str
    kind: str
    size: int


def local_models(folder: Path, hub: Path | None = None) -> list[LocalModel]:
    """The checkpoints and GGUF files below `folder`, and what the hub's cache holds.

    Raises OpenQwQError where `folder` is not a directory.
    """
    if not folder.is_dir():
        raise OpenQwQError(f"{folder} is not a directory: name one to look for models in")
    return [*_checkpoints(folder), *_cached(hub or hub_cache())]


def hub_cache() -> Path:
    """Where huggingface_hub keeps what it downloads."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()


def _checkpoints(folder: Path) -> Iterator[LocalModel]:
    for depth in range(DEPTH):
        below = "*/" * depth
        for path in _files(folder, f"{below}*.gguf"):
            yield LocalModel(_shown(path), "GGUF", path.stat().st_size)
        for config in sorted(folder.glob(f"{below}config.json")):
            checkpoint = config.parent
            if size := _weights(checkpoint):
                yield LocalModel(_shown(checkpoint), _architecture(config), size)


def _cached(hub: Path) -> Iterator[LocalModel]:
    for folder in sorted(hub.glob("models--*--*")):
        name = folder.name.removeprefix("models--").replace("--", "/", 1)
        for snapshot in sorted(folder.glob("snapshots/*")):
            if size := _weights(snapshot):
                yield LocalModel(name, _architecture(snapshot / "config.json"), size)
            for file in _files(snapshot, "*.gguf"):
                yield LocalModel(f"{name}:{file.stem}", "GGUF", file.stat().st_size)


def _files(folder: Path, pattern: str) -> list[Path]:
    """The files of a pattern; links that lead nowhere are none."""
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def _weights(folder: Path) -> int:
    return sum(file.stat().st_size for file in _files(folder, "*.safetensors"))


def _architecture(config: Path) -> str:
    try:
        return str(json.loads(config.read_text())["architectures"][0])
    except (OSError, ValueError, LookupError, TypeError):
        return "unreadable config.json"


def _shown(path: Path) -> str:
    if path.is_absolute():
        return str(path)
    return os.path.normpath(path)
