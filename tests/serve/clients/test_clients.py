"""Well-known clients, each installed as its users do, run their first example with our server.

`make clients` installs every one from PyPI or npm into an environment of its own below
CLIENTS_HOME and runs it; without that variable they are skipped. `test_bodies` is the fast core:
the requests that these clients made, without the clients.
"""

import json
import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from openqwq.serve import service

HERE = Path(__file__).parent
SCRIPTS = sorted([*HERE.glob("python/*.py"), *HERE.glob("js/*.mjs")])
BODIES = HERE / "bodies"
# of the clients that were run last, as docs/serving.md names them
VERSIONS = HERE / "versions.json"
# What tells machines, sessions and accounts apart.
IDENTITY = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}\b|\b[0-9a-f]{64}\b")
HOME = os.environ.get("CLIENTS_HOME")
# What a client says in place of the usual pair; None where it has no such thing.
OTHERS: dict[str, dict[str, Any]] = {
    "js/claude_code.mjs": {"streamed": None},
    "js/codex.mjs": {"streamed": None},
    "python/aider.py": {"tool": None},
    "python/dspy.py": {"streamed": "sunny", "tool": "sunny"},
    "python/instructor.py": {"streamed": "Oslo", "tool": "21"},
}
USUAL = {"streamed": "The quick brown fox.", "tool": "It is sunny in Oslo."}


def name_of(script: Path) -> str:
    return script.relative_to(HERE).as_posix()


def requirements(script: Path) -> str:
    """What pip or npm installs for a script."""
    (line,) = re.findall(r"^(?:#|//) requires: (.+)$", script.read_text(), re.MULTILINE)
    return str(line)


def folder_of(script: Path) -> Path:
    assert HOME is not None
    return Path(HOME) / name_of(script).replace("/", "-").partition(".")[0]


def version(script: Path) -> str:
    """The client's name and version: of the first package that its script requires."""
    first = requirements(script).split()[0]
    if script.suffix == ".py":
        name = first.partition("[")[0]
        python = str(folder_of(script) / "bin" / "python")
        asked = f"import importlib.metadata as m; print(m.version({name!r}))"
        done = subprocess.run(
            [python, "-c", asked], check=True, capture_output=True, text=True
        )
        return f"{name} {done.stdout.strip()}"
    name = re.sub(r"(?<=.)@.*", "", first)
    described = json.loads(
        (folder_of(script) / "node_modules" / name / "package.json").read_text()
    )
    return f"{name} {described['version']}"


def installed(script: Path) -> list[str]:
    """The command that runs a script in its client's environment, made if it is not there."""
    line = requirements(script)
    folder = folder_of(script)
    stamp = folder / "installed"
    if script.suffix == ".py":
        python = folder / "bin" / "python"
        if not stamp.exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            install = [str(python), "-m", "pip", "install", "--quiet", *line.split()]
            subprocess.run(install, check=True)
        program = str(python)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        if not stamp.exists():
            install = [
                "npm",
                "install",
                "--no-audit",
                "--no-fund",
                "--silent",
                *line.split(),
            ]
            subprocess.run(install, check=True, cwd=folder)
        program = "node"
    stamp.touch()
    copy = folder / f"example{script.suffix}"  # not named like the module that it imports
    copy.write_text(script.read_text())
    return [program, str(copy)]


@pytest.mark.skipif(not HOME, reason="installs from PyPI and npm: run it by `make clients`")
@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_a_clients_first_example_runs(
    puppet: Any, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = installed(script)
    bodies = recorded(monkeypatch)
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    environment = {**kept, "QWQ_URL": puppet.url, "OPENAI_API_KEY": "none"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == USUAL | OTHERS.get(name_of(script), {})
    if "CLIENTS_RECORD" in os.environ:
        target = BODIES / f"{name_of(script).replace('/', '-').partition('.')[0]}.json"
        target.write_text(json.dumps([short(body) for body in bodies], indent=1) + "\n")
        known = json.loads(VERSIONS.read_text()) if VERSIONS.exists() else {}
        known[name_of(script)] = {"version": version(script), "date": str(date.today())}
        VERSIONS.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The (path, body) of each request from now on."""
    found: list[dict[str, Any]] = []
    read = service.read_body

    async def read_and_note(request: Any) -> Any:
        body = await read(request)
        found.append({"path": request.url.path, "body": body})
        return body

    monkeypatch.setattr(service, "read_body", read_and_note)
    return found


def short(value: Any) -> Any:
    """A body with its fields but without its prose: that is the client's own."""
    if isinstance(value, str):
        value = IDENTITY.sub("0", value)
        whole = len(value) < 60 or (value[:1] == "{" and len(value) < 200)
        return value if whole else f"{value[:40]} ..."
    if isinstance(value, list):
        # Lists of tools are long: of each kind, eight show the form.
        kinds = [each.get("type") if isinstance(each, dict) else None for each in value]
        few = [each for i, each in enumerate(value) if kinds[:i].count(kinds[i]) < 8]
        return [short(each) for each in few]
    if isinstance(value, dict):
        return {key: short(each) for key, each in value.items()}
    return value
