"""What well-known clients sent in their first example is answered, without the clients.

`bodies/` holds their requests without their prose, as `make clients` records them (CLIENTS_RECORD).
"""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

FILES = sorted(Path(__file__).with_name("bodies").glob("*.json"))
BROKEN = ("event: error", '"error": {', "response.failed")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_request_of_a_client_is_answered(puppet: Any, file: Path) -> None:
    for request in json.loads(file.read_text()):
        answer = httpx.post(puppet.url + request["path"], json=request["body"], timeout=60)
        assert answer.status_code == 200, (request["path"], answer.text)
        assert not any(text in answer.text for text in BROKEN), answer.text[-500:]


def test_the_clients_that_are_claimed_are_recorded() -> None:
    scripts = [
        *Path(__file__).parent.glob("python/*.py"),
        *Path(__file__).parent.glob("js/*.mjs"),
    ]
    names = {f"{script.parent.name}-{script.stem}" for script in scripts}
    assert names == {file.stem for file in FILES} and len(names) >= 20
