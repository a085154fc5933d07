"""Conversions: the same numbers there and back, loaded by transformers and by llama.cpp."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from openqwq.model import checkpoint, gguf
from openqwq.model.attention import RaggedAttention, positions
from openqwq.model.convert import convert
from openqwq.model.gguf_header import read_header
from openqwq.model.qwen2 import Qwen2
from openqwq.model.rope import Llama3Scaling, YarnScaling
from openqwq.text.gguf import from_metadata
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import OpenQwQError

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
NO_BIAS = {"attention_bias": False}
LLAMA3 = Llama3Scaling(8.0, 64)
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "llama": NO_BIAS,
    "qwen3": {**NO_BIAS, "qk_norm": True, "head_dim": 32},
    "llama3": {**NO_BIAS, "rope_theta": 100.0, "rope_scaling": LLAMA3},
    "tied": {"tie_word_embeddings": True},
    "yarn": {"rope_scaling": YarnScaling(4.0, 64)},
}
PROMPT = [70, 200, 3, 120, 121, 90, 14]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the quick brown fox jumps over the lazy dog\n\n"] * 4, 290)


@pytest.fixture
def saved(make_model: Callable[..., Qwen2], tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """An fp32 checkpoint directory."""
    checkpoint.save(make_model(**SHAPE), tmp_path / "source", tokenizer)
    return tmp_path / "source"


def same_weights(first: Qwen2, second: Qwen2) -> bool:
    pairs = zip(first.named_parameters(), second.named_parameters(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def next_log_probs(model: Qwen2) -> torch.Tensor:
    with torch.no_grad():
        hidden = model(
            torch.tensor(PROMPT), positions([len(PROMPT)]), RaggedAttention([len(PROMPT)])
        )
        return model.logits(hidden)[-1].log_softmax(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["qwen2", "llama", "qwen3", "llama3", "tied", "yarn"])
def test_there_and_back_gives_the_same_numbers_tokenizer_and_config(
    kind: str,
    dtype: torch.dtype,
    make_model: Callable[..., Qwen2],
    tokenizer: Tokenizer,
    tmp_path: Path,
) -> None:
    model = make_model(**SHAPE | FAMILIES[kind]).to(dtype)
    checkpoint.save(model, tmp_path / "source", tokenizer)
    there = convert(tmp_path / "source", tmp_path / "model.gguf")
    back = convert(tmp_path / "model.gguf", tmp_path / "back")
    assert there.note == back.note == "the same numbers"
    assert (
        there.type
        == back.type
        == {2: str(dtype)[6] + "16", 4: "f32"}[dtype.itemsize].replace("b16", "bf16")
    )
    loaded = checkpoint.load(tmp_path / "back")
    assert loaded.config == model.config and same_weights(loaded, model.float())
    text = "the fox <think> 12\u0301 😀"
    assert Tokenizer.load(tmp_path / "back").encode(text) == tokenizer.encode(text)
    assert Tokenizer.load(tmp_path / "back").eos_ids == tokenizer.eos_ids
    assert Tokenizer.load(tmp_path / "back").chat_template == tokenizer.chat_template


def test_matrices_keep_their_size(saved: Path, make_model: Callable[..., Qwen2]) -> None:
    half = saved.with_name("half")
    checkpoint.save(make_model(**SHAPE).half(), half, Tokenizer.load(saved))
    convert(half, half.with_suffix(".gguf"))
    convert(half.with_suffix(".gguf"), half.with_name("back"))
    tensors = load_file(half.with_name("back") / "model.safetensors")
    assert {t.dtype for t in tensors.values() if t.dim() == 2} == {torch.float16}


@pytest.mark.parametrize("type_name", [None, "f32", "f16", "q8_0"])
def test_transformers_loads_what_we_write(
    type_name: str | None, saved: Path, logit_gap: Callable[..., float]
) -> None:
    target = saved.with_name("model.gguf")
    done = convert(saved, target, type_name)
    assert done.parameters == sum(p.numel() for p in checkpoint.load(saved).parameters())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        target.parent, gguf_file=target.name, dtype=torch.float32
    )
    assert logit_gap(gguf.load(target), theirs) <= 1e-4
    convert(target, saved.with_name("back"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        saved.with_name("back"), dtype=torch.float32
    )
    assert logit_gap(gguf.load(target), theirs) <= 1e-4


@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen3", "llama3"])
@pytest.mark.parametrize("type_name", ["f32", "f16", "bf16", "q8_0"])
def test_llama_cpp_computes_the_same_from_what_we_write(
    family: str,
    type_name: str,
    make_model: Callable[..., Qwen2],
    tokenizer: Tokenizer,
    tmp_path: Path,
) -> None:
    xllamacpp = pytest.importorskip(
        "xllamacpp", reason="needs llama.cpp: pip install xllamacpp"
    )
    model = make_model(**SHAPE | FAMILIES[family])
    checkpoint.save(model, tmp_path / "source", tokenizer)
    target = tmp_path / "model.gguf"
    convert(tmp_path / "source", target, type_name)
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.verbosity = str(target), 256, -1
    params.warmup, params.cpuparams.n_threads = False, 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    request = {"prompt": PROMPT, "max_tokens": 1, "n_probs": 300, "temperature": 0.0}
    server = xllamacpp.Server(params)
    # Of a token that ends inside a character it says nothing: a letter is forced instead.
    letter = tokenizer.encode("a")[0]
    answer = server.handle_completions(request | {"logit_bias": [[letter, 1000]]})
    (token,) = answer["choices"][0]["logprobs"]["content"]
    theirs = {entry["id"]: entry["logprob"] for entry in token["top_logprobs"]}
    ours = next_log_probs(gguf.load(target))
    assert len(theirs) == 300
    gap = max(abs(ours[i].item() - p) for i, p in theirs.items() if math.isfinite(p))
    assert gap < {"f32": 1e-4, "f16": 1e-2, "bf16": 0.2, "q8_0": 0.3}[type_name]


def test_what_rounds_is_said(saved: Path) -> None:
    assert convert(saved, saved.with_name("a.gguf"), "q8_0").note.startswith(
        "rounded from f32"
    )
    assert convert(saved, saved.with_name("b.gguf"), "f16").note.startswith(
        "rounded from f32"
    )
    assert (
        convert(saved.with_name("a.gguf"), saved.with_name("c")).note == "the same numbers"
    )
    kinds = {t.kind.name for t in read_header(saved.with_name("a.gguf")).tensors.values()}
    assert kinds == {"F32", "Q8_0"}


def test_a_real_quantised_file_becomes_a_directory(smollm2: Path, tmp_path: Path) -> None:
    done = convert(smollm2, tmp_path / "smollm2")
    assert (done.type, done.parameters) == ("f32", 134_515_008)
    tokenizer = Tokenizer.load(tmp_path / "smollm2")
    original = from_metadata(read_header(smollm2).metadata, "")
    assert tokenizer.backend_json() == original.backend_json()
    assert tokenizer.eos_ids == original.eos_ids


def test_bad_requests_are_refused(saved: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    for source, goal in ((saved, tmp_path / "other"), (target, tmp_path / "b.gguf")):
        with pytest.raises(OpenQwQError, match="name a checkpoint directory and a"):
            convert(source, goal)
    with pytest.raises(
        OpenQwQError, match="type 'q4_k' is not possible here: f32, f16, bf16, q8"
    ):
        convert(saved, target, "q4_k")
    convert(saved, target)
    with pytest.raises(
        OpenQwQError, match=r"type 'q8_0' is not possible here: f32, f16, bf16$"
    ):
        convert(target, tmp_path / "x", "q8_0")
    with pytest.raises(OpenQwQError, match=r"model.gguf exists already"):
        convert(saved, target)
    (saved / "tokenizer.json").unlink()
    with pytest.raises(OpenQwQError, match=r"cannot read .*tokenizer.json"):
        convert(saved, tmp_path / "c.gguf")
    assert not (tmp_path / "c.gguf").exists()


def test_a_tokenizer_of_another_model_is_refused(
    make_model: Callable[..., Qwen2], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    checkpoint.save(make_model(**replace_vocabulary(280)), tmp_path / "source", tokenizer)
    with pytest.raises(
        OpenQwQError, match="ids up to 289 but the model's vocab_size is 280"
    ):
        convert(tmp_path / "source", tmp_path / "model.gguf")


def replace_vocabulary(rows: int) -> dict[str, int]:
    return {**SHAPE, "vocab_size": rows}
