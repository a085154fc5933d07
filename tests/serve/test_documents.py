"""What docs/serving.md says is what the server does."""

import json
from pathlib import Path

import httpx
import pytest
import torch

from openqwq.model import checkpoint
from openqwq.model.attention import RaggedAttention, positions
from openqwq.serve.leniency import table, with_tables
from openqwq.types import OpenQwQError

DOCS = Path(__file__).parents[2] / "docs" / "serving.md"
CLIENTS = Path(__file__).with_name("clients")


def test_the_table_of_what_is_read_is_up_to_date() -> None:
    text = DOCS.read_text()
    assert with_tables(text) == text, (
        "run: python -m openqwq.serve.leniency docs/serving.md"
    )
    assert "`frequency_penalty`" in table() and "`metadata`" in table()


def test_a_text_without_the_marks_is_refused() -> None:
    with pytest.raises(OpenQwQError, match="lacks the marks"):
        with_tables("nothing")


def test_every_client_of_the_matrix_is_named() -> None:
    text = DOCS.read_text().lower().replace(" ", "").replace("-", "")
    scripts = [*CLIENTS.glob("python/*.py"), *CLIENTS.glob("js/*.mjs")]
    missing = [path.stem for path in scripts if path.stem.replace("_", "") not in text]
    assert not missing


def test_the_versions_of_the_matrix_are_those_that_ran() -> None:
    text = DOCS.read_text()
    recorded = json.loads((CLIENTS / "versions.json").read_text())
    assert len(recorded) > 10
    for client, run in recorded.items():
        assert run["version"].rpartition(" ")[2] in text, client
        assert run["date"] in text, client


def embed(server: object, **more: object) -> httpx.Response:
    body = {"model": "tiny", "input": "the fox", **more}
    return httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=60)  # type: ignore[attr-defined]


def test_an_embedding_is_the_mean_of_the_last_states(tiny: object, saved: Path) -> None:
    answer = embed(tiny, input=["the fox", "the lazy dog"]).json()
    model = checkpoint.load(saved)
    ids = tiny.model.tokenizer.encode("the fox")  # type: ignore[attr-defined]
    with torch.inference_mode():
        hidden = model(
            torch.tensor(ids), positions([len(ids)]), RaggedAttention([len(ids)])
        )
    mean = hidden.mean(0)
    first, second = (entry["embedding"] for entry in answer["data"])
    assert (
        first == pytest.approx((mean / mean.norm()).tolist(), abs=1e-4) and first != second
    )
    assert answer["usage"]["prompt_tokens"] > len(ids)
    assert isinstance(
        embed(tiny, encoding_format="base64").json()["data"][0]["embedding"], str
    )
    assert embed(tiny, input="").status_code == 400


def test_a_vector_has_the_models_width_and_many_come_at_once(tiny: object) -> None:
    many = embed(tiny, input=["the"] * 300, dimensions=16).json()["data"]
    assert [entry["index"] for entry in many] == list(range(300))
    assert len(many[-1]["embedding"]) == 16
    refused = embed(tiny, dimensions=8)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "dimensions"
    assert "have 16" in refused.json()["error"]["message"]


def test_an_engine_without_states_has_no_embeddings(
    scripted: object, serve: object
) -> None:
    with serve(scripted("x")) as server:  # type: ignore[operator]
        refused = embed(server, model="scripted")
    assert (
        refused.status_code == 404
        and "no embeddings here" in refused.json()["error"]["message"]
    )
