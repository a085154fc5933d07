"""One RL step on real work, ours against TRL with PEFT: GSM8K prompts, LoRA on a 0.5B shape.

8 prompts x 8 completions of natural lengths, up to 300 tokens, are sampled, scored and learned from
once. Weights are random, so both sides are told where each completion ends: lengths come from one
log-normal draw with a median of 140 tokens. Each side runs in its own process (TRL's is
`rl_real_trl.py`), in turn: a step with a tenth of the lengths, then the measured one. Both multiply
in what "auto" chooses here, unless `--precision` says otherwise.

Our parts stand next to this machine's limit, measured in the same process: the engine's products
alone at as many rows as there are completions, and an update's products alone.

    python bench/rl_real.py [--repeats 5] [--precision auto] [--quick]
    python bench/rl_real.py --shape 32b --device cuda --sides ours     (one GPU of 141 GiB)
    python bench/rl_real.py --ranks 1,4,16,0 --sides ours              (0: full weights)
"""

import argparse
import asyncio
import gzip
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import tokenizers
import torch

from openqwq.config import OptimiserConfig, RlStage
from openqwq.config.stages import MOST_MICRO_BATCH
from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.engine.packed import PackedModel
from openqwq.engine.threads import CallersThread
from openqwq.model import lora, precision
from openqwq.model.fit import available_memory, memory_in_use, room_for_pack
from openqwq.model.linear import Linear, product
from openqwq.model.lora import AdapterShape
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.advantages import group_advantages
from openqwq.train.learner import Learner
from openqwq.train.objective import objective
from openqwq.train.packing import pack_trajectories
from openqwq.train.plan import (
    Work,
    describe,
    micro_batch_tokens,
    plan_stage,
    useful_tokens,
)
from openqwq.types import Completion, SamplingParams, Trajectory

GSM8K = Path(__file__).parents[2] / "shared" / "data" / "gsm8k" / "train-slice.jsonl.gz"
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}.\n"
SHAPES = {
    "0.5b": ModelConfig(151936, 896, 4864, 24, 14, 2, 64, tie_word_embeddings=True),
    "32b": ModelConfig(152064, 5120, 27648, 64, 40, 8, 128, rms_norm_eps=1e-5),
    "quick": ModelConfig(4096, 128, 352, 2, 4, 2, 32, tie_word_embeddings=True),
}


@dataclass(frozen=True)
class Case:
    """What is measured; both sides get the same."""

    shape: str = "0.5b"
    prompts: int = 8
    group: int = 8
    longest: int = 300
    median: int = 140
    rank: int = 16
    precision: str = "auto"
    device: str = "cpu"
    micro_batch: int = 0  # tokens; 0: from the free memory

    def shortened(self) -> "Case":
        """The same with a tenth of the lengths, to warm up with."""
        return replace(
            self, longest=max(8, self.longest // 10), median=max(8, self.median // 10)
        )

    @property
    def lengths(self) -> list[int]:
        """Tokens of every completion, the prompts' groups one after another."""
        draws = random.Random(0)
        count = self.prompts * self.group
        drawn = [int(self.median * draws.lognormvariate(0, 0.5)) for _ in range(count)]
        return [min(max(length, 8), self.longest) for length in drawn]


def questions(case: Case) -> list[str]:
    """GSM8K's own, or made up where the data set is not next to the project."""
    if not GSM8K.exists():
        return [
            f"{SYSTEM}What is {i} + {7 * i}? Explain it well." for i in range(case.prompts)
        ]
    with gzip.open(GSM8K, "rt") as lines:
        rows = [json.loads(next(lines)) for _ in range(case.prompts)]
    return [SYSTEM + row["question"] for row in rows]


def backend(case: Case) -> tokenizers.Tokenizer:
    """A BPE of the questions, filled up to the model's vocabulary so that any id has a text."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=["<end>", "<pad>"],
        initial_alphabet=sorted(alphabet),
    )
    tokenizer.train_from_iterator(questions(case), trainer)
    missing = SHAPES[case.shape].vocab_size - tokenizer.get_vocab_size()
    tokenizer.add_tokens([f"<{i}>" for i in range(missing)])
    return tokenizer


def score(token_ids: list[int]) -> float:
    """Something that varies: the share of even ids."""
    return sum(token_id % 2 == 0 for token_id in token_ids) / len(token_ids)


def trajectory(prompt: list[int], completion: Completion, group: int) -> Trajectory:
    """The training record of one completion."""
    size = len(prompt)
    return Trajectory(
        token_ids=prompt + completion.token_ids,
        sampled_mask=[False] * size + completion.sampled_mask,
        log_probs=[0.0] * size + completion.log_probs,
        weight_version=[0] * size + completion.weight_version,
        task_id=str(group),
        group_id=str(group),
        kind="gsm8k",
        reward=score(completion.token_ids),
        reward_parts={},
        status="correct",
        reasoning_tokens=0,
    )


class Ours:
    """Engine and learner over one frozen base."""

    def __init__(self, case: Case) -> None:
        self.case = case
        shape, device = SHAPES[case.shape], torch.device(case.device)
        asked: Any = case.precision
        self.products = precision.chosen_products(asked, shape, device)
        model = random_model(shape, self.products if case.rank else "fp32", device)
        precision.prepare(model, self.products, trained=not case.rank)
        adapter = None
        if case.rank:
            generator = torch.Generator().manual_seed(1)
            adapter = lora.fresh(model, AdapterShape(case.rank), generator)
            lora.attach(model, adapter)
        self.tokenizer = Tokenizer(
            backend(case), {"eos_token": "<end>", "pad_token": "<pad>"}, [], "bench"
        )
        self.asked = [self.tokenizer.encode(text) for text in questions(case)]
        longest = max(len(ids) for ids in self.asked) + case.longest
        limits = EngineLimits(case.prompts * case.group, longest)
        config = OptimiserConfig(lr=1e-5)
        self.learner = Learner(model, config, 100, adapter)
        packs = room_for_pack(model)
        self.engine = Engine(
            model, self.tokenizer, limits, thread=CallersThread(), packs=packs
        )
        self.work = self._work(limits, packs)
        free = available_memory() if case.device == "cpu" else torch.cuda.mem_get_info()[0]
        used = memory_in_use()
        room = free + used
        most = useful_tokens(shape) if case.device == "cpu" else MOST_MICRO_BATCH
        tokens = case.micro_batch or micro_batch_tokens(shape, self.work, 2**29, room, most)
        self.work = replace(self.work, micro_batch_tokens=tokens)

    def _work(self, limits: EngineLimits, packs: bool) -> Work:
        case = self.case
        prompts, lengths = [len(ids) for ids in self.asked], case.lengths
        return Work(
            completions=case.prompts * case.group,
            group_size=case.group,
            prompt_tokens=int(statistics.mean(prompts)),
            completion_tokens=int(statistics.mean(lengths)),
            slots=limits.slots,
            lanes=limits.lanes,
            max_length=limits.max_length,
            prefill_tokens=limits.prefill_tokens,
            micro_batch_tokens=8192,
            products=self.products,
            rank=case.rank,
            packs=packs,
        )

    async def rollouts(self, number: int, lengths: list[int]) -> list[Completion]:
        """A completion of each length, the prompts' groups one after another."""
        requests = []
        for i, length in enumerate(lengths):
            prompt, member = divmod(i, self.case.group)
            seed = 1000 * (number * len(self.asked) + prompt) + member
            params = SamplingParams.for_training(length, (), seed)
            requests.append(self.engine.generate(self.asked[prompt], params))
        return [completion for (completion,) in await asyncio.gather(*requests)]

    async def step(self, number: int) -> dict[str, float]:
        """Rollouts, update, push; seconds and tokens of each."""
        started = time.perf_counter()
        completions = await self.rollouts(number, self.case.lengths)
        sampled = time.perf_counter()
        records = []
        for i, completion in enumerate(completions):
            group = i // self.case.group
            records.append(trajectory(self.asked[group], completion, group))
        rewards = [record.reward for record in records]
        groups = [record.group_id for record in records]
        for record, advantage in zip(
            records, group_advantages(rewards, groups), strict=True
        ):
            record.advantage = advantage
        batches = pack_trajectories(records, self.work.micro_batch_tokens)
        metrics = self.learner.train_step(batches, objective(RlStage("rl")))
        learned = time.perf_counter()
        self.engine.push(self.learner.named_params(), number + 1)
        return {
            "rollouts": sampled - started,
            "update": learned - sampled,
            "push": time.perf_counter() - learned,
            "gap": metrics["log_prob_gap"],
            "learned_tokens": sum(len(batch.token_ids) for batch in batches),
        }


def random_model(shape: ModelConfig, stored: str, device: torch.device) -> Qwen2:
    """Random weights, made in the type that they are kept in, so that 32B never exists in fp32."""
    dtype = torch.bfloat16 if stored == "bf16" else torch.float32
    torch.set_default_dtype(dtype)
    with torch.device("meta"):
        model = Qwen2(shape)
    torch.set_default_dtype(torch.float32)
    model.to_empty(device=device)
    if shape.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    generator = torch.Generator(device=device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            elif parameter.dim() == 1:
                parameter.zero_()
            else:
                parameter.normal_(0.0, 0.02, generator=generator)
    return model


def decode_limit(ours: Ours, rows: int) -> float:
    """Tokens/s of a decoding step's products alone."""
    model = ours.engine.model
    assert isinstance(model, PackedModel)
    shape = model.config
    dtype = model.products
    narrow = torch.randn(rows, shape.hidden_size).to(dtype)
    mixed = torch.randn(rows, shape.num_attention_heads * shape.head_dim).to(dtype)
    wide = torch.randn(rows, shape.intermediate_size).to(dtype)

    def products() -> None:
        for layer in model.layers:
            layer.qkv.product(narrow)
            layer.output.product(mixed)
            layer.gate.product(narrow)
            layer.up.product(narrow)
            layer.down.product(wide)
        model.head.product(narrow)

    return rows / least_seconds(products)


def update_limit(ours: Ours, tokens: int) -> float:
    """Tokens/s of an update's products alone, forward and backward, `tokens` at a time."""
    model = ours.learner.model
    block = model.model.layers[0]
    matrices = [module.weight for module in block.modules() if isinstance(module, Linear)]

    def through(weight: torch.Tensor) -> float:
        x = torch.randn(tokens, weight.shape[1]).to(weight.dtype)
        gradient = torch.randn(tokens, weight.shape[0]).to(weight.dtype)
        seconds = least_seconds(lambda: product(x, weight))
        return seconds + least_seconds(lambda: product(gradient, weight.t()))

    head = model.lm_head.weight
    rows = min(tokens, 2**25 // len(head))
    x = torch.randn(rows, head.shape[1]).to(head.dtype)
    masses = torch.randn(rows, len(head)).to(head.dtype)
    seconds = least_seconds(lambda: product(x, head))
    seconds += least_seconds(lambda: product(masses, head.t()))
    for_head = seconds / rows
    for_layers = len(model.model.layers) * sum(map(through, matrices)) / tokens
    return 1 / (for_head + for_layers)


def least_seconds(function: Callable[[], object], repeats: int = 4) -> float:
    """The least time of a few calls, the first left out."""
    best = float("inf")
    with torch.inference_mode():
        function()
        for _ in range(repeats):
            started = time.perf_counter()
            function()
            best = min(best, time.perf_counter() - started)
    return best


async def steady_decode(ours: Ours) -> float:
    """Tokens/s while every completion runs: what more tokens each take longer."""
    short, long = 8, 40
    seconds = []
    for length in (short, long):
        started = time.perf_counter()
        await ours.rollouts(number=2, lengths=[length] * len(ours.case.lengths))
        seconds.append(time.perf_counter() - started)
    drawn = (long - short) * len(ours.case.lengths)
    return drawn / (seconds[1] - seconds[0])


def run_ours(case: Case) -> dict[str, Any]:
    """One warm-up step of a tenth of the lengths, then the measured one."""
    ours = Ours(case)

    async def all_steps() -> dict[str, float]:
        ours.case = case.shortened()
        await ours.step(0)
        ours.case = case
        found = await ours.step(1)
        if case.device == "cpu":
            found["decode_tokens_s"] = await steady_decode(ours)
        return found

    found = asyncio.run(all_steps())
    tokens = sum(case.lengths)
    peak = memory_in_use("VmHWM")
    if case.device == "cpu":
        found["decode_limit"] = decode_limit(ours, len(case.lengths))
        found["update_limit"] = update_limit(ours, 1200)
    if case.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    process = 2**29 if case.device == "cpu" else 2**30
    plan = plan_stage(SHAPES[case.shape], ours.work, process)
    print(describe("plan", plan, available_memory(), ""), file=sys.stderr)
    return {
        **found,
        "step": found["rollouts"] + found["update"] + found["push"],
        "tokens": tokens,
        "rollout_tokens_s": tokens / found["rollouts"],
        "update_tokens_s": tokens / found["update"],
        "peak_gib": peak / 2**30,
        "planned_gib": plan.peak / 2**30,
        "products": ours.products,
        "micro_batch": ours.work.micro_batch_tokens,
    }


def in_a_process(side: str, case: Case) -> dict[str, Any]:
    """One run of one side, alone in its process."""
    script = Path(__file__).with_name("rl_real_trl.py") if side == "trl" else Path(__file__)
    words = [sys.executable, str(script), "--case", json.dumps(asdict(case))]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def summary(values: list[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def print_shares(name: str, found: dict[str, dict[str, float]]) -> None:
    """Our parts as shares of the limit of their products."""
    parts = {
        "decode_tokens_s": "decode_limit",
        "rollout_tokens_s": "decode_limit",
        "update_tokens_s": "update_limit",
    }
    for part, limit in parts.items():
        speed, most = found[part]["median"], found[limit]["median"]
        print(f"{name}: {part} {speed:.1f} of {most:.1f} ({100 * speed / most:.0f}%)")


def main(options: argparse.Namespace) -> None:
    """Run the sides in turn, print and keep what they took."""
    case = Case(shape=options.shape, precision=options.precision, device=options.device)
    if options.quick:
        case = replace(case, shape="quick", prompts=2, group=4, longest=24, median=12)
    ranks = [int(rank) for rank in options.ranks.split(",")]
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.repeats):
        for side in options.sides.split(","):
            for rank in ranks:
                found = in_a_process(side, replace(case, rank=rank))
                runs.setdefault(f"{side} rank {rank}", []).append(found)
                print(side, rank, json.dumps(found), flush=True)
    figures = {}
    for name, found in runs.items():
        numbers = {key for key, value in found[0].items() if isinstance(value, int | float)}
        figures[name] = {
            key: summary([run[key] for run in found]) for key in sorted(numbers)
        }
    machine = platform.processor() or platform.machine()
    record = {
        "date": str(date.today()),
        "machine": machine,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "case": asdict(case),
        "figures": figures,
        "runs": runs,
    }
    first = f"rank {ranks[0]}"
    if {f"ours {first}", f"trl {first}"} <= figures.keys():
        medians = [figures[f"{side} {first}"]["step"]["median"] for side in ("trl", "ours")]
        record["ratio"] = medians[0] / medians[1]
        print(f"TRL takes {record['ratio']:.1f} times as long")
    for name, found in figures.items():
        if "decode_limit" in found:
            print_shares(name, found)
    if not options.quick:
        path = (
            Path(__file__).parent
            / "results"
            / f"rl_real-{options.shape}-{options.device}.json"
        )
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", default="ours,trl")
    parser.add_argument("--shape", default="0.5b", choices=list(SHAPES))
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--ranks", default="16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="seconds, to see that it runs")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(run_ours(Case(**json.loads(given.case)))))
    else:
        main(given)
