"""GGUF files, llama.cpp's format: their metadata, and Qwen2- and Llama-type weights dequantised."""

import math
import mmap
import os
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.gguf_writer import GGUFWriter
from gguf.quants import dequantize, quantize
from torch import Tensor

from openqwq.model.checkpoint import (
    Fields,
    check_names,
    checked,
    empty_model,
    fill,
    flush,
    needed_names,
)
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.model.rope import YarnScaling
from openqwq.types import OpenQwQError

ARCHITECTURES = ("qwen2", "llama")
WRITTEN_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
READ_TYPES = (*WRITTEN_TYPES, "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
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
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
SCALARS = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.FLOAT64: "<f8",
    GGUFValueType.BOOL: "?",
}


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies in its file; `shape` is PyTorch's, the outermost dimension first."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file

    @property
    def size(self) -> int:
        """Length in bytes."""
        block, block_bytes = GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block * block_bytes


@dataclass(frozen=True)
class GgufFile:
    """What a file says before its weights: metadata (tokenizer, template, sizes) and tensors."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_header(path: Path | str) -> GgufFile:
    """Read everything but the weights.

    Raises OpenQwQError if the file is missing, damaged, cut short or no GGUF of version 2 or 3.
    """
    file = Path(path)
    try:
        with (
            file.open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _Header(file, data).read()
    except (OSError, ValueError, struct.error, OverflowError) as error:
        raise OpenQwQError(f"cannot read {file} ({error}): copy it again") from error


class _Header:
    """A GGUF header as it is read; `offset` is the next byte (the format: ggml's docs/gguf.md)."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.offset = path, data, 0

    def read(self) -> GgufFile:
        """Magic, version, counts, metadata, tensor descriptions, then the aligned weights."""
        magic, version, tensor_count, metadata_count = self.take("4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise OpenQwQError(f"{self.path} is no GGUF file of version 2 or 3: convert it anew")
        metadata = {}
        for _ in range(metadata_count):
            key, (kind,) = self.text(), self.take("I")
            metadata[key] = self.value(GGUFValueType(kind))
        described = {}
        for _ in range(tensor_count):
            name, (dimensions,) = self.text(), self.take("I")
            shape = self.take(f"{dimensions}Q")[::-1]
            described[name] = (shape, *self.take("IQ"))
        if len(described) != tensor_count:
            raise ValueError("two tensors have one name")
        alignment = Fields(metadata, str(self.path)).integer("general.alignment", 32)
        start = -(-self.offset // alignment) * alignment
        tensors = {}
        for name, (shape, kind, offset) in described.items():
            tensor = GgufTensor(GGMLQuantizationType(kind), shape, start + offset)
            if shape and shape[-1] % GGML_QUANT_SIZES[tensor.kind][0]:
                raise ValueError(f"the rows of {name} are no whole {tensor.kind.name} blocks")
            if tensor.offset + tensor.size > len(self.data):
                raise ValueError(f"{name} would end after the file's {len(self.data)} bytes")
            tensors[name] = tensor
        return GgufFile(self.path, metadata, tensors)

    def take(self, layout: str) -> tuple[Any, ...]:
        """Little-endian values; `layout` as in `struct`."""
        values = struct.unpack_from("<" + layout, self.data, self.offset)
        self.offset += struct.calcsize("<" + layout)
        return values

    def text(self) -> str:
        """A string behind its length."""
        (length,) = self.take("Q")
        if length > len(self.data) - self.offset:
            raise ValueError(f"a string of {length} bytes begins at byte {self.offset}")
        self.offset += length
        return self.data[self.offset - length : self.offset].decode()

    def value(self, kind: GGUFValueType) -> Any:
        """A metadata value."""
        if kind is GGUFValueType.STRING:
            return self.text()
        if kind is not GGUFValueType.ARRAY:
            return self.numbers(kind, 1)[0]
        item, count = self.take("IQ")
        if item == GGUFValueType.STRING:
            return [self.text() for _ in range(count)]
        return self.numbers(GGUFValueType(item), count)

    def numbers(self, kind: GGUFValueType, count: int) -> list[Any]:
        """`count` numbers; those in fp32 become the shortest decimal that means the same."""
        if kind is GGUFValueType.ARRAY:
            raise ValueError(f"arrays of arrays, as at byte {self.offset}, are not supported")
        values = np.frombuffer(self.data, SCALARS[kind], count, self.offset)
        self.offset += values.nbytes
        is_single = kind is GGUFValueType.FLOAT32
        return [float(str(v)) for v in values] if is_single else values.tolist()


def model_config(file: GgufFile) -> ModelConfig:
    """The shape that a file's metadata states; raises OpenQwQError as `parse_config` does."""
    architecture = file.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise OpenQwQError(
            f"{file.path} has general.architecture = {architecture!r}: supported are "
            + ", ".join(ARCHITECTURES)
        )
    prefix = f"{architecture}."
    own = {k.removeprefix(prefix): v for k, v in file.metadata.items() if k.startswith(prefix)}
    fields = Fields(own, f"{file.path}'s {architecture} metadata")
    hidden, heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    head_dim = fields.integer("attention.key_length", hidden // heads)
    for name, supported in {
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        "attention.sliding_window": None,
        "rope.scale_linear": 1.0,
        "expert_count": 0,
    }.items():
        fields.require(name, supported)
    embedding = file.tensors.get("token_embd.weight")
    return checked(
        ModelConfig(
            vocab_size=fields.integer("vocab_size", embedding.shape[0] if embedding else None),
            hidden_size=hidden,
            intermediate_size=fields.integer("feed_forward_length"),
            num_hidden_layers=fields.integer("block_count"),
            num_attention_heads=heads,
            num_key_value_heads=fields.integer("attention.head_count_kv", heads),
            head_dim=head_dim,
            rms_norm_eps=fields.number("attention.layer_norm_rms_epsilon"),
            rope_theta=fields.number("rope.freq_base", 10_000.0),
            max_position_embeddings=fields.integer("context_length"),
            tie_word_embeddings="output.weight" not in file.tensors,
            attention_bias=architecture == "qwen2",
            yarn=_yarn(fields),
        ),
        str(file.path),
    )


def _yarn(fields: Fields) -> YarnScaling | None:
    kind = fields.values.get("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind != "yarn":
        raise OpenQwQError(f"{fields.source} has rope scaling {kind!r}: supported is yarn")
    fields.require("rope.scaling.attn_factor", 1.0)
    fields.require("rope.scaling.yarn_attn_factor", 1.0)
    fields.require("rope.scaling.yarn_ext_factor", 1.0)
    length = fields.integer("context_length")
    return YarnScaling(
        fields.number("rope.scaling.factor"),
        fields.integer("rope.scaling.original_context_length", length),
        fields.number("rope.scaling.yarn_beta_fast", 32.0),
        fields.number("rope.scaling.yarn_beta_slow", 1.0),
    )


def load(path: Path | str, dtype: torch.dtype = torch.float32) -> Qwen2:
    """The model in a GGUF file, its weights dequantised and cast to `dtype`.

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
    check_names(str(file.path), stored.keys(), file.tensors.keys())
    for name, shape in shapes.items():
        tensor = file.tensors[gguf_name(name)]
        if tensor.shape != shape or tensor.kind.name not in READ_TYPES:
            raise OpenQwQError(
                f"{file.path} has {gguf_name(name)} as {tensor.kind.name} {list(tensor.shape)}: "
                f"it must be {list(shape)} in one of {', '.join(READ_TYPES)}"
            )
    descriptor = os.open(file.path, os.O_RDONLY)

    def tensor_of(name: str) -> Tensor:
        tensor = _dequantised(descriptor, file.tensors[gguf_name(name)], dtype)
        return _reordered(name, tensor, config, config.head_dim // 2)

    try:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # numpy lets go of the GIL
            return fill(model, dict(zip(shapes, pool.map(tensor_of, shapes), strict=True)))
    except OSError as error:
        raise OpenQwQError(f"cannot read {file.path} ({error}): copy it again") from error
    finally:
        os.close(descriptor)


def gguf_name(name: str) -> str:
    """llama.cpp's name of a parameter."""
    module, _, attribute = name.rpartition(".")
    if not module.startswith("model.layers."):
        return f"{GGUF_NAMES[module]}.{attribute}"
    _, _, layer, part = module.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[part]}.{attribute}"


def _dequantised(descriptor: int, tensor: GgufTensor, dtype: torch.dtype) -> Tensor:
    block, block_bytes = GGML_QUANT_SIZES[tensor.kind]
    chunk_bytes = CHUNK // block * block_bytes
    result = torch.empty(tensor.shape, dtype=dtype)
    for index, part in enumerate(torch.split(result.view(-1), CHUNK)):
        data = bytearray(part.numel() // block * block_bytes)
        os.preadv(descriptor, [data], tensor.offset + index * chunk_bytes)
        numbers = dequantize(np.frombuffer(data, np.uint8)[None], tensor.kind)
        part.copy_(torch.from_numpy(numbers[0]))
    return result


def _reordered(name: str, weight: Tensor, config: ModelConfig, outer: int) -> Tensor:
    """Llama's q and k rows in llama.cpp's order (`outer` 2) or back in ours (head_dim / 2).

    llama.cpp rotates coordinates (2i, 2i + 1) of such a head together, we (i, i + head_dim / 2).
    """
    if config.attention_bias or not name.endswith(("q_proj.weight", "k_proj.weight")):
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

    Vectors stay F32, and rows that are no whole blocks become F16. `tokenizer_metadata` holds the
    file's `tokenizer.*` entries. Raises OpenQwQError if `path` exists or cannot be written, and for
    a `kind` or a shape that cannot be stored.
    """
    target, config = Path(path), model.config
    partial = target.with_name(f".{target.name}.partial")
    if target.exists():
        raise OpenQwQError(f"{target} exists already: name a new file, or remove it")
    if kind not in WRITTEN_TYPES:
        raise OpenQwQError(f"cannot write {kind}: supported are {', '.join(WRITTEN_TYPES)}")
    if config.attention_bias and config.head_dim * config.num_attention_heads != config.hidden_size:
        raise OpenQwQError(
            f"{config.num_attention_heads} heads of {config.head_dim} do not make hidden_size "
            f"{config.hidden_size}: llama.cpp cannot load such a Qwen2, so save safetensors instead"
        )
    writer = GGUFWriter(partial, "qwen2" if config.attention_bias else "llama")
    for key, value in {**_metadata(writer.arch, config), **tokenizer_metadata}.items():
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        value_type = GGUFValueType.UINT32 if is_integer else GGUFValueType.get_type(value)
        writer.add_key_value(key, value, value_type)
    kinds = {
        name: _kind_of(weight, GGMLQuantizationType[kind])
        for name, weight in model.named_parameters()
    }
    for name, weight in model.named_parameters():
        block, block_bytes = GGML_QUANT_SIZES[kinds[name]]
        size, dtype = weight.numel() // block * block_bytes, np.dtype(np.float32)
        writer.add_tensor_info(gguf_name(name), weight.shape, dtype, size, kinds[name])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, weight in model.named_parameters():
            numbers = _reordered(name, weight.detach().float(), config, 2).numpy(force=True)
            writer.write_tensor_data(quantize(numbers, kinds[name]))
        writer.close()
        flush(partial)
        partial.rename(target)
        flush(target.parent)
    except OSError as error:
        raise OpenQwQError(
            f"cannot save to {target} ({error}): free space or choose another"
        ) from error
    finally:
        with suppress(OSError):  # buffered bytes that a full disk refuses a second time
            writer.close()
        partial.unlink(missing_ok=True)


def _kind_of(weight: Tensor, kind: GGMLQuantizationType) -> GGMLQuantizationType:
    if weight.dim() == 1:
        return GGMLQuantizationType.F32
    return kind if weight.shape[1] % GGML_QUANT_SIZES[kind][0] == 0 else GGMLQuantizationType.F16


def _metadata(architecture: str, config: ModelConfig) -> dict[str, Any]:
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
    if yarn := config.yarn:
        own |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": yarn.factor,
            "rope.scaling.original_context_length": yarn.original_max_position_embeddings,
            "rope.scaling.yarn_beta_fast": yarn.beta_fast,
            "rope.scaling.yarn_beta_slow": yarn.beta_slow,
        }
    return {f"{architecture}.{key}": value for key, value in own.items()}
