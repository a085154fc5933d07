"""Whether a model fits into memory, from its config or GGUF header alone, and how fast it may be.

Decoding reads every weight once a token, so the memory's bandwidth bounds its speed. What is
counted is the peak: while loading, our engine holds the weights as they were read and as it packs
them; while running, a cache that grows is held twice.
"""

import ctypes
import gc
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import psutil
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from openqwq.model.checkpoint import empty_model, parse_config
from openqwq.model.gguf import READ_TYPES
from openqwq.model.gguf_header import model_config, read_header
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.types import OpenQwQError, Precision

EngineKind = Literal["torch", "llamacpp"]
# Our tokenizer, llama.cpp's and the metadata: in all, and for each token; measured.
VOCABULARY = 24 * 2**20
VOCABULARY_BYTES = 750
UBATCH = 512  # prompt tokens a step of llama.cpp
PREFILL = 2048  # and of our engine
UNITS = {
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A model as its description states it; `stored_bytes` is the size of a GGUF file's tensors."""

    config: ModelConfig
    stored_bytes: int | None
    stored_type: str


@dataclass(frozen=True)
class Need:
    """Peak memory in bytes by what takes it, and the bytes that a decoded token reads."""

    process: int
    vocabulary: int
    weights: int
    cache: int
    activations: int
    read_per_token: int
    loading: int = 0  # of all but the process, where loading needs more than running

    @property
    def peak(self) -> int:
        """What the whole process takes at most."""
        running = self.vocabulary + self.weights + self.cache + self.activations
        return self.process + max(running, self.loading)


def read_subject(path: Path) -> Subject:
    """From a directory's config.json or a GGUF header; raises OpenQwQError as reading does."""
    if path.is_file():
        file = read_header(path)
        kinds: dict[str, int] = {}
        for tensor in file.tensors.values():
            kinds[tensor.kind.name] = kinds.get(tensor.kind.name, 0) + tensor.size
        most = max(kinds, key=kinds.__getitem__)
        return Subject(model_config(file), sum(kinds.values()), most)
    try:
        values = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OpenQwQError(f"cannot read {path / 'config.json'} ({error})") from error
    return Subject(parse_config(values, str(path / "config.json")), None, "F32")


def need(
    subject: Subject,
    engine: EngineKind,
    context: int,
    slots: int,
    process: int,
    precision: Precision = "fp32",
) -> Need:
    """Peak memory for `slots` sequences of `context` tokens; `process` is Python with its imports.

    llama.cpp's slots share one cache of `context` tokens for each of them; `precision` is torch's.
    """
    config = subject.config
    parameters, embedding = parameter_counts(config)
    vocabulary = VOCABULARY + config.vocab_size * VOCABULARY_BYTES
    kv_numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    hidden = config.hidden_size
    inner = config.intermediate_size
    if engine == "llamacpp":
        weights = subject.stored_bytes or type_bytes(config, subject.stored_type)
        rows = min(UBATCH, context)
        cache = 2 * kv_numbers * context * slots
        activations = rows * (6 * hidden + 2 * inner) * 4 + config.vocab_size * 4 * slots
        read = weights + kv_numbers * context  # half of the context, two bytes each
        if not config.tie_word_embeddings:
            read -= weights * embedding // parameters  # whose rows are looked up
        return Need(process, vocabulary, weights, cache, activations, read)

    tied = embedding if config.tie_word_embeddings else 0
    width = 4 if precision == "fp32" else 2
    packed = width * (parameters + tied)
    rows = min(PREFILL, context)
    heads = config.num_attention_heads
    full = 4 * kv_numbers * context * (slots + min(slots, 16))
    scores = rows * context * (2 * heads + heads // config.num_key_value_heads)
    activations = 4 * (
        scores + rows * (6 * hidden + 3 * inner) + 3 * config.vocab_size * slots
    )
    read = packed - width * embedding + 2 * kv_numbers * context
    loading = vocabulary + width * (parameters + embedding - tied) + packed
    return Need(process, vocabulary, packed, full * 3 // 2, activations, read, loading)


def parameter_counts(config: ModelConfig) -> tuple[int, int]:
    """All parameters, a tied head counted once, and those of the embedding."""
    total = sum(parameter.numel() for parameter in empty_model(config).parameters())
    return total, config.vocab_size * config.hidden_size


def type_bytes(config: ModelConfig, type_name: str) -> int:
    """The weights' size with every matrix in one GGUF type, vectors in F32."""
    vectors = sum(p.numel() for p in empty_model(config).parameters() if p.dim() == 1)
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[type_name]]
    return (parameter_counts(config)[0] - vectors) * block_bytes // block + 4 * vectors


def fitting(
    subject: Subject, memory: int, context: int, slots: int, process: int
) -> dict[str, int]:
    """The peak of llama.cpp for each type that fits into `memory`, the largest first."""
    peaks: dict[str, int] = {}
    for name in READ_TYPES:
        converted = replace(subject, stored_bytes=None, stored_type=name)
        peak = need(converted, "llamacpp", context, slots, process).peak
        if peak <= memory:
            peaks[name] = peak
    return dict(sorted(peaks.items(), key=lambda item: -item[1]))


def parse_memory(text: str) -> int:
    """Bytes of "24GiB" or "16 GB"; raises OpenQwQError for anything else."""
    number = text.rstrip("KMGTiB ")
    unit = text[len(number) :].strip()
    try:
        return int(float(number) * UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise OpenQwQError(
            f"{text!r} is not an amount of memory: write it as 24GiB"
        ) from None


def memory_in_use(key: Literal["VmRSS", "VmHWM"] = "VmRSS") -> int:
    """Bytes of this process that are in memory now, or (VmHWM, on Linux alone) were at most."""
    if key == "VmRSS":
        return int(psutil.Process().memory_info().rss)
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(key))


def available_memory() -> int:
    """Bytes that programs can still get, caches of files included."""
    return int(psutil.virtual_memory().available)


def return_freed_memory() -> None:
    """Give the system back what Python and glibc keep of freed blocks.

    Without it an engine's memory comes on top of what the last update took.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim:
        trim(0)


def room_for_pack(model: Qwen2) -> bool:
    """Whether the engine may hold a second, packed copy of a model's weights."""
    size = sum(parameter.nbytes for parameter in model.parameters())
    return model.device.type == "cpu" and pack_fits(size, available_memory())


def pack_fits(size: int, memory: int) -> bool:
    """Whether `memory` holds a packed copy of weights of `size` bytes four times over."""
    return 4 * size <= memory


def read_bandwidth(size: int = 2**28, repeats: int = 5) -> float:
    """Bytes a second that all threads read from memory together, the best of a few tries."""
    data = torch.ones(size // 4)
    best = 0.0
    for _ in range(repeats):
        started = time.perf_counter()
        data.sum()
        best = max(best, size / (time.perf_counter() - started))
    return best


def report(
    name: str,
    subject: Subject,
    engine: EngineKind,
    memory: int,
    context: int,
    slots: int,
    process: int,
    bandwidth: float,
    precision: Precision,
) -> str:
    """The answer of `qwq fit`, as lines of text."""
    found = need(subject, engine, context, slots, process, precision)
    parts: Mapping[str, int] = {
        "process": process,
        "vocabulary": found.vocabulary,
        "weights": found.weights,
        "cache": found.cache,
        "activations": found.activations,
        "peak": found.peak,
    }
    verdict = "fits" if found.peak <= memory else "does not fit"
    parameters, _ = parameter_counts(subject.config)
    kept = subject.stored_type if engine == "llamacpp" else precision
    lines = [
        f"{name}: {parameters / 1e9:.3g} B parameters, in {kept} with the engine {engine}",
        f"{slots} sequence(s) of {context} tokens",
    ]
    for part, size in parts.items():
        lines.append(f"  {part:<12} {size / 2**30:8.2f} GiB")
    if found.peak == process + found.loading:
        lines.append(
            f"  (the peak is while loading, {found.loading / 2**30:.2f} GiB on top of the process)"
        )
    possible = fitting(subject, memory, context, slots, process)
    types = [f"{name} ({peak / 2**30:.1f})" for name, peak in possible.items()]
    lines += [
        f"{verdict} into {memory / 2**30:.1f} GiB",
        f"at most {bandwidth / found.read_per_token:.3g} tokens/s for one sequence: a token reads"
        f" {found.read_per_token / 2**30:.2f} GiB, and this machine's {os.cpu_count()} cores read"
        f" {bandwidth / 1e9:.1f} GB/s",
        f"GGUF types that fit (GiB, llama.cpp): {', '.join(types) or 'none'}",
    ]
    return "\n".join(lines)
