from pathlib import Path

import torch
from safetensors.torch import load_file

from openqwq.cluster.weights import COMPLETE, DirectoryLink, versions


def test_a_version_is_complete_before_anybody_hears_of_it_and_two_are_kept(tmp_path: Path) -> None:
    heard: list[tuple[int, bool]] = []

    def notify(directory: Path, version: int) -> None:
        heard.append((version, (directory / COMPLETE).exists()))

    link = DirectoryLink(tmp_path, notify)
    for version in range(4):
        link.push([("a.weight", torch.full((2, 3), float(version)).t())], version)
    assert heard == [(version, True) for version in range(4)]
    assert versions(tmp_path) == [2, 3]
    stored = load_file(tmp_path / "version-3" / "model.safetensors")
    torch.testing.assert_close(stored["a.weight"], torch.full((3, 2), 3.0))


def test_a_version_without_its_marker_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "version-7").mkdir()
    assert versions(tmp_path) == []
