"""Checkpoints from the Hugging Face hub: downloaded once, with progress, resumed, then cached."""

from pathlib import Path

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

    Without `weights` only what describes a checkpoint is fetched. Raises OpenQwQError where the hub
    cannot be reached and the cache has no copy, and for what the hub does not have.
    """
    repository, _, part = name.partition(":")
    patterns = [f"*{part}*.gguf"] if part else list(CHECKPOINT if weights else DESCRIPTION)
    folder = _snapshot(repository, patterns)
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


def _snapshot(repository: str, patterns: list[str]) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise OpenQwQError(
            f"{repository} is no local path, and downloading needs huggingface_hub ({error}):"
            " pip install 'openqwq[hub]', or copy the checkpoint here and name its directory"
        ) from error
    try:
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=patterns))
    except errors.GatedRepoError as error:
        raise OpenQwQError(
            f"{repository} is gated: accept its terms on the hub and run `hf auth login`"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise OpenQwQError(
            f"{repository} is neither a local path nor on the hub: check the spelling"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise OpenQwQError(
            f"{repository} is no local path, it is not in the hub's cache, and the hub cannot be"
            " reached (offline): connect, or name a directory or GGUF file that is here"
        ) from error
    except Exception as error:  # which transport library fails depends on the release
        raise OpenQwQError(
            f"the download of {repository} broke off ({error}): run the same command again, it"
            " resumes where it stopped"
        ) from error
