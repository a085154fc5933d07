"""A distill stage's teacher: a policy held here or a server elsewhere, they say the same."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from served import served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from openqwq.cli import main
from openqwq.config import DistillStage, OptimiserConfig, ShapeConfig, dump_config
from openqwq.engine.remote import RemoteError
from openqwq.model import checkpoint
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.learner import Learner
from openqwq.train.packing import pack_trajectories
from openqwq.train.policies import fresh_model
from openqwq.train.teachers import HeldTeacher, open_endpoint
from openqwq.types import Trajectory

TEXTS = [f"What is {i} + {2 * i}? The sum is {3 * i}." for i in range(30)]
CONTEXT = 256


class Endpoint:
    """What vLLM answers to `echo` with `logprobs`; the log-probs are transformers' own."""

    def __init__(self, model: Path) -> None:
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32
        )
        self.tokenizer = Tokenizer.load(model)
        self.context = CONTEXT
        self.scores = True
        self.answers = 10**9  # requests until it fails
        routes = [
            Route("/v1/models", self.models),
            Route("/v1/completions", self.completions, methods=["POST"]),
        ]
        self.app = Starlette(routes=routes)

    def models(self, _: Request) -> JSONResponse:
        entry = {"id": "big", "owned_by": "vllm", "max_model_len": self.context}
        return JSONResponse({"data": [entry]})

    async def completions(self, request: Request) -> JSONResponse:
        body = await request.json()
        assert body["echo"] and body["logprobs"] and body["max_tokens"] == 1
        if self.answers == 0:
            return JSONResponse({"error": "gone"}, 410)
        self.answers -= 1
        ids = [*body["prompt"], 0]  # vLLM draws one
        texts = [self.tokenizer.decode([token_id]) for token_id in ids]
        whole = torch.tensor([ids])
        with torch.no_grad():
            table = self.model(whole).logits[0, :-1].log_softmax(-1)
        own = table.gather(1, whole[0, 1:, None]).flatten().tolist()
        found = {"tokens": texts, "token_logprobs": [None, *own]}
        if not self.scores:  # what llama-server gives
            found = {"tokens": texts[-1:], "token_logprobs": own[-1:]}
        return JSONResponse({"choices": [{"index": 0, "text": "", "logprobs": found}]})


def saved(directory: Path, tokenizer: Tokenizer, firmness: float) -> Path:
    shape = ShapeConfig(32, 64, 1, 2, 1, max_position_embeddings=CONTEXT)
    model = fresh_model(shape, tokenizer, 0)
    with torch.no_grad():
        model.model.norm.weight.mul_(firmness)  # of a fresh model's opinions
    checkpoint.save(model, directory, tokenizer)
    return directory


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    return saved(folder / "model", Tokenizer.train(TEXTS, 320), 1.0)


@pytest.fixture(scope="module")
def teacher(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(
        tmp_path_factory.mktemp("teacher") / "model", Tokenizer.load(student), 30.0
    )


@pytest.fixture
def endpoint(teacher: Path) -> Endpoint:
    return Endpoint(teacher)


def trajectories() -> list[Trajectory]:
    """Three samples of each of two prompts, one of a third; what a tool said is not sampled."""
    draw = random.Random(0)
    found: list[Trajectory] = []
    for group, samples in (("a", 3), ("b", 3), ("c", 1)):
        prompt = [draw.randrange(250) for _ in range(draw.randint(2, 9))]
        for _ in range(samples):
            reply = [draw.randrange(250) for _ in range(draw.randint(3, 12))]
            sampled = [True, *(draw.random() < 0.7 for _ in reply[1:])]
            size = len(prompt) + len(reply)
            found.append(
                Trajectory(
                    token_ids=prompt + reply,
                    sampled_mask=[False] * len(prompt) + sampled,
                    log_probs=[0.0] * size,
                    weight_version=[0] * size,
                    task_id=group,
                    group_id=group,
                    kind="toy",
                    reward=0.0,
                    reward_parts={},
                    status="scored",
                    reasoning_tokens=0,
                )
            )
    return found


def distill(url: str, **more: Any) -> DistillStage:
    return DistillStage("student", data={}, teacher=url, **more)


def test_an_endpoint_says_of_every_token_what_the_policy_itself_says(
    endpoint: Endpoint, teacher: Path
) -> None:
    held = HeldTeacher(Learner(checkpoint.load(teacher), OptimiserConfig(lr=1e-3), 1))
    batches = pack_trajectories(trajectories(), 40)
    assert len(batches) > 1 and any(batch.prefix_lengths for batch in batches)
    wanted = asyncio.run(held.log_probs(batches))
    with served(endpoint.app) as url:
        got = asyncio.run(open_endpoint(distill(url)).log_probs(batches))
    for own, theirs in zip(wanted, got, strict=True):
        assert float(own.std()) > 1
        torch.testing.assert_close(theirs, own, atol=1e-4, rtol=1e-4)


def config(folder: Path, student: Path, url: str, /, **more: Any) -> Path:
    rows = [{"question": text, "answer": "1"} for text in TEXTS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = {
        "name": "student",
        "kind": "distill",
        "teacher": url,
        "steps": 20,
        "prompts_per_step": 4,
        "group_size": 4,
        "max_tokens": 12,
        "checkpoint_every": 1,
        "data": {"mine": 1.0},
        "optimiser": {"lr": 0.05, "warmup_steps": 1},
        **more,
    }
    tree = {
        "model": str(student),
        "threads": 1,
        "engine": {"slots": 16},
        "data": {"mine": {"rows": "rows.jsonl"}},
        "stages": [stage],
    }
    path = folder / "run.toml"
    path.write_text(dump_config(tree))
    return path


def divergences(run: Path) -> list[float]:
    lines = (run / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [each["reverse_kl"] for each in records if each["stage"] == "student"]


def test_a_student_learns_from_an_endpoint_and_goes_on_when_it_is_back(
    endpoint: Endpoint, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with served(endpoint.app) as url:
        path = config(tmp_path, student, url)
        endpoint.answers = 100  # some steps
        assert main(["train", str(path), "--out", str(run)]) == 2
        assert "410" in capsys.readouterr().err
        done = len(divergences(run))
        assert 0 < done < 20
        endpoint.answers = 10**9
        assert main(["train", str(path), "--out", str(run), "--resume"]) == 0
    found = divergences(run)
    assert len(found) == 20
    assert sum(found[-3:]) < 0.7 * sum(found[:3])


def refusal(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    run = path.parent / "run"
    assert main(["train", str(path), "--out", str(run)]) == 2
    return capsys.readouterr().err


def test_an_endpoint_of_another_vocabulary_is_refused_with_a_token_as_evidence(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Tokenizer.train(["other words altogether, and no digits"] * 9, 320)
    with served(Endpoint(saved(tmp_path / "other", other, 1.0)).app) as url:
        told = refusal(config(tmp_path, student, url), capsys)
    assert "another vocabulary" in told and "there and" in told


def test_a_server_that_scores_no_prompts_is_refused(
    endpoint: Endpoint, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.scores = False
    with served(endpoint.app) as url:
        told = refusal(config(tmp_path, student, url), capsys)
    assert "does not score prompts" in told and "vLLM and qwq serve do" in told


def test_an_endpoint_with_too_short_a_context_is_refused(
    endpoint: Endpoint, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.context = 16
    with served(endpoint.app) as url:
        told = refusal(config(tmp_path, student, url), capsys)
    assert "reads 16 tokens" in told and "engine.max_length" in told


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({"temperature": 0.7}, "log-probs are those of temperature 1"),
        ({"teacher": "http://127.0.0.1:9"}, "cannot be reached"),
        ({"teacher": "no-such-place"}, "a path or a hub id"),
    ],
)
def test_what_stands_against_a_teacher_is_said_before_the_run_is_made(
    endpoint: Endpoint,
    student: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: dict[str, Any],
    wanted: str,
) -> None:
    with served(endpoint.app) as url:
        told = refusal(config(tmp_path, student, url, **more), capsys)
    assert wanted in told and "stages.student" in told
    assert not (tmp_path / "run").exists()


def test_a_teacher_may_be_a_hub_id(
    student: Path,
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, bool]] = []

    def download(name: str, weights: bool = True) -> Path:
        asked.append((name, weights))
        return teacher

    monkeypatch.setattr("openqwq.engine.hub.download", download)
    path = config(tmp_path, student, "Some/Teacher", steps=1)
    assert main(["train", str(path), "--out", str(tmp_path / "run")]) == 0
    assert asked[0] == ("Some/Teacher", False)
    assert ("Some/Teacher", True) in asked


def test_a_log_prob_that_is_none_stops_the_step(endpoint: Endpoint, teacher: Path) -> None:
    with torch.no_grad():
        endpoint.model.lm_head.weight.fill_(float("nan"))
    with served(endpoint.app) as url, pytest.raises(RemoteError):
        batches = pack_trajectories(trajectories(), 100)
        asyncio.run(open_endpoint(distill(url)).log_probs(batches))


def test_a_plan_counts_a_teacher_that_is_held_and_none_elsewhere(
    endpoint: Endpoint,
    student: Path,
    teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("openqwq.train.plan.product_rate", lambda config, rows, dtype: 1e11)
    assert main(["train", str(config(tmp_path, student, str(teacher))), "--plan"]) == 0
    assert "  teacher " in capsys.readouterr().out
    with served(endpoint.app) as url:
        assert main(["train", str(config(tmp_path, student, url)), "--plan"]) == 0
    assert "  teacher " not in capsys.readouterr().out
