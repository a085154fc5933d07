"""From a GGUF file to a ready fp32 model, ours against transformers: Qwen2-0.5B in Q4_K_M.

The file is synthetic: the sizes, quantisations and metadata of the real one, random weights. Each
load runs in a fresh process (imports are not counted), ours `REPEATS` times and transformers' once.

    python bench/gguf_load.py [DIRECTORY]    keeps the file (398 MB) in DIRECTORY for the next run
"""

import os
import platform
import resource
import statistics
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
from gguf.quants import dequantize

from openqwq.model.checkpoint import empty_model
from openqwq.model.gguf import gguf_name, load
from openqwq.model.qwen2 import ModelConfig

REPEATS, TIME_LIMIT = 7, 900
LAYERS = 24
SHAPE = ModelConfig(151_936, 896, 4864, LAYERS, 14, 2, 64, tie_word_embeddings=True)


def kind_of(name: str) -> GGMLQuantizationType:
    """What llama.cpp's quantiser chooses: rows of 896 do not fill K blocks, those of 4864 do."""
    if name.endswith(("norm.weight", "bias")):
        return GGMLQuantizationType.F32
    if name == "token_embd.weight":
        return GGMLQuantizationType.Q8_0
    layer, eighth = int(name.split(".")[1]), LAYERS // 8
    more_bits = layer < eighth or layer >= 7 * eighth or (layer - eighth) % 3 == 2
    if "ffn_down" in name:
        return GGMLQuantizationType.Q6_K if more_bits else GGMLQuantizationType.Q4_K
    more_bits = more_bits and "attn_v" in name
    return GGMLQuantizationType.Q8_0 if more_bits else GGMLQuantizationType.Q5_0


def random_rows(kind: GGMLQuantizationType, shape: torch.Size) -> np.ndarray:
    """Random bytes, repeated every 4,096 blocks; blocks whose scale is not finite become zero."""
    block, block_bytes = GGML_QUANT_SIZES[kind]
    pool = np.random.default_rng(0).integers(0, 256, (4096, block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        pool[~np.isfinite(dequantize(pool, kind)).all(1)] = 0
    size = shape.numel() // block * block_bytes
    return np.resize(pool, size).reshape(*shape[:-1], -1)


def write(path: Path) -> None:
    """The synthetic file."""
    writer = GGUFWriter(path, "qwen2")
    writer.add_block_count(SHAPE.num_hidden_layers)
    writer.add_context_length(SHAPE.max_position_embeddings)
    writer.add_embedding_length(SHAPE.hidden_size)
    writer.add_feed_forward_length(SHAPE.intermediate_size)
    writer.add_head_count(SHAPE.num_attention_heads)
    writer.add_head_count_kv(SHAPE.num_key_value_heads)
    writer.add_rope_freq_base(SHAPE.rope_theta)
    writer.add_layer_norm_rms_eps(SHAPE.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([f"token{i}" for i in range(SHAPE.vocab_size)])
    writer.add_token_types([1] * SHAPE.vocab_size)
    writer.add_token_merges([f"a{i} b" for i in range(151_387)])
    for name, parameter in empty_model(SHAPE).named_parameters():
        kind = kind_of(gguf_name(name))
        rows = random_rows(kind, parameter.shape)
        writer.add_tensor(gguf_name(name), rows, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load_once(name: str, path: Path) -> None:
    """In a separate process: print seconds by the clock and of CPUs, and peak memory in MiB."""
    if name == "openqwq":
        started = time.perf_counter(), time.process_time()
        load(path)
    else:
        import transformers

        transformers.AutoModelForCausalLM  # noqa: B018 - imports what is imported lazily
        started = time.perf_counter(), time.process_time()
        transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
    seconds = time.perf_counter() - started[0], time.process_time() - started[1]
    print(*seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def timed(name: str, path: Path, repeats: int) -> list[float]:
    """Seconds of each load; prints their row."""
    command = [sys.executable, __file__, name, str(path)]
    runs = [
        subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, timeout=TIME_LIMIT
        )
        for _ in range(repeats)
    ]
    measured = [[float(word) for word in run.stdout.split()[-3:]] for run in runs]
    seconds, of_cpus, peaks = zip(*measured, strict=True)
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    print(
        f"{name:<12} min {low:7.2f}  median {middle:7.2f}  max {high:7.2f} s"
        f"  CPUs {statistics.median(of_cpus):.1f} s  peak {max(peaks):.0f} MiB",
        flush=True,
    )
    return list(seconds)


def main(directory: Path) -> None:
    """Print both and their ratio."""
    path = directory / "qwen2-0.5b-q4_k_m.gguf"
    if not path.exists():
        write(path)
    print(
        f"{date.today()}  {platform.processor() or platform.machine()}  torch {torch.__version__}"
    )
    weights = sum(p.numel() for p in empty_model(SHAPE).parameters()) * 4 / 2**20
    print(
        f"file {path.stat().st_size / 2**20:.0f} MiB, weights {weights:.0f} MiB in fp32, "
        f"{torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f}"
    )
    ours = timed("openqwq", path, REPEATS)
    try:
        (theirs,) = timed("transformers", path, 1)
    except subprocess.TimeoutExpired:
        print(f"transformers was stopped after {TIME_LIMIT} s")
        theirs = float(TIME_LIMIT)
    print(f"ratio to our median: {theirs / statistics.median(ours):.0f}x")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        load_once(sys.argv[1], Path(sys.argv[2]))
    elif len(sys.argv) == 2:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
