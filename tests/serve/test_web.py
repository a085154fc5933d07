"""The web chat: its bundle is that of its sources, loads nothing from elsewhere, and works."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from openqwq.config import Config, DataConfig, RlStage, SftStage, dump_config
from openqwq.engine.open import OpenedModel
from openqwq.evaluation.report import write_report
from openqwq.serve.feedback import read_feedback
from openqwq.serve.guard import Access
from openqwq.serve.server import ServerOptions
from openqwq.serve.tool_steps import ServerTools

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"
STATIC = ROOT / "openqwq" / "serve" / "static"
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
# What a browser fetches by itself; links that a reader may follow, and namespaces, are no loads.
LOADS = re.compile(
    r"""(?:\bsrc|<link[^>]*href)\s*=\s*["']?(?:https?:)?//|"""
    r"""(?:url\(|@import)\s*["']?(?:https?:)?//|"""
    r"""(?:\bimport\s*\(?|\bfrom|\bfetch\(|importScripts\(|new\s+Worker\()\s*["'`](?:https?:)?//"""
)


def source_digest(folder: Path) -> str:
    """What `web/build.mjs` records: SHA-256 over the names and digests of the sources."""
    names = ["build.mjs", "icon.svg", "index.html", "package-lock.json", "preview.html"]
    names += [
        p.relative_to(folder).as_posix() for p in folder.glob("src/**/*") if p.is_file()
    ]
    lines = [
        f"{n} {hashlib.sha256((folder / n).read_bytes()).hexdigest()}\n"
        for n in sorted(names)
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_committed_bundle_is_that_of_the_sources() -> None:
    recorded = json.loads((STATIC / "build.json").read_text())["sources"]
    assert recorded == source_digest(WEB), (
        "web/ has changed: run `make web` and commit its result"
    )


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/x.js">',
        "<link rel=stylesheet href=//cdn.example/x.css>",
        "url(https://cdn.example/font.woff2)",
        'import("https://cdn.example/x.js")',
        "fetch('https://cdn.example/x')",
    ],
)
def test_a_remote_load_is_recognised(text: str) -> None:
    assert LOADS.search(text)


def test_the_page_loads_nothing_from_elsewhere() -> None:
    texts = [p for p in STATIC.rglob("*") if p.suffix in {".html", ".js", ".css", ".svg"}]
    assert len(texts) >= 6
    found = {p.name: LOADS.findall(p.read_text(encoding="utf-8")) for p in texts}
    assert not {name: loads for name, loads in found.items() if loads}


def test_every_local_file_that_the_page_names_is_there() -> None:
    page = (STATIC / "index.html").read_text()
    names = re.findall(r'(?:href|src)="([^"]+)"', page)
    style = (STATIC / "app.css").read_text()
    names += re.findall(r"url\(\"?\./([^)\"]+)", style)
    for script in STATIC.glob("*.js"):
        names += re.findall(
            r'["\']\./([\w-]+\.js)["\']', script.read_text(encoding="utf-8")
        )
    assert {"app.js", "app.css"} <= set(names)
    assert len(names) > 20
    assert not [name for name in names if not (STATIC / name).is_file()]


def test_the_page_allows_no_inline_code() -> None:
    page = (STATIC / "index.html").read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    assert "unsafe" not in policy
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on\w+=", page)


def test_the_wheel_carries_the_page() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "serve/static/**" in project["tool"]["setuptools"]["package-data"]["openqwq"]


def test_the_lock_file_names_no_download_address() -> None:
    assert '"resolved"' not in (WEB / "package-lock.json").read_text()


def run_node(name: str, **environment: str) -> None:
    """Runs one of the page's own test files; its report is shown where a test in it fails."""
    command = ["node", "--test", "--test-reporter=tap", f"tests/{name}"]
    done = subprocess.run(
        command,
        cwd=WEB,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]


needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not (WEB / "node_modules").is_dir(),
    reason="needs Node.js and web/node_modules (cd web && npm ci)",
)


@needs_node
def test_the_committed_bundle_is_what_the_build_makes(tmp_path: Path) -> None:
    command = ["node", "build.mjs", str(tmp_path / "static")]
    done = subprocess.run(command, cwd=WEB, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    made, committed = (
        {
            p.relative_to(folder).as_posix(): p.read_bytes()
            for p in folder.rglob("*")
            if p.is_file()
        }
        for folder in (tmp_path / "static", STATIC)
    )
    assert made.keys() == committed.keys()
    assert not [name for name in made if made[name] != committed[name]]


needs_chromium = pytest.mark.skipif(
    not CHROMIUM.is_file(), reason=f"needs {CHROMIUM} (Debian: apt install chromium)"
)


@needs_node
def test_streams_tags_branches_and_half_written_markdown() -> None:
    run_node("unit.test.mjs")


@needs_node
@needs_chromium
def test_every_flow_in_chromium() -> None:
    run_node("flows.test.mjs", VIEWS=os.environ.get("VIEWS", "one"))


@needs_node
def test_two_tabs_against_a_model_of_the_store() -> None:
    run_node("store.test.mjs")


@needs_node
@needs_chromium
def test_files_previews_tabs_and_languages_in_chromium() -> None:
    run_node("material.test.mjs", VIEWS=os.environ.get("VIEWS", "one"))


THINKING = "the quick brown fox jumps over the lazy dog\n\n" * 6
ANSWER = f"{THINKING}</think>\n\nThe answer is **42**."


@needs_node
@needs_chromium
def test_the_page_and_qwq_serve_understand_each_other(
    scripted: Callable[..., OpenedModel], serve: Callable[..., Any], tmp_path: Path
) -> None:
    call = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "6*7"}}\n</tool_call>'
    caller = scripted(f"I compute</think>\n\n{call}", "got it</think>\n\nIt is 42.")
    program = scripted("hm</think>\n\n```python\nprint(6 * 7)\n```\n")
    ratings = tmp_path / "ratings.db"
    rated = ServerOptions(tools=ServerTools.opened(["python"], []), feedback=ratings)
    calculating = ServerOptions(tools=ServerTools.opened(["calculator"], []))
    locked = ServerOptions(slots=4, access=Access("sesame"))
    with (
        serve(scripted(ANSWER, delay=0.05), locked) as thinking_server,
        serve(caller, calculating) as tool_server,
        serve(program, rated) as rated_server,
    ):
        run_node(
            "served.test.mjs",
            CHAT_URL=f"{thinking_server.url}/",
            CHAT_TOOLS_URL=f"{tool_server.url}/",
            CHAT_RATED_URL=f"{rated_server.url}/",
            CHAT_MODEL="scripted",
            CHAT_KEY="sesame",
        )
    kinds = [opinion["kind"] for opinion in read_feedback(ratings)]
    assert sorted(kinds) == ["edit", "preference", "rating"]


class Killable:
    """A server in a process of its own that is killed and started over HTTP."""

    def __init__(self, store: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._command = [
            sys.executable,
            str(Path(__file__).with_name("scripted_server.py")),
        ]
        self._command += [str(self.port), str(store), ANSWER]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()
        owner = self

        class Control(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.kill() if self.path == "/kill" else owner.start()
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.control = ThreadingHTTPServer(("127.0.0.1", 0), Control)
        threading.Thread(target=self.control.serve_forever, daemon=True).start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.control.shutdown()
        self.control.server_close()
        self.kill()


@needs_node
@needs_chromium
def test_the_page_finds_a_server_again_that_was_killed(tmp_path: Path) -> None:
    server = Killable(tmp_path / "responses.db")
    try:
        run_node(
            "served.test.mjs",
            CHAT_KILLABLE_URL=f"http://127.0.0.1:{server.port}/",
            CHAT_CONTROL=f"http://127.0.0.1:{server.control.server_port}/",
            CHAT_MODEL="scripted",
        )
    finally:
        server.close()


@needs_node
@needs_chromium
def test_a_run_report_is_accessible_in_both_languages_on_a_phone_and_a_desktop(
    tmp_path: Path,
) -> None:
    config = Config(
        data={"addition": DataConfig(source="addition")},
        stages=(
            SftStage("sft", {"addition": 1.0}, steps=20),
            RlStage("rl", {"addition": 1.0}, steps=20),
        ),
    )
    (tmp_path / "config.toml").write_text(dump_config(config))
    lines = [
        {"stage": "sft", "step": i, "lr": 0.01, "cross_entropy": 3 / (i + 1)}
        for i in range(20)
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "evaluation").mkdir()
    for stage, right in (("sft", 3), ("rl", 8)):
        outcomes = [
            {
                "task_id": f"addition:{i}",
                "kind": "addition",
                "question": f"What is {i} + 1?",
                "completion": f"I add.\n</think>\n\nThe answer is {i + 1}.",
                "value": float(i < right),
                "status": "correct" if i < right else "wrong",
                "thinking_tokens": 10,
            }
            for i in range(10)
        ]
        record = {"checkpoint": stage, "outcomes": outcomes}
        (tmp_path / "evaluation" / f"{stage}.json").write_text(json.dumps(record))
    write_report(tmp_path, {})
    run_node("report.test.mjs", REPORT=str(tmp_path.resolve()))
