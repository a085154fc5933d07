"""What a GGUF file, llama.cpp's format, says before its weights: metadata, tensors, the shape."""

import math
import mmap
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from openqwq.model.fields import Fields, checked
from openqwq.model.qwen2 import ModelConfig
from openqwq.model.rope import Llama3Scaling, YarnScaling, inverse_frequencies
from openqwq.types import OpenQwQError

ARCHITECTURES = ("qwen2", "qwen3", "llama")
ROPE_FACTORS = "rope_freqs.weight"  # what llama.cpp divides each pair's frequency by
SPLIT_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
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
    part: int = 0  # which file of a split one

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
    parts: tuple[Path, ...]  # all files, the first one first


def read_header(path: Path | str) -> GgufFile:
    """Read everything but the weights; any file of a split one stands for all of them.

    Raises OpenQwQError if a file is missing, damaged, cut short or not a GGUF of version 2 or 3.
    """
    file = Path(path)
    header = _read_one(file)
    count = header.metadata.get("split.count", 1)
    if count == 1:
        return header
    name = SPLIT_NAME.fullmatch(file.name)
    if name is None or int(name[3]) != count:
        raise OpenQwQError(
            f"{file} is one of {count} files of a model, but its name does not end in"
            f" -00001-of-{count:05}.gguf: give all of them their own names again"
        )
    parts: list[Path] = []
    for number in range(1, count + 1):
        parts.append(file.with_name(f"{name[1]}-{number:05}-of-{count:05}.gguf"))
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        raise OpenQwQError(
            f"{file} is one of {count} files, of which {missing} are missing"
        )
    return _joined(parts)


def _joined(parts: Sequence[Path]) -> GgufFile:
    """The header of a model in several files."""
    headers = list(map(_read_one, parts))
    tensors: dict[str, GgufTensor] = {}
    for number, header in enumerate(headers):
        place = (header.metadata.get("split.no"), header.metadata.get("split.count"))
        if place != (number, len(parts)):
            raise OpenQwQError(
                f"{parts[number]} is not file {number} of {len(parts)}: copy it again"
            )
        for name, tensor in header.tensors.items():
            tensors[name] = replace(tensor, part=number)
    metadata = headers[0].metadata
    expected = metadata.get("split.tensors.count", len(tensors))
    if len(tensors) != expected:
        raise OpenQwQError(
            f"{parts[0]} and its parts hold {len(tensors)} of {expected} tensors"
        )
    return GgufFile(parts[0], metadata, tensors, tuple(parts))


def is_later_part(path: Path) -> bool:
    """Whether a file's name is that of a split GGUF's second file or a later one."""
    name = SPLIT_NAME.fullmatch(path.name)
    return name is not None and int(name[2]) > 1


def _read_one(file: Path) -> GgufFile:
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
        self.path = path
        self.data = data
        self.offset = 0

    def read(self) -> GgufFile:
        """Magic, version, counts, metadata, tensor descriptions, then the aligned weights."""
        magic, version, tensor_count, metadata_count = self.take("4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise OpenQwQError(
                f"{self.path} is not a GGUF file of version 2 or 3: convert it again"
            )
        metadata = {}
        for _ in range(metadata_count):
            key = self.text()
            (kind,) = self.take("I")
            metadata[key] = self.value(GGUFValueType(kind))
        described = {}
        for _ in range(tensor_count):
            name = self.text()
            (dimensions,) = self.take("I")
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
                raise ValueError(
                    f"the rows of {name} do not fill whole {tensor.kind.name} blocks"
                )
            if tensor.offset + tensor.size > len(self.data):
                raise ValueError(
                    f"{name} would end after the file's {len(self.data)} bytes"
                )
            tensors[name] = tensor
        return GgufFile(self.path, metadata, tensors, (self.path,))

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
            raise ValueError(
                f"arrays of arrays, as at byte {self.offset}, are not supported"
            )
        values = np.frombuffer(self.data, SCALARS[kind], count, self.offset)
        self.offset += values.nbytes
        if kind is GGUFValueType.FLOAT32:
            return [float(str(value)) for value in values]
        plain: list[Any] = values.tolist()
        return plain


def model_config(file: GgufFile) -> ModelConfig:
    """The shape that a file's metadata states; raises OpenQwQError as `parse_config` does."""
    architecture = file.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise OpenQwQError(
            f"{file.path} has general.architecture = {architecture!r}: supported are "
            + ", ".join(ARCHITECTURES)
        )
    fields = _own_fields(file)
    hidden = fields.integer("embedding_length")
    heads = fields.integer("attention.head_count")
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
    theta = fields.number("rope.freq_base", 10_000.0)
    return checked(
        ModelConfig(
            vocab_size=fields.integer(
                "vocab_size", embedding.shape[0] if embedding else None
            ),
            hidden_size=hidden,
            intermediate_size=fields.integer("feed_forward_length"),
            num_hidden_layers=fields.integer("block_count"),
            num_attention_heads=heads,
            num_key_value_heads=fields.integer("attention.head_count_kv", heads),
            head_dim=head_dim,
            rms_norm_eps=fields.number("attention.layer_norm_rms_epsilon"),
            rope_theta=theta,
            max_position_embeddings=fields.integer("context_length"),
            tie_word_embeddings="output.weight" not in file.tensors,
            attention_bias=architecture == "qwen2",
            qk_norm=architecture == "qwen3",
            rope_scaling=_llama3(file, theta, head_dim) or _yarn(fields),
        ),
        str(file.path),
    )


@dataclass(frozen=True)
class CacheShape:
    """What a file says about its key-value cache, whatever its architecture."""

    context_length: int  # tokens the model was trained for
    bytes_per_token: int  # keys and values of all layers in fp16, as llama.cpp stores them


def cache_shape(file: GgufFile) -> CacheShape:
    """Read from metadata alone; raises OpenQwQError naming an entry that is missing."""
    fields = _own_fields(file)
    heads = fields.integer("attention.head_count")
    head_dim = fields.integer("embedding_length") // heads
    keys = fields.integer("attention.key_length", head_dim)
    values = fields.integer("attention.value_length", head_dim)
    kv_heads = fields.integer("attention.head_count_kv", heads)
    per_token = 2 * fields.integer("block_count") * kv_heads * (keys + values)
    return CacheShape(fields.integer("context_length"), per_token)


def _own_fields(file: GgufFile) -> Fields:
    """The entries that describe a file's architecture, without its name before them."""
    architecture = file.metadata.get("general.architecture")
    prefix = f"{architecture}."
    own: dict[str, Any] = {}
    for key, value in file.metadata.items():
        if key.startswith(prefix):
            own[key.removeprefix(prefix)] = value
    return Fields(own, f"{file.path}'s {architecture} metadata")


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


def rope_factors(config: ModelConfig) -> torch.Tensor | None:
    """What the scaling `llama3` divides each pair's frequency by, (head_dim / 2,); else None."""
    if not isinstance(config.rope_scaling, Llama3Scaling):
        return None
    plain = inverse_frequencies(config.head_dim, config.rope_theta, None)
    return plain / inverse_frequencies(
        config.head_dim, config.rope_theta, config.rope_scaling
    )


def _llama3(file: GgufFile, theta: float, head_dim: int) -> Llama3Scaling | None:
    """The scaling behind a file's factors, which are all that llama.cpp's format keeps of it.

    Raises OpenQwQError for factors that no such scaling has.
    """
    tensor = file.tensors.get(ROPE_FACTORS)
    if tensor is None:
        return None
    if tensor.kind.name != "F32" or tensor.shape != (head_dim // 2,):
        raise OpenQwQError(
            f"{file.path} has {ROPE_FACTORS} as {tensor.kind.name} {list(tensor.shape)}: it must "
            f"be F32 {[head_dim // 2]}"
        )
    part = file.parts[tensor.part]
    stored = np.fromfile(part, np.float32, head_dim // 2, offset=tensor.offset)
    factors = torch.from_numpy(stored)
    plain = inverse_frequencies(head_dim, theta, None)
    for scaling in _candidates(factors, plain):
        found = plain / inverse_frequencies(head_dim, theta, scaling)
        if torch.allclose(found, factors, rtol=1e-4):
            return scaling
    raise OpenQwQError(
        f"{file.path} has a {ROPE_FACTORS} that no llama3 scaling gives: use the engine llamacpp"
    )


def _candidates(factors: torch.Tensor, plain: torch.Tensor) -> list[Llama3Scaling]:
    """Scalings that may have these factors: those of the released models, then a fitted one.

    Between the slow and the fast pairs 1 / factor is linear in a pair's frequency, which gives the
    original length and `high_freq_factor` in terms of `low_freq_factor`, taken as 1.
    """
    factor = float(factors.max())
    candidates = [Llama3Scaling(factor, 8192)]
    between = (factors > 1.001) & (factors < 0.999 * factor)
    if int(between.sum()) < 2:
        return candidates
    fast_share = (1 / factors.double() - 1 / factor) / (1 - 1 / factor)
    turns = plain.double() / (2 * math.pi)  # per token
    first, last = between.nonzero().squeeze(1)[[0, -1]]
    slope = float((fast_share[first] - fast_share[last]) / (turns[first] - turns[last]))
    offset = float(slope * turns[first] - fast_share[first])  # low / (high - low)
    if slope > 0 and offset > 0:
        high = round(1 + 1 / offset, 3)
        candidates.append(Llama3Scaling(factor, round(slope / offset), 1.0, high))
    return candidates
