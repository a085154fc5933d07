"""Hub files by name, and a lock that keeps a run on the bytes it began with."""

from pathlib import Path

import pytest

from openqwq.data import hub
from openqwq.data.hub import DataLock, HubFile, parse_reference
from openqwq.types import OpenQwQError

GSM8K = "hf://datasets/openai/gsm8k@740312a/main/test.parquet"
COMMIT = "0123456789abcdef"


@pytest.mark.parametrize(
    ("reference", "file"),
    [
        (GSM8K, HubFile("openai/gsm8k", "main/test.parquet", "740312a")),
        ("hf://datasets/a/b.c/d.jsonl", HubFile("a/b.c", "d.jsonl", "main")),
        ("hf://datasets/a/b@refs%2Fpr%2F1/d.json", HubFile("a/b", "d.json", "refs/pr/1")),
    ],
)
def test_a_reference_names_repository_revision_and_path(
    reference: str, file: HubFile
) -> None:
    assert parse_reference(reference) == file


@pytest.mark.parametrize(
    "reference",
    ["hf://openai/gsm8k/a.jsonl", "hf://datasets/gsm8k", "hf://datasets/a/b", "a/b"],
)
def test_another_form_of_reference_is_refused_with_the_right_one(reference: str) -> None:
    with pytest.raises(OpenQwQError, match="write hf://datasets/OWNER/NAME@REVISION/path"):
        parse_reference(reference)


def test_without_a_network_the_file_and_the_remedy_are_named() -> None:
    pytest.importorskip("huggingface_hub", reason="needs pip install huggingface_hub")
    with pytest.raises(
        OpenQwQError, match=r"main/test\.parquet .*offline.*name a local copy"
    ):
        DataLock().path(GSM8K)


def cached(monkeypatch: pytest.MonkeyPatch, root: Path) -> list[HubFile]:
    """A hub whose `main` is COMMIT; the list collects what it is asked for."""
    asked: list[HubFile] = []

    def fetch(file: HubFile) -> Path:
        asked.append(file)
        commit = COMMIT if file.revision == "main" else file.revision
        return root / "snapshots" / commit / file.path

    monkeypatch.setattr(hub, "fetch", fetch)
    return asked


def test_a_resumed_run_asks_for_the_commit_and_bytes_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = cached(monkeypatch, tmp_path)
    copy = tmp_path / "snapshots" / COMMIT / "a.jsonl"
    copy.parent.mkdir(parents=True)
    copy.write_text("{}")
    reference = "hf://datasets/a/b/a.jsonl"

    begun = DataLock.load(tmp_path / "data.lock")
    assert begun.path(reference) == copy
    begun.save()
    resumed = DataLock.load(tmp_path / "data.lock")
    assert resumed.files[reference].commit == COMMIT
    assert resumed.path(reference) == copy
    assert [file.revision for file in asked] == ["main", COMMIT]

    copy.write_text('{"a": 1}')
    with pytest.raises(OpenQwQError, match=rf"{reference} has changed since the run began"):
        DataLock.load(tmp_path / "data.lock").path(reference)


def test_a_changed_local_file_is_refused_by_name_and_an_equal_one_is_not(
    tmp_path: Path,
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}")
    begun = DataLock(tmp_path / "data.lock")
    begun.path(str(rows))
    begun.save()
    rows.write_text("{}")
    assert DataLock.load(tmp_path / "data.lock").path(str(rows)) == rows
    rows.write_text("{} ")
    with pytest.raises(OpenQwQError, match=r"rows\.jsonl has changed since the run began"):
        DataLock.load(tmp_path / "data.lock").path(str(rows))


def test_a_damaged_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.lock").write_text("[")
    with pytest.raises(OpenQwQError, match=r"data\.lock is damaged"):
        DataLock.load(tmp_path / "data.lock")


def test_a_file_in_the_hubs_cache_is_found_without_a_network_and_locked_to_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "datasets--own--sums"
    copy = repository / "snapshots" / commit / "data" / "train.jsonl"
    copy.parent.mkdir(parents=True)
    copy.write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)

    lock = DataLock(tmp_path / "data.lock")
    reference = "hf://datasets/own/sums/data/train.jsonl"
    assert lock.path(reference).read_text() == "{}"
    assert lock.files[reference].commit == commit
    lock.save()
    (repository / "refs" / "main").write_text("f" * 40)  # the branch has moved on
    assert DataLock.load(tmp_path / "data.lock").path(reference) == copy
    with pytest.raises(OpenQwQError, match=r"offline.*name a local copy"):
        DataLock().path(reference)
