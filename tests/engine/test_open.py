"""Whatever names a model opens it, and what cannot be opened is one clear error."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from openqwq.engine import llamacpp
from openqwq.engine.engine import Engine
from openqwq.engine.open import EngineName, open_model
from openqwq.engine.packed import PackedModel
from openqwq.model import checkpoint, gguf
from openqwq.model.precision import has_bf16
from openqwq.model.qwen2 import Qwen2
from openqwq.text.gguf import to_metadata
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import OpenQwQError, SamplingParams


@pytest.fixture
def directory(build: Callable[..., Qwen2], tokenizer: Tokenizer, tmp_path: Path) -> Path:
    checkpoint.save(build(), tmp_path / "small", tokenizer)
    return tmp_path / "small"


@pytest.fixture
def file(build: Callable[..., Qwen2], tokenizer: Tokenizer, tmp_path: Path) -> Path:
    gguf.save(build(), tmp_path / "small.gguf", "F32", to_metadata(tokenizer, 300))
    return tmp_path / "small.gguf"


def greedy(name: str, engine: EngineName = "auto") -> list[int]:
    model = open_model(name, engine, slots=1, context_length=64)
    try:
        params = SamplingParams(0.0, max_tokens=8)
        return asyncio.run(model.generate.generate([70, 80], params))[0].token_ids
    finally:
        model.close()


def test_a_directory_and_a_file_of_the_same_weights_say_the_same(
    directory: Path, file: Path
) -> None:
    assert greedy(str(directory)) == greedy(str(file)) == greedy(str(file), "torch")


@pytest.mark.parametrize(
    ("kind", "engine", "why"),
    [
        ("F32", "torch", "torch: the weights of small.gguf are not quantised"),
        ("Q8_0", "llamacpp", "llamacpp: it runs weights in Q8_0 as they are"),
    ],
)
def test_the_engine_is_chosen_by_what_the_file_holds(
    kind: str,
    engine: str,
    why: str,
    build: Callable[..., Qwen2],
    tokenizer: Tokenizer,
    tmp_path: Path,
) -> None:
    if not llamacpp.installed():
        pytest.skip("needs llama.cpp: pip install xllamacpp")
    gguf.save(build(), tmp_path / "small.gguf", kind, to_metadata(tokenizer, 300))
    model = open_model(str(tmp_path / "small.gguf"), slots=1)
    assert (model.engine, model.why, model.name) == (engine, why, "small")
    assert model.context_length == build().config.max_position_embeddings
    model.close()


def test_without_llama_cpp_quantised_files_are_unpacked(
    build: Callable[..., Qwen2],
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gguf.save(build(), tmp_path / "small.gguf", "Q8_0", to_metadata(tokenizer, 300))
    monkeypatch.setitem(__import__("sys").modules, "xllamacpp", None)
    model = open_model(str(tmp_path / "small.gguf"), slots=1, context_length=64)
    assert model.engine == "torch" and "xllamacpp is not installed" in model.why
    model.close()
    with pytest.raises(OpenQwQError, match=r"needs the package xllamacpp .*pip install"):
        open_model(str(tmp_path / "small.gguf"), "llamacpp", slots=1, context_length=64)


def test_a_directory_with_one_gguf_file_opens_it(file: Path) -> None:
    assert greedy(str(file.parent)) == greedy(str(file))


def test_a_context_is_never_longer_than_the_models(directory: Path) -> None:
    for asked, given in ((None, 32768), (64, 64)):
        model = open_model(str(directory), slots=1, context_length=asked)
        assert model.context_length == given
        model.close()
    for asked in (0, -1, 10**6):
        with pytest.raises(
            OpenQwQError, match=f"context length is {asked}: it .*own, 32768"
        ):
            open_model(str(directory), slots=1, context_length=asked)


BAD = {
    "a/b/c": "a/b/c does not exist: name a checkpoint directory, a GGUF file, a hub id",
    "missing.gguf": "missing.gguf does not exist",
    "owner/name": "owner/name (not a path on this machine) is not in the hub's cache, and the hub",
    "owner/name:Q4": "owner/name (not a path on this machine)",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_nowhere_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OpenQwQError) as refusal:
        open_model(name)
    assert BAD[name] in str(refusal.value)


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(OpenQwQError, match=r"holds no config.json and 0 GGUF files"):
        open_model(str(tmp_path))


def test_an_engine_that_cannot_run_it_says_what_would_help(
    directory: Path, file: Path
) -> None:
    with pytest.raises(
        OpenQwQError, match=r"llamacpp cannot run .*small: make a GGUF file of it"
    ):
        open_model(str(directory), "llamacpp")
    with pytest.raises(
        OpenQwQError, match=r"small.gguf is not a URL: the engine remote needs one"
    ):
        open_model(str(file), "remote")
    with pytest.raises(
        OpenQwQError, match="engine torch cannot run http://x: a URL is asked"
    ):
        open_model("http://x", "torch")


@pytest.mark.skipif(not has_bf16(), reason="needs a CPU that multiplies in bf16")
def test_weights_are_held_in_the_precision_asked_for(directory: Path, file: Path) -> None:
    for path in (directory, file):
        model = open_model(str(path), "torch", slots=1, context_length=64, precision="bf16")
        assert isinstance(model.generate, Engine)
        assert isinstance(model.generate.model, PackedModel)
        assert model.generate.model.head.weight.dtype == torch.bfloat16
        model.close()


def test_a_precision_or_a_device_that_cannot_be_had_is_refused(
    directory: Path, build: Callable[..., Qwen2], tokenizer: Tokenizer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    gguf.save(build(), tmp_path / "q8.gguf", "Q8_0", to_metadata(tokenizer, 300))
    monkeypatch.setattr(llamacpp, "installed", lambda: True)
    for name in ("http://127.0.0.1:1", str(tmp_path / "q8.gguf")):
        with pytest.raises(OpenQwQError, match="precision bf16 is for the engine torch"):
            open_model(name, precision="bf16")
        with pytest.raises(OpenQwQError, match="device cuda is for the engine torch"):
            open_model(name, device="cuda")
    monkeypatch.setattr("openqwq.model.precision.has_bf16", lambda: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(OpenQwQError, match="this machine does not multiply in it"):
        open_model(str(directory), precision="bf16")
    with pytest.raises(OpenQwQError, match=r"the device is cuda, but .* sees no GPU here"):
        open_model(str(directory), device="cuda")


def test_a_tokenizer_of_another_model_is_refused(
    build: Callable[..., Qwen2], tmp_path: Path
) -> None:
    words = [f"{chr(97 + i)}{chr(97 + j)}x " for i in range(26) for j in range(26)]
    larger = Tokenizer.train(words * 2, 400)
    assert larger.vocab_size > 300
    checkpoint.save(build(), tmp_path / "model", larger)
    with pytest.raises(
        OpenQwQError, match=r"has ids up to \d+ but the model's vocab_size is 300"
    ):
        open_model(str(tmp_path / "model"))
    metadata = to_metadata(larger, larger.vocab_size)
    gguf.save(build(), tmp_path / "model.gguf", "F32", metadata)
    for engine in ("torch", "llamacpp"):
        with pytest.raises(OpenQwQError, match=r"vocab_size is 300"):
            open_model(str(tmp_path / "model.gguf"), engine)  # type: ignore[arg-type]


def test_a_file_that_is_no_gguf_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("This is no model." * 9)
    with pytest.raises(
        OpenQwQError, match=r"text.gguf is not a GGUF file of version 2 or 3"
    ):
        open_model(str(tmp_path / "text.gguf"))


def test_a_file_without_a_tokenizer_is_named(
    build: Callable[..., Qwen2], tmp_path: Path
) -> None:
    gguf.save(build(), tmp_path / "bare.gguf", "F32", {})
    with pytest.raises(
        OpenQwQError, match=r"bare.gguf has a tokenizer of model None and pre None"
    ):
        open_model(str(tmp_path / "bare.gguf"))
