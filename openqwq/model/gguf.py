"""GGUF weights of Qwen and Llama models: dequantised on loading, quantised on saving."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BufferedWriter
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.gguf_writer import GGUFWriter, WriterState
from gguf.quants import dequantize, quantize
from torch import Tensor

from openqwq.data.files import open_atomically
from openqwq.model.checkpoint import check_names, empty_model, fill, needed_names
from openqwq.model.gguf_header import (
    ROPE_FACTORS,
    GgufTensor,
    model_config,
    read_header,
    rope_factors,
)
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.model.rope import Llama3Scaling, YarnScaling
from openqwq.types import OpenQwQError

WRITTEN_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
READ_TYPES = (*WRITTEN_TYPES, "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
FP32 = np.dtype(np.float32)
CHUNK = 2**16  # numbers dequantised at a time: what they pass through stays in the cache

GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def load(path: Path | str, dtype: torch.dtype | None = torch.float32) -> Qwen2:
    """The model in a GGUF file, its weights dequantised and cast to `dtype`.

    With None each tensor keeps its own type, and quantised ones become fp32.
    Dequantised numbers are the `gguf` library's own, bit for bit (in fp32). Peak memory is the
    weights and a few megabytes. Raises OpenQwQError as `read_header` and `model_config` do, and
    for a tensor of an unknown name, shape or quantisation.
    """
    file = read_header(path)
    config = model_config(file)
    if config.num_hidden_layers > len(file.tensors):  # a damaged number could be billions
        raise OpenQwQError(
            f"{file.path} has {len(file.tensors)} tensors for {config.num_hidden_layers} layers: "
            "copy it again"
        )
    model = empty_model(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    stored = {gguf_name(name): name for name in needed_names(model)}
    check_names(str(file.path), stored.keys(), file.tensors.keys() - {ROPE_FACTORS})
    for name, shape in shapes.items():
        tensor = file.tensors[gguf_name(name)]
        if tensor.shape != shape or tensor.kind.name not in READ_TYPES:
            raise OpenQwQError(
                f"{file.path} has {gguf_name(name)} as {tensor.kind.name} {list(tensor.shape)}: "
                f"it must be {list(shape)} in one of {', '.join(READ_TYPES)}"
            )
    descriptors = [os.open(part, os.O_RDONLY) for part in file.parts]

    def tensor_of(name: str) -> Tensor:
        described = file.tensors[gguf_name(name)]
        tensor = _dequantised(descriptors[described.part], described, dtype)
        return reordered(name, tensor, config, config.head_dim // 2)

    try:
        # numpy lets go of the GIL
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return fill(model, dict(zip(shapes, pool.map(tensor_of, shapes), strict=True)))
    except OSError as error:
        raise OpenQwQError(f"cannot read {file.path} ({error}): copy it again") from error
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def gguf_name(name: str) -> str:
    """llama.cpp's name of a parameter."""
    module, _, attribute = name.rpartition(".")
    if not module.startswith("model.layers."):
        return f"{GGUF_NAMES[module]}.{attribute}"
    _, _, layer, part = module.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[part]}.{attribute}"


def _dequantised(descriptor: int, tensor: GgufTensor, dtype: torch.dtype | None) -> Tensor:
    block, block_bytes = GGML_QUANT_SIZES[tensor.kind]
    chunk_bytes = CHUNK // block * block_bytes
    own = {"F16": torch.float16, "BF16": torch.bfloat16}.get(
        tensor.kind.name, torch.float32
    )
    result = torch.empty(tensor.shape, dtype=dtype or own)
    for index, part in enumerate(torch.split(result.view(-1), CHUNK)):
        data = bytearray(part.numel() // block * block_bytes)
        os.preadv(descriptor, [data], tensor.offset + index * chunk_bytes)
        numbers = dequantize(np.frombuffer(data, np.uint8)[None], tensor.kind)
        part.copy_(torch.from_numpy(numbers[0]))
    return result


def reordered(name: str, weight: Tensor, config: ModelConfig, outer: int) -> Tensor:
    """Llama's q and k rows in llama.cpp's order (`outer` 2) or back in ours (head_dim / 2).

    llama.cpp rotates coordinates (2i, 2i + 1) of such a head together, we (i, i + head_dim / 2).
    """
    if config.family != "llama" or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return weight
    heads = weight.view(-1, outer, config.head_dim // outer, weight.shape[1])
    return heads.transpose(1, 2).reshape(weight.shape)


def save(
    model: Qwen2,
    path: Path | str,
    kind: str,
    tokenizer_metadata: Mapping[str, Any],
) -> None:
    """Write a file that llama.cpp loads, its matrices in `kind`, one of `WRITTEN_TYPES`.

    Vectors stay F32, and rows that do not fill whole blocks become F16. `tokenizer_metadata`
    holds the file's `tokenizer.*` entries. Raises OpenQwQError if `path` exists or cannot be
    written, and for a `kind` or a shape that cannot be stored.
    """
    target = Path(path)
    if target.exists():
        raise OpenQwQError(f"{target} exists already: name a new file, or remove it")
    if kind not in WRITTEN_TYPES:
        raise OpenQwQError(f"cannot write {kind}: supported are {', '.join(WRITTEN_TYPES)}")
    _check_shape(model.config)
    weights = dict(model.named_parameters())
    kinds = {
        name: _kind_of(weight, GGMLQuantizationType[kind])
        for name, weight in weights.items()
    }
    writer = _writer(model.config, tokenizer_metadata)
    for name, weight in weights.items():
        block, block_bytes = GGML_QUANT_SIZES[kinds[name]]
        size = weight.numel() // block * block_bytes
        writer.add_tensor_info(gguf_name(name), weight.shape, FP32, size, kinds[name])
    factors = rope_factors(model.config)
    if factors is not None:
        writer.add_tensor_info(ROPE_FACTORS, factors.shape, FP32, 4 * factors.numel())

    with open_atomically(target) as file:
        writer.fout = [cast(BufferedWriter, file)]  # the library opens no file of its own
        writer.state = WriterState.EMPTY
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, weight in weights.items():
            numbers = reordered(name, weight.detach().float(), model.config, 2).numpy(
                force=True
            )
            writer.write_tensor_data(quantize(numbers, kinds[name]))
        if factors is not None:
            writer.write_tensor_data(factors.numpy())


def _check_shape(config: ModelConfig) -> None:
    """Raise OpenQwQError for a shape that llama.cpp cannot load."""
    heads = config.num_attention_heads
    hidden = config.hidden_size
    if config.family == "qwen2" and config.head_dim * heads != hidden:
        raise OpenQwQError(
            f"{heads} heads of {config.head_dim} do not make hidden_size {hidden}: llama.cpp "
            "cannot load such a Qwen2, so save safetensors instead"
        )
    if isinstance(config.rope_scaling, Llama3Scaling) and config.family != "llama":
        raise OpenQwQError(
            f"a {config.family} model has the rope scaling llama3: llama.cpp knows it for llama "
            "models only, so save safetensors instead"
        )


def _writer(config: ModelConfig, tokenizer_metadata: Mapping[str, Any]) -> GGUFWriter:
    """A writer that knows a file's metadata."""
    writer = GGUFWriter(None, config.family)
    add_metadata(writer, {**_metadata(config), **tokenizer_metadata})
    return writer


def add_metadata(writer: GGUFWriter, metadata: Mapping[str, Any]) -> None:
    """Give a writer each value in the type that llama.cpp expects; integers are unsigned.

    The architecture is left out: a writer notes it by itself.
    """
    for key, value in metadata.items():
        if key == "general.architecture":
            continue
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        value_type = GGUFValueType.UINT32 if is_integer else GGUFValueType.get_type(value)
        writer.add_key_value(key, value, value_type)


def _kind_of(weight: Tensor, kind: GGMLQuantizationType) -> GGMLQuantizationType:
    if weight.dim() == 1:
        return GGMLQuantizationType.F32
    block_size, _ = GGML_QUANT_SIZES[kind]
    if weight.shape[1] % block_size:
        return GGMLQuantizationType.F16
    return kind


def _metadata(config: ModelConfig) -> dict[str, Any]:
    own: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_theta,
    }
    if isinstance(config.rope_scaling, YarnScaling):
        yarn = config.rope_scaling
        own |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": yarn.factor,
            "rope.scaling.original_context_length": yarn.original_max_position_embeddings,
            "rope.scaling.yarn_beta_fast": yarn.beta_fast,
            "rope.scaling.yarn_beta_slow": yarn.beta_slow,
        }
    return {f"{config.family}.{key}": value for key, value in own.items()}
