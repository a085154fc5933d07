"""The hub: what is cached opens offline, what is not says so, and failures are told apart."""

from collections.abc import Callable
from pathlib import Path

import pytest

huggingface_hub = pytest.importorskip(
    "huggingface_hub", reason="needs the hub client: pip install huggingface_hub"
)
from huggingface_hub import constants, errors  # noqa: E402

from openqwq.engine import hub  # noqa: E402
from openqwq.engine.open import open_model  # noqa: E402
from openqwq.model import checkpoint, gguf  # noqa: E402
from openqwq.model.qwen2 import Qwen2  # noqa: E402
from openqwq.text.gguf import to_metadata  # noqa: E402
from openqwq.text.tokenizer import Tokenizer  # noqa: E402
from openqwq.types import OpenQwQError  # noqa: E402

COMMIT = "0" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache in the hub's own layout, read without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def snapshot(cache: Path, name: str) -> Path:
    """Where the hub's client puts the files of a repository."""
    repository = cache / ("models--" + name.replace("/", "--"))
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    return repository / "snapshots" / COMMIT


@pytest.mark.parametrize(
    ("name", "is_id"),
    [
        ("Qwen/QwQ-32B", True),
        ("Qwen/QwQ-32B-GGUF:Q4_K_M", True),
        ("name", False),
        ("a/b/c", False),
        ("/absolute", False),
        ("./here", False),
        ("~/models", False),
        ("owner/", False),
    ],
)
def test_hub_ids_are_told_from_paths(name: str, is_id: bool) -> None:
    assert hub.is_hub_id(name) == is_id


def test_a_cached_checkpoint_opens_without_a_network(
    cache: Path, build: Callable[..., Qwen2], tokenizer: Tokenizer
) -> None:
    checkpoint.save(build(), snapshot(cache, "owner/small"), tokenizer)
    model = open_model("owner/small", slots=1, context_length=64)
    assert (model.name, model.engine) == ("owner/small", "torch")
    model.close()


def test_one_gguf_file_of_several_is_chosen_by_part_of_its_name(
    cache: Path, build: Callable[..., Qwen2], tokenizer: Tokenizer
) -> None:
    folder = snapshot(cache, "owner/small-GGUF")
    for kind in ("F16", "Q8_0"):
        gguf.save(build(), folder / f"small-{kind}.gguf", kind, to_metadata(tokenizer, 300))
    assert hub.download("owner/small-GGUF:Q8_0").name == "small-Q8_0.gguf"
    with pytest.raises(
        OpenQwQError, match=r"has small-F16.gguf, small-Q8_0.gguf for 'small': name"
    ):
        hub.download("owner/small-GGUF:small")
    with pytest.raises(OpenQwQError, match="has none for 'Q2': name a part of exactly one"):
        hub.download("owner/small-GGUF:Q2")


def test_what_is_not_cached_says_offline(cache: Path) -> None:
    with pytest.raises(
        OpenQwQError, match=r"not in the hub's cache, and the hub cannot be reached"
    ):
        hub.download("owner/absent")


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            errors.HFValidationError("x"),
            r"the hub does not have owner/name \(not a path on this machine\): check",
        ),
        (errors.LocalEntryNotFoundError("x"), r"cannot be reached \(offline\)"),
        (OSError("disk full"), r"failed \(disk full\): try again, it resumes"),
        (RuntimeError("reset"), r"failed \(reset\)"),
    ],
)
def test_failures_of_a_download_are_told_apart(
    failure: Exception, message: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(OpenQwQError, match=message):
        hub.download("owner/name")


def test_only_what_a_checkpoint_needs_is_fetched(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def note(repository: str, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", note)
    hub.download("owner/name")
    hub.download("owner/name", weights=False)
    assert asked == [
        ("owner/name", ["*.safetensors", "*.json", "*.jinja"]),
        ("owner/name", ["*.json", "*.jinja"]),
    ]


def test_without_the_client_it_says_what_to_install(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(
        OpenQwQError, match=r"needs huggingface_hub .*pip install 'openqwq\[hub\]'"
    ):
        hub.download("owner/name")
