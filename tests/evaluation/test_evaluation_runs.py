"""`qwq eval` as its user meets it: recorded endpoints, broken ones, and a run killed midway."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from openqwq.cli import main
from openqwq.engine import remote
from openqwq.evaluation import evaluation, responders
from openqwq.evaluation.progress import Display
from openqwq.evaluation.results import RecordFile
from openqwq.model import checkpoint
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.text.tokenizer import Tokenizer

QUESTIONS = {f"What is {i} + {i}?": str(2 * i) for i in range(5)}
FUNCTION = {
    "name": "area",
    "description": "Area of a rectangle.",
    "parameters": {
        "type": "dict",
        "properties": {"width": {"type": "integer"}, "height": {"type": "integer"}},
        "required": ["width", "height"],
    },
}
Reply = Callable[[str], dict[str, Any] | int]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five sums as GSM8K, one IFEval prompt and one BFCL call, in the layout of --data."""
    directory = tmp_path / "data"
    rows = {
        "gsm8k/test.jsonl": [
            {"question": question, "answer": f"So\n#### {answer}"}
            for question, answer in QUESTIONS.items()
        ],
        "ifeval/prompts.jsonl": [
            {
                "key": 1,
                "prompt": "Use no commas.",
                "instruction_id_list": ["punctuation:no_comma"],
                "kwargs": [{"keyword": None}],
            }
        ],
    }
    for name, lines in rows.items():
        (directory / name).parent.mkdir(parents=True)
        (directory / name).write_text("\n".join(map(json.dumps, lines)))
    return directory


@pytest.fixture
def serve() -> Iterator[Callable[[Reply], str]]:
    """Starts a chat endpoint that answers by a function of the question: a message, or a status."""
    servers: list[ThreadingHTTPServer] = []

    def start(reply: Reply) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.path == "/v1/models"
                self.answer(200 if known else 404, {"data": [{"id": "stub"}]})

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                request = json.loads(self.rfile.read(length))
                found = reply(request["messages"][-1]["content"])
                if isinstance(found, int):
                    return self.answer(found, {"error": {"message": "no"}})
                choice = {"index": 0, "finish_reason": "stop", "message": found}
                usage = {"prompt_tokens": 7, "completion_tokens": 10}
                return self.answer(200, {"choices": [choice], "usage": usage})

            def answer(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def evaluate(model: str, data: Path, out: Path, *more: str) -> int:
    common = ["--data", str(data), "--allow-changed-data", "--out", str(out)]
    return main(["eval", model, *common, *more])


def scores(out: Path) -> dict[str, float]:
    summaries = json.loads((out / "scores.json").read_text())
    return {name: summary["headline"]["value"] for name, summary in summaries.items()}


def golden(question: str) -> dict[str, Any]:
    first = question.split("\n")[0]
    answer = f"\\boxed{{{QUESTIONS[first]}}}" if first in QUESTIONS else "None here"
    return {"role": "assistant", "content": answer, "reasoning_content": "It is clear."}


def test_a_recorded_endpoint_scores_everything_or_nothing(
    serve: Callable[[Reply], str], data: Path, tmp_path: Path
) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    assert evaluate(serve(golden), data, right, "--tasks", "gsm8k,ifeval") == 0
    assert scores(right) == {"gsm8k": 1.0, "ifeval": 1.0}
    url = serve(lambda _: {"role": "assistant", "content": "Well, \\boxed{-1}, or so"})
    assert evaluate(url, data, wrong, "--tasks", "gsm8k,ifeval") == 0
    assert scores(wrong) == {"gsm8k": 0.0, "ifeval": 0.0}
    first = RecordFile(right / "gsm8k.jsonl").read()[0]
    assert first.reasoning == "It is clear."
    assert (first.prompt_tokens, first.completion_tokens) == (7, 10)
    assert 0 < first.reasoning_tokens < 10
    assert main(["eval", "--compare", str(wrong), str(right)]) == 0


def test_a_piped_evaluation_says_in_plain_lines_how_it_goes(
    serve: Callable[[Reply], str],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "Display", partial(Display, every=0.0))
    url = serve(lambda q: golden(q) if "3 + 3" not in q else {"content": "\\boxed{-1}"})
    assert evaluate(url, data, tmp_path / "out", "--tasks", "gsm8k") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "gsm8k" in line]
    assert any(line.startswith("gsm8k: reply 1 of 5, correct ") for line in lines)
    assert any(re.fullmatch(r"gsm8k: done in \d+ s, correct 0.8", line) for line in lines)

    # a resumed one counts what is there
    path = tmp_path / "out" / "gsm8k.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    again = ("--tasks", "gsm8k", "--resume")
    assert evaluate(url, data, tmp_path / "out", *again) == 0
    assert "gsm8k: reply 3 of 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("failure", "told"), [(500, "no"), (400, "no"), ({"content": " "}, "an empty reply")]
)
def test_failures_of_an_endpoint_are_errors_and_not_wrong_answers(
    failure: Any,
    told: str,
    serve: Callable[[Reply], str],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(responders, "FIRST_PAUSE", 0.001)
    url = serve(lambda question: failure if "3 + 3" in question else golden(question))
    assert evaluate(url, data, tmp_path / "out", "--tasks", "gsm8k") == 0
    summary = json.loads((tmp_path / "out" / "scores.json").read_text())["gsm8k"]
    assert summary["headline"]["value"] == pytest.approx(0.8)
    assert (summary["items"], summary["errors"]) == (5, 0.2)
    (failed,) = [
        r for r in RecordFile(tmp_path / "out" / "gsm8k.jsonl").read() if not r.generated
    ]
    assert told in failed.detail


def test_mistakes_are_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert evaluate("nowhere", data, out, "--tasks", "gsm9k") == 2
    assert "did you mean 'gsm8k'?" in capsys.readouterr().err
    assert evaluate("nowhere", data, out, "--tasks", "aime24") == 2
    assert "aime2024/problems.jsonl does not exist" in capsys.readouterr().err
    assert evaluate("nowhere", data, out, "--tasks", "gsm8k", "--limit", "0") == 2
    assert "--limit is 0" in capsys.readouterr().err
    assert main(["eval", "--tasks", "gsm8k"]) == 2
    assert "no MODEL was named" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    ["samples", "limit", "max-tokens", "concurrency", "workers", "context-length"],
)
def test_an_evaluation_of_less_than_one_is_refused(
    name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for value in (0, -1):
        flag = f"--{name}={value}"
        assert evaluate("http://127.0.0.1:1", data, out, "--tasks", "gsm8k", flag) == 2
        told = capsys.readouterr().err
        assert f"--{name} is {value}: it must be at least 1" in told
    assert not out.exists()


def small_model(directory: Path) -> None:
    tokenizer = Tokenizer.train(["What is 1 + 2 ? so it is three\n\n"] * 4, 300)
    config = ModelConfig(
        tokenizer.vocab_size, 16, 32, 2, 2, 1, 8, max_position_embeddings=512
    )
    model = Qwen2(config)
    model.initialise(torch.Generator().manual_seed(0), std=0.2)
    checkpoint.save(model, directory, tokenizer)


def test_a_run_killed_midway_goes_on_to_the_very_same_replies(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    small_model(model)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    more = [
        "--tasks",
        "gsm8k",
        "--samples",
        "12",
        "--max-tokens",
        "40",
        "--concurrency",
        "3",
    ]
    command = [
        sys.executable, "-c", "from openqwq.cli import main; raise SystemExit(main())",
        "eval", str(model), "--data", str(data), "--allow-changed-data", "--out", str(broken),
        *more,
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    path, deadline = broken / "gsm8k.jsonl", time.monotonic() + 60
    while not (path.exists() and path.read_bytes().count(b"\n") > 5):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    saved = path.read_bytes().count(b"\n")
    assert 5 < saved < 60
    assert evaluate(str(model), data, broken, *more, "--resume") == 0
    assert evaluate(str(model), data, whole, *more) == 0
    first, second = (
        {record.key: record for record in RecordFile(run / "gsm8k.jsonl").read()}
        for run in (whole, broken)
    )
    assert first == second
    assert len(first) == 60
    assert (whole / "scores.json").read_text() == (broken / "scores.json").read_text()
    assert evaluate(str(model), data, whole, *more, "--resume", "--precision", "bf16") == 2
    assert "/model in bf16'; use the settings" in capsys.readouterr().err
    assert (
        evaluate("http://127.0.0.1:1", data, tmp_path / "x", *more, "--precision", "bf16")
        == 2
    )
    assert "precision bf16 is for the engine torch" in capsys.readouterr().err
