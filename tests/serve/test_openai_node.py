"""npm's `openai` client against our server; OPENAI_HOME names a folder whose node_modules has it.

npm install --prefix /tmp/openai openai && OPENAI_HOME=/tmp/openai pytest tests/serve
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openqwq.engine.open import OpenedModel
from openqwq.serve.guard import Access
from openqwq.serve.server import ServerOptions

SUITE = Path(__file__).with_name("openai.mjs")
HOME = Path(os.environ.get("OPENAI_HOME", SUITE.parents[2] / "web"))
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def test_the_suite_of_the_npm_client_passes(
    scripted: Callable[..., OpenedModel], serve: Any, tiny: Any
) -> None:
    if not shutil.which("node") or not (HOME / "node_modules" / "openai").is_dir():
        pytest.skip(
            f"needs node and npm's openai in {HOME} (npm install openai, or OPENAI_HOME)"
        )
    model = scripted(f"I ask</think>\n\nLook:\n{CALL}")
    with serve(model, ServerOptions(Access("key"))) as server:
        done = subprocess.run(
            ["node", str(SUITE), server.url, tiny.url],
            env={**os.environ, "OPENAI_HOME": str(HOME)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    tiny.wait_until_idle()
