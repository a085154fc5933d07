from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from openqwq.cluster.weights import versions, write_version


def test_a_version_is_written_whole_and_two_are_kept(tmp_path: Path) -> None:
    for version in range(4):
        weights = [("a.weight", torch.full((2, 3), float(version)).t())]
        assert write_version(tmp_path, weights, version) == tmp_path / f"version-{version}"
    assert versions(tmp_path) == [2, 3]
    stored = load_file(tmp_path / "version-3" / "model.safetensors")
    torch.testing.assert_close(stored["a.weight"], torch.full((3, 2), 3.0))


def test_a_version_that_broke_off_does_not_count_and_is_written_anew(tmp_path: Path) -> None:
    def breaking() -> Iterator[tuple[str, torch.Tensor]]:
        yield "a.weight", torch.zeros(2)
        raise ConnectionError

    try:
        write_version(tmp_path, breaking(), 7)
    except ConnectionError:
        assert versions(tmp_path) == []
    write_version(tmp_path, [("a.weight", torch.ones(2))], 7)
    assert versions(tmp_path) == [7]
