"""GGUF files: every quantisation, both architectures, a real checkpoint, and damaged files."""

import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.gguf_writer import GGUFWriter
from gguf.quants import dequantize

from openqwq.model.attention import RaggedAttention, positions
from openqwq.model.gguf import (
    READ_TYPES,
    WRITTEN_TYPES,
    add_metadata,
    gguf_name,
    load,
    save,
)
from openqwq.model.gguf_header import read_header
from openqwq.model.qwen2 import Qwen2
from openqwq.model.rope import Llama3Scaling, YarnScaling
from openqwq.types import OpenQwQError

TOKENIZER = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["a", "Ġb", "é😀", ""],
    "tokenizer.ggml.token_type": [1, 1, 1, 3],
    "tokenizer.ggml.scores": [0.1, -1e-05, 0.0, 2.0],
    "tokenizer.ggml.eos_token_id": 3,
    "tokenizer.ggml.add_bos_token": False,
}
METADATA: dict[str, Any] = {
    "general.architecture": "qwen2",
    "qwen2.context_length": 64,
    "qwen2.embedding_length": 256,
    "qwen2.feed_forward_length": 512,
    "qwen2.block_count": 1,
    "qwen2.attention.head_count": 4,
    "qwen2.attention.head_count_kv": 2,
    "qwen2.attention.layer_norm_rms_epsilon": 1e-6,
    "qwen2.rope.freq_base": 1e6,
}
LARGE = {
    "vocab_size": 600,  # its embedding is dequantised in three pieces
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 1,
    "head_dim": 64,
    "max_position_embeddings": 64,
}


def random_blocks(kind: GGMLQuantizationType, shape: torch.Size) -> np.ndarray[Any, Any]:
    """A tensor of random bytes, (rows, bytes); blocks whose scale is not finite become zero."""
    block, block_bytes = GGML_QUANT_SIZES[kind]
    blocks = shape.numel() // block
    raw = np.random.default_rng(0).integers(0, 256, (blocks, block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        raw[~np.isfinite(dequantize(raw, kind)).all(1)] = 0
    return raw.reshape(*shape[:-1], -1)


def write(path: Path, metadata: dict[str, Any], tensors: dict[str, Any]) -> Path:
    """A file of these metadata and (kind, rows of bytes) tensors, by the library's own writer."""
    writer = GGUFWriter(path, metadata["general.architecture"])
    add_metadata(
        writer, {key: value for key, value in metadata.items() if value is not None}
    )
    for name, (kind, rows) in tensors.items():
        writer.add_tensor(name, rows, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors_of(model: Qwen2, kind: str) -> dict[str, Any]:
    """Random tensors of every name and shape of `model`."""
    vector, matrix = GGMLQuantizationType.F32, GGMLQuantizationType[kind]
    return {
        gguf_name(name): (
            own := vector if p.dim() == 1 else matrix,
            random_blocks(own, p.shape),
        )
        for name, p in model.named_parameters()
    }


def same_weights(first: Qwen2, second: Qwen2) -> bool:
    pairs = zip(first.named_parameters(), second.named_parameters(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("kind", READ_TYPES)
def test_every_quantisation_equals_the_reference_bit_for_bit(
    kind: str, make_model: Callable[..., Qwen2], tmp_path: Path
) -> None:
    tensors = tensors_of(make_model(**LARGE), kind)
    model = load(write(tmp_path / "model.gguf", METADATA, tensors))
    for name, parameter in model.named_parameters():
        own, rows = tensors[gguf_name(name)]
        expected = dequantize(rows, own).reshape(parameter.shape)
        assert np.array_equal(parameter.detach().numpy().view("i4"), expected.view("i4")), (
            name
        )
        assert parameter.detach().any()


def test_what_is_saved_in_fp32_loads_unchanged(model: Qwen2, tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.gguf"
    if model.config.family == "qwen2" and model.config.head_dim == 16:
        with pytest.raises(OpenQwQError, match=r"llama.cpp cannot load such a Qwen2"):
            save(model, path, "F32", {})
        return
    save(model, path, "F32", TOKENIZER)
    loaded = load(path)
    assert loaded.config == model.config and same_weights(loaded, model)
    metadata = read_header(path).metadata
    # False is not 0
    assert repr({key: metadata[key] for key in TOKENIZER}) == repr(TOKENIZER)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("kind", WRITTEN_TYPES)
def test_what_is_quantised_loads_nearly_unchanged(
    kind: str, make_model: Callable[..., Qwen2], tmp_path: Path
) -> None:
    model = make_model(**LARGE)
    save(model, tmp_path / "model.gguf", kind, {})
    header = read_header(tmp_path / "model.gguf")
    assert {t.kind.name for t in header.tensors.values()} == {kind, "F32"}
    largest = max(p.abs().max().item() for p in model.parameters() if p.dim() == 2)
    tolerance = largest * {"4": 1 / 8, "5": 1 / 16, "8": 1 / 127}.get(kind[1], 1 / 256)
    for (name, before), after in zip(
        model.named_parameters(), load(tmp_path / "model.gguf").parameters(), strict=True
    ):
        assert (before - after).abs().max() <= (tolerance if before.dim() == 2 else 0), name


def test_rows_that_are_no_whole_blocks_are_stored_in_f16(
    make_model: Callable[..., Qwen2], tmp_path: Path
) -> None:
    save(make_model(), tmp_path / "model.gguf", "Q8_0", {})
    tensors = read_header(tmp_path / "model.gguf").tensors
    assert tensors["blk.0.ffn_up.weight"].kind.name == "Q8_0"
    assert tensors["blk.0.ffn_down.weight"].kind.name == "F16"  # 48 columns


def test_weights_are_cast_on_loading(qwen2: Qwen2, tmp_path: Path) -> None:
    save(qwen2, tmp_path / "model.gguf", "F32", {})
    assert same_weights(load(tmp_path / "model.gguf", torch.bfloat16), qwen2.bfloat16())


def test_a_real_llama_checkpoint_predicts_sensible_text(smollm2: Path) -> None:
    """Quantised by others; wrong rows, rotation or norms would say noise."""
    tokens = read_header(smollm2).metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == 49152
    ids = [tokens.index(text) for text in ["The", "Ġcapital", "Ġof", "ĠFrance", "Ġis"]]
    model = load(smollm2)
    with torch.no_grad():
        hidden = model(torch.tensor(ids), positions([5]), RaggedAttention([5]))
        probabilities = model.logits(hidden).softmax(-1)
    assert tokens[probabilities[-1].argmax()] == "ĠParis" and probabilities[-1].max() > 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "gemma"}, "'gemma': supported are qwen2, qwen3, llama"),
        ({"qwen2.block_count": None}, "qwen2 metadata has block_count = None: it must be"),
        ({"qwen2.attention.layer_norm_rms_epsilon": "x"}, "layer_norm_rms_epsilon = 'x'"),
        ({"qwen2.attention.head_count_kv": 3}, "4 attention heads, 3 key-value heads"),
        ({"qwen2.rope.dimension_count": 32}, "rope.dimension_count = 32: it must be 64"),
        ({"qwen2.attention.sliding_window": 9}, "attention.sliding_window = 9"),
        ({"qwen2.expert_count": 8}, "expert_count = 8"),
        ({"qwen2.rope.scaling.type": "linear"}, "rope scaling 'linear': supported is yarn"),
        ({"qwen2.block_count": 2}, "lacks tensor(s) blk.1.attn_k.bias, "),
        (
            {"qwen2.feed_forward_length": 256},
            "blk.0.ffn_gate.weight as F32 [512, 256]: it must be",
        ),
        ({"general.alignment": 0}, "general.alignment = 0"),
    ],
)
def test_metadata_that_we_cannot_honour_is_refused(
    changes: dict[str, Any], message: str, make_model: Callable[..., Qwen2], tmp_path: Path
) -> None:
    path = write(
        tmp_path / "model.gguf", METADATA | changes, tensors_of(make_model(**LARGE), "F32")
    )
    with pytest.raises(OpenQwQError) as refusal:
        load(path)
    assert message in str(refusal.value) and str(path) in str(refusal.value)


def test_yarn_is_read_from_metadata(
    make_model: Callable[..., Qwen2], tmp_path: Path
) -> None:
    yarn = {"qwen2.rope.scaling.type": "yarn", "qwen2.rope.scaling.factor": 2.0}
    path = write(
        tmp_path / "m.gguf", METADATA | yarn, tensors_of(make_model(**LARGE), "F16")
    )
    assert load(path).config.rope_scaling == YarnScaling(2.0, 64)


@pytest.mark.parametrize(
    "scaling",
    [
        Llama3Scaling(8.0, 8192),
        Llama3Scaling(32.0, 8192),
        Llama3Scaling(4.0, 300, 1.0, 2.5),
    ],
)
def test_llama3_scaling_survives_a_gguf_file(
    scaling: Llama3Scaling, make_model: Callable[..., Qwen2], tmp_path: Path
) -> None:
    """The file holds a factor for each pair, from which the scaling is found again."""
    model = make_model(
        **LARGE, attention_bias=False, rope_scaling=scaling, rope_theta=500_000.0
    )
    save(model, tmp_path / "m.gguf", "F16", {})
    assert load(tmp_path / "m.gguf").config.rope_scaling == scaling


def test_rope_factors_that_no_scaling_gives_are_refused(
    make_model: Callable[..., Qwen2], tmp_path: Path
) -> None:
    tensors = tensors_of(make_model(**LARGE, attention_bias=False), "F16")
    rows = np.linspace(1, 8, 32, dtype=np.float32).view(np.uint8)[None]
    tensors["rope_freqs.weight"] = GGMLQuantizationType.F32, rows.reshape(-1)
    llama = {key.replace("qwen2", "llama"): value for key, value in METADATA.items()}
    llama["general.architecture"] = "llama"
    with pytest.raises(
        OpenQwQError, match=r"rope_freqs.weight that no llama3 scaling gives"
    ):
        load(write(tmp_path / "m.gguf", llama, tensors))


def test_llama3_scaling_of_a_qwen_model_is_refused_as_gguf(
    make_model: Callable[..., Qwen2], tmp_path: Path
) -> None:
    model = make_model(rope_scaling=Llama3Scaling(8.0, 64))
    with pytest.raises(OpenQwQError, match=r"qwen2 model has the rope scaling llama3"):
        save(model, tmp_path / "m.gguf", "F16", {})


def test_a_quantisation_that_we_cannot_read_is_named(
    make_model: Callable[..., Qwen2], tmp_path: Path
) -> None:
    tensors = tensors_of(make_model(**LARGE), "F16")
    kind = GGMLQuantizationType.IQ4_NL
    tensors["output.weight"] = kind, random_blocks(kind, torch.Size((600, 256)))
    with pytest.raises(
        OpenQwQError, match=r"output.weight as IQ4_NL .* in one of F32, F16, BF16"
    ):
        load(write(tmp_path / "model.gguf", METADATA, tensors))


@pytest.fixture
def saved(qwen2: Qwen2, tmp_path: Path) -> Path:
    save(qwen2, tmp_path / "model.gguf", "F32", TOKENIZER)
    return tmp_path / "model.gguf"


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(old, new, 1)


TENSOR = struct.pack("<Q", 18) + b"output_norm.weight" + struct.pack("<IQ", 1, 32)
DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "cannot read"),
    "wrong magic": (replaced(b"GGUF", b"GGML"), "not a GGUF file of version 2 or 3"),
    "version 1": (replaced(b"GGUF\x03", b"GGUF\x01"), "not a GGUF file of version 2 or 3"),
    "cut in the magic": (lambda data: data[:10], "cannot read"),
    "cut in a string": (lambda data: data[:40], "cannot read"),
    "cut in the tokens": (lambda data: data[: data.index(b"\xc4\xa0b")], "cannot read"),
    "cut in the tensors": (
        lambda data: data[: data.index(b"output_norm") + 30],
        "cannot read",
    ),
    "cut in the weights": (lambda data: data[:-100], "would end after the file's"),
    "endless string": (
        replaced(struct.pack("<Q", 18), b"\xff" * 8),
        "bytes begins at byte",
    ),
    "not UTF-8": (replaced("é".encode(), b"\xff\xff"), "utf-8"),
    "unknown value type": (
        replaced(
            b"token_type" + struct.pack("<I", 9), b"token_type" + struct.pack("<I", 99)
        ),
        "99 is not a valid GGUFValueType",
    ),
    "endless array": (
        replaced(struct.pack("<IQ", 5, 4), struct.pack("<IQ", 5, 2**62)),
        "cannot read",
    ),
    "arrays of arrays": (
        replaced(struct.pack("<IQ", 5, 4), struct.pack("<IQ", 9, 4)),
        "arrays of",
    ),
    "unknown tensor type": (
        replaced(TENSOR + struct.pack("<I", 0), TENSOR + struct.pack("<I", 99)),
        "99 is not a valid GGMLQuantizationType",
    ),
    "half a block": (
        replaced(TENSOR + struct.pack("<I", 0), TENSOR[:-8] + struct.pack("<QI", 33, 8)),
        "rows of output_norm.weight do not fill whole Q8_0 blocks",
    ),
    "billions of layers": (
        replaced(
            b"block_count" + struct.pack("<II", 4, 2),
            b"block_count" + b"\x04\0\0\0\xff\xff\xff\xff",
        ),
        "27 tensors for 4294967295 layers",
    ),
    "unknown tensor": (
        replaced(b"output_norm.", b"output_form."),
        "lacks .*output_norm.weight",
    ),
    "two of one name": (
        replaced(b"blk.1.attn_q.w", b"blk.0.attn_q.w"),
        "two tensors have one",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_by_name(damage: str, saved: Path) -> None:
    change, message = DAMAGE[damage]
    saved.write_bytes(change(saved.read_bytes()))
    with pytest.raises(OpenQwQError, match=message) as refusal:
        load(saved)
    assert str(saved) in str(refusal.value)


def test_no_cut_of_a_file_escapes_as_another_error(saved: Path) -> None:
    data = saved.read_bytes()
    for length in range(0, 3000, 29):
        saved.write_bytes(data[:length])
        with pytest.raises(OpenQwQError):
            read_header(saved)


def test_a_missing_file_or_a_directory_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(OpenQwQError, match=f"cannot read {path}"):
            load(path)


def test_saving_refuses_what_it_cannot_do(
    saved: Path, qwen2: Qwen2, tmp_path: Path
) -> None:
    with pytest.raises(OpenQwQError, match=r"model.gguf exists already"):
        save(qwen2, saved, "F32", {})
    with pytest.raises(
        OpenQwQError, match=r"cannot write Q4_K: supported are F32, F16, BF16"
    ):
        save(qwen2, tmp_path / "other.gguf", "Q4_K", {})


# the header needs 3,000 bytes, the rest 80,000
@pytest.mark.parametrize("room", [1000, 20_000])
def test_a_full_disk_is_reported_and_leaves_nothing(
    room: int, qwen2: Qwen2, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(OpenQwQError, match=r"cannot write .*: .*; free space"):
            save(qwen2, tmp_path / "model.gguf", "F32", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
