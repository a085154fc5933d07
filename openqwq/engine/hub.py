"""Checkpoints from the Hugging Face hub: downloaded once, with progress, resumed, then cached."""

from pathlib import Path

from openqwq.data.hub import from_hub
from openqwq.model.gguf_header import is_later_part
from openqwq.types import OpenQwQError

CHECKPOINT = ("*.safetensors", "*.json", "*.jinja")
DESCRIPTION = ("*.json", "*.jinja")


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form owner/name, or owner/name:FILE for one GGUF file of several."""
    owner, _, rest = name.partition("/")
    return bool(owner.strip(".~")) and rest.count("/") == 0 and bool(rest.partition(":")[0])


def download(name: str, weights: bool = True) -> Path:
    """The checkpoint's directory, or the GGUF file that owner/name:PART names by part of its name.

    Without `weights` only what describes a checkpoint is fetched. Raises OpenQwQError as
    `data.hub.from_hub` does, and where the part does not name exactly one file.
    """
    repository, _, part = name.partition(":")
    patterns = list(CHECKPOINT if weights else DESCRIPTION)
    if part:
        patterns = [f"*{part}*.gguf"]
    folder = from_hub(
        f"{repository} (not a path on this machine)",
        repository,
        "hub",
        lambda client: client.snapshot_download(repository, allow_patterns=patterns),
    )
    if not part:
        return folder
    named = sorted(path for path in folder.rglob("*.gguf") if part in path.name)
    files = [path for path in named if not is_later_part(path)]
    if len(files) != 1:
        found = ", ".join(path.name for path in files) or "none"
        raise OpenQwQError(
            f"{repository} has {found} for {part!r}: name a part of exactly one GGUF file's name"
        )
    return files[0]
