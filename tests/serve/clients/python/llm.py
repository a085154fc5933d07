"""simonw's llm: streamed text and a tool, as its own command runs them."""

# requires: llm
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
model = {"model_id": "puppet", "model_name": "puppet", "supports_tools": True}
model |= {"api_base": os.environ["QWQ_URL"] + "/v1", "api_key_name": "none"}
(folder / "extra-openai-models.yaml").write_text(json.dumps([model]))
environment = {**os.environ, "LLM_USER_PATH": str(folder), "OPENAI_API_KEY": "none"}
program = str(Path(sys.executable).with_name("llm"))
tool = 'def get_weather(city: str) -> str:\n    "Weather of a city."\n    return "sunny"\n'


def run(*arguments: str) -> str:
    """What the command prints."""
    command = [program, "-m", "puppet", "--no-log", "--key", "none", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


print(
    json.dumps(
        {
            "streamed": run("Say something."),
            "tool": run("--functions", tool, "Weather in Oslo?"),
        }
    )
)
