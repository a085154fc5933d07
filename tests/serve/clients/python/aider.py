"""aider: one message from the command line, streamed; it has no tools."""

# requires: aider-chat
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

environment = {**os.environ, "OPENAI_API_BASE": os.environ["QWQ_URL"] + "/v1"}
environment |= {"OPENAI_API_KEY": "none", "HOME": tempfile.mkdtemp()}
command = [str(Path(sys.executable).with_name("aider")), "--model", "openai/puppet"]
command += [
    "--no-git",
    "--yes-always",
    "--no-check-update",
    "--analytics-disable",
    "--no-pretty",
]
command += ["--no-show-model-warnings", "--no-detect-urls", "--edit-format", "ask"]
command += ["--message", "Say something."]
done = subprocess.run(
    command, env=environment, capture_output=True, text=True, cwd=tempfile.mkdtemp()
)
assert "quick brown fox" in done.stdout, done.stdout + done.stderr
print(json.dumps({"streamed": "The quick brown fox.", "tool": None}))
