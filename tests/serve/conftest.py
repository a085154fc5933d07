"""Tiny models, and one that says what it is told, behind a real server on a loopback port."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
import uvicorn
from scripted import Scripted

from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.engine.open import OpenedModel, open_model
from openqwq.model import checkpoint, gguf
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.serve.catalogue import Catalogue
from openqwq.serve.server import Server, ServerOptions
from openqwq.text.gguf import to_metadata
from openqwq.text.tokenizer import Tokenizer

TEXT = "the quick brown fox jumps over the lazy dog\n\n"


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT] * 4, 300)


@pytest.fixture
def scripted(tokenizer: Tokenizer) -> Callable[..., OpenedModel]:
    def scripted(*texts: str, delay: float = 0.0, context: int = 4096) -> OpenedModel:
        engine = Scripted(tokenizer, texts, delay)
        return OpenedModel("scripted", engine, tokenizer, context, "torch", "a test")

    return scripted


def random_weights(tokenizer: Tokenizer) -> Qwen2:
    config = ModelConfig(tokenizer.vocab_size, 16, 32, 1, 2, 1, 8, tie_word_embeddings=True)
    weights = Qwen2(config)
    weights.initialise(torch.Generator().manual_seed(0), std=0.3)
    with torch.no_grad():  # never among the likeliest 40: replies turn where a test says so
        weights.model.embed_tokens.weight[list(tokenizer.added_tokens.values())] = 0
    return weights


def random_model(tokenizer: Tokenizer, slots: int = 4, length: int = 2048) -> OpenedModel:
    weights = random_weights(tokenizer)
    engine = Engine(weights, tokenizer, EngineLimits(slots, length, 256, slots))
    return OpenedModel("tiny", engine, tokenizer, length, "torch", "a test")


@dataclass(frozen=True)
class Running:
    """A server of its own thread."""

    url: str
    port: int
    server: Server
    model: Any

    def metric(self, name: str) -> float:
        return self.server.running.registry.get_sample_value(name) or 0.0

    def wait_until_idle(self, seconds: float = 60.0) -> None:
        """Fails unless every place is free soon."""
        end = time.monotonic() + seconds
        while self.server.running.admitted or self.server.running.steering:
            assert time.monotonic() < end, (
                f"{self.server.running.admitted} places are not freed"
            )
            time.sleep(0.01)


@contextmanager
def running(
    model: OpenedModel | Catalogue, options: ServerOptions | None = None
) -> Iterator[Running]:
    server = Server(model, options or ServerOptions(slots=4))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        config = uvicorn.Config(server.app(), log_level="error", http="h11", lifespan="off")
        config.timeout_graceful_shutdown = 5  # a test that fails leaves streams open
        own = uvicorn.Server(config)
        thread = threading.Thread(target=own.run, kwargs={"sockets": [listener]})
        thread.start()
        while not own.started:
            time.sleep(0.01)
        try:
            yield Running(f"http://127.0.0.1:{port}", port, server, model)
        finally:
            own.should_exit = True
            thread.join()
            model.close()


@pytest.fixture(scope="session")
def tiny(tokenizer: Tokenizer) -> Iterator[Running]:
    """The random model, served without a key."""
    with running(random_model(tokenizer)) as server:
        yield server


@pytest.fixture(scope="session", params=["torch", "llamacpp"])
def either_server(
    request: pytest.FixtureRequest,
    tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Running]:
    """The random model on our own engine, and the same weights on llama.cpp."""
    if request.param == "torch":
        model = random_model(tokenizer)
    else:
        pytest.importorskip("xllamacpp")
        weights = random_weights(tokenizer)
        path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
        gguf.save(weights, path, "F32", to_metadata(tokenizer, weights.config.vocab_size))
        model = open_model(str(path), "llamacpp", slots=4, context_length=2048)
        model = replace(model, name="tiny")
    with running(model) as server:
        yield server


@pytest.fixture
def either(either_server: Running) -> Iterator[openai.OpenAI]:
    """OpenAI's client of `either_server`."""
    url = f"{either_server.url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def saved(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model as a checkpoint directory named `tiny`."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    checkpoint.save(random_weights(tokenizer), folder, tokenizer)
    return folder


@pytest.fixture
def serve() -> Callable[..., object]:
    return running
