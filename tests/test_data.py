"""The data that ships with the tests is what its notes say."""

import hashlib
import re
from pathlib import Path

SAMPLES = Path(__file__).parent / "data"


def test_every_sample_has_the_hash_in_its_notes_and_a_licence() -> None:
    notes = (SAMPLES / "SOURCE.md").read_text(encoding="utf-8")
    noted = dict(re.findall(r"^\| (\S+/\S+) \| ([0-9a-f]{64}) \|$", notes, re.MULTILINE))
    licensed = dict(re.findall(r"^\| ([a-z][\w-]+) \| .+ \| (.+) \|$", notes, re.MULTILINE))
    del licensed["folder"]  # the heading
    found = {}
    for folder, licence in licensed.items():
        assert re.search(r"MIT|Apache-2\.0|CC-BY-4\.0", licence)
        for path in (SAMPLES / folder).iterdir():
            name = path.relative_to(SAMPLES).as_posix()
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == noted
