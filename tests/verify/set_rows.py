"""Rows of the public data sets, from plain or compressed JSON lines."""

import gzip
import json
from pathlib import Path
from typing import Any

WHOLE = Path(__file__).parents[2].parent / "shared" / "data"


def rows(data: Path, name: str) -> list[dict[str, Any]]:
    """The rows of `data`/`name`.jsonl, or of .jsonl.gz where that is absent."""
    path = data / f"{name}.jsonl"
    if path.exists():
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with gzip.open(f"{path}.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
