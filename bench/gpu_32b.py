"""QwQ-32B's shape in bf16 on one GPU: memory, and tokens a second against what reading allows.

All 64 layers, each with its own memory on the GPU, filled with the same random numbers: speed
depends on shapes alone. A token of one sequence must read every weight but the embedding once. The
bandwidth is that of a large sum, measured here. With --transformers its generate follows, on a
model of the same shape, in the same process after ours has gone.

    python bench/gpu_32b.py [--batches 1 8 32] [--context N] [--transformers]
"""

import argparse
import asyncio
import gc
import json
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.model.checkpoint import empty_model, fill
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import SamplingParams

SHAPE = ModelConfig(152064, 5120, 27648, 64, 40, 8, 128, max_position_embeddings=40960)
PROMPT_TOKENS, NEW_TOKENS, REPEATS = 16, 64, 5


def model() -> Qwen2:
    """One layer's weights and the ends, in host memory, under the names of all 64 layers."""
    empty = empty_model(SHAPE)
    generator = torch.Generator().manual_seed(0)
    noise = (0.02 * torch.randn(2**24, generator=generator)).to(torch.bfloat16)
    shared: dict[torch.Size, torch.Tensor] = {}
    tensors = {}
    for name, parameter in empty.named_parameters():
        if parameter.shape not in shared:
            copies = -(-parameter.numel() // len(noise))
            flat = noise.repeat(copies)[: parameter.numel()]
            shared[parameter.shape] = flat.view(parameter.shape)
        tensors[name] = shared[parameter.shape]
    return fill(empty, tensors)


def bandwidth() -> float:
    """Bytes a second that a sum over 8 GiB reads, the best of a few."""
    data = torch.ones(2**31, device="cuda")
    best = 0.0
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        data.sum()
        torch.cuda.synchronize()
        best = max(best, 4 * len(data) / (time.perf_counter() - started))
    return best


def prompts(batch: int, length: int) -> list[list[int]]:
    """Ids that differ in each row."""
    return [[10 + (7 * i + 13 * row) % 200 for i in range(length)] for row in range(batch)]


def decoding_rates(run: Callable[[int], object], batch: int) -> list[float]:
    """Tokens a second beyond the first token, which takes the prefill with it."""
    run(NEW_TOKENS)
    rates = []
    for _ in range(REPEATS):
        marks = [time.perf_counter()]
        for tokens in (1, NEW_TOKENS):
            run(tokens)
            torch.cuda.synchronize()
            marks.append(time.perf_counter())
        seconds = (marks[2] - marks[1]) - (marks[1] - marks[0])
        rates.append(batch * (NEW_TOKENS - 1) / seconds)
    return rates


def ours(engine: Engine, batch: int, length: int) -> Callable[[int], object]:
    """Draws `tokens` for each row."""

    async def draw(tokens: int) -> None:
        engine.scheduler.cache.outdate()
        params = [SamplingParams.for_training(tokens, (), row) for row in range(batch)]
        asked = zip(prompts(batch, length), params, strict=True)
        await asyncio.gather(*(engine.generate(ids, p) for ids, p in asked))

    return lambda tokens: asyncio.run(draw(tokens))


def theirs(batch: int) -> Callable[[int], object]:
    """The same by transformers' generate."""
    import transformers
    from transformers.initialization import no_init_weights

    config = transformers.Qwen2Config(
        vocab_size=SHAPE.vocab_size, hidden_size=SHAPE.hidden_size,
        intermediate_size=SHAPE.intermediate_size, num_hidden_layers=SHAPE.num_hidden_layers,
        num_attention_heads=SHAPE.num_attention_heads, tie_word_embeddings=False,
        num_key_value_heads=SHAPE.num_key_value_heads, max_position_embeddings=40960,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    with torch.device("cuda"), no_init_weights():
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16
        ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
    ids = torch.tensor(prompts(batch, PROMPT_TOKENS), device="cuda")

    def draw(tokens: int) -> None:
        with torch.inference_mode():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=True,
                top_k=0, top_p=1.0, temperature=1.0,
            )  # fmt: skip

    return draw


def row(name: str, rates: list[float], limit: float) -> dict[str, Any]:
    """Prints a line; returns what is kept."""
    middle = statistics.median(rates)
    print(
        f"{name:<34} min {min(rates):7.1f}  median {middle:7.1f}  max {max(rates):7.1f} tokens/s"
        f"   {middle / limit:.0%} of {limit:.0f}",
        flush=True,
    )
    return {"min": min(rates), "median": middle, "max": max(rates), "limit": limit}


def main(batches: list[int], context: int, transformers: bool) -> None:
    """Every case, then the record."""
    reading = bandwidth()
    print(f"{date.today()}  {torch.cuda.get_device_name()}  torch {torch.__version__}")
    started = time.perf_counter()
    weights = model()
    made = time.perf_counter()
    tokenizer = Tokenizer.train(
        ["the quick brown fox jumps over the lazy dog\n\n"] * 4, 300
    )
    limits = EngineLimits(max(batches), context + NEW_TOKENS, 2048, max(batches))
    engine = Engine(weights, tokenizer, limits, device=torch.device("cuda"))
    size = sum(p.numel() for p in weights.parameters())
    per_token = 2 * (size - SHAPE.vocab_size * SHAPE.hidden_size)
    kv_per_token = (
        2 * 2 * SHAPE.num_hidden_layers * SHAPE.num_key_value_heads * SHAPE.head_dim
    )
    print(
        f"{size:,} parameters; to the GPU in {time.perf_counter() - made:.0f} s (made in "
        f"{made - started:.0f} s); reads at {reading / 1e9:.0f} GB/s",
        flush=True,
    )
    record: dict[str, Any] = {"date": str(date.today()), "machine": torch.cuda.get_device_name(),
                              "bandwidth": reading}  # fmt: skip
    for batch, length in [*((b, PROMPT_TOKENS) for b in batches), (1, context)]:
        read = per_token + batch * (length + NEW_TOKENS // 2) * kv_per_token
        rates = decoding_rates(ours(engine, batch, length), batch)
        name = f"openqwq {batch} x {NEW_TOKENS} after {length}"
        record[name] = row(name, rates, batch * reading / read)
    peak = torch.cuda.max_memory_allocated() / 2**30
    print(f"peak {peak:.1f} GiB on the GPU, weights {2 * size / 2**30:.1f}", flush=True)
    record["peak_gib"] = peak
    path = Path(__file__).parent / "results" / "gpu_32b.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    engine.close()
    del engine
    gc.collect()
    torch.cuda.empty_cache()
    if transformers:
        rates = decoding_rates(theirs(1), 1)
        record["transformers 1"] = row("transformers 1", rates, reading / per_token)
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--context", type=int, default=1024, help="of one case; every slot gets room"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--transformers", action="store_true")
    options = parser.parse_args()
    main(options.batches, options.context, options.transformers)
