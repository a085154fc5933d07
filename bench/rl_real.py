"""One RL step on real work, ours against TRL with PEFT: GSM8K prompts, LoRA on a 0.5B shape.

8 prompts x 8 completions of natural lengths, up to 300 tokens, are sampled, scored and learned from
once. Weights are random, so both sides are told where each completion ends: lengths come from one
log-normal draw with a median of 140 tokens. Each side runs in its own process, in turn.

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
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import tokenizers
import torch

from openqwq.config import OptimiserConfig, RlStage
from openqwq.engine.engine import Engine, EngineLimits
from openqwq.engine.threads import CallersThread
from openqwq.model import lora, precision
from openqwq.model.fit import available_memory, memory_in_use, room_for_pack
from openqwq.model.lora import AdapterShape
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.advantages import group_advantages
from openqwq.train.learner import Learner
from openqwq.train.objective import objective
from openqwq.train.packing import pack_trajectories
from openqwq.train.plan import Work, describe, micro_batch_tokens, plan_stage
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
        return [f"{SYSTEM}What is {i} + {7 * i}? Explain it well." for i in range(case.prompts)]
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
        vocab_size=1000, special_tokens=["<end>", "<pad>"], initial_alphabet=sorted(alphabet)
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
        self.engine = Engine(model, self.tokenizer, limits, thread=CallersThread(), packs=packs)
        self.work = self._work(limits, packs)
        free = available_memory() if case.device == "cpu" else torch.cuda.mem_get_info()[0]
        used = memory_in_use()
        room = free + used
        tokens = case.micro_batch or micro_batch_tokens(shape, self.work, 2**29, room)
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

    async def step(self, number: int) -> dict[str, float]:
        """Rollouts, update, push; seconds and tokens of each."""
        lengths = iter(self.case.lengths)
        started = time.perf_counter()
        requests = []
        for i, prompt in enumerate(self.asked):
            for member in range(self.case.group):
                seed = 1000 * (number * len(self.asked) + i) + member
                params = SamplingParams.for_training(next(lengths), (), seed)
                requests.append(self.engine.generate(prompt, params))
        completions = await asyncio.gather(*requests)
        sampled = time.perf_counter()
        records = []
        for i, (completion,) in enumerate(completions):
            group = i // self.case.group
            records.append(trajectory(self.asked[group], completion, group))
        rewards = [record.reward for record in records]
        groups = [record.group_id for record in records]
        for record, advantage in zip(records, group_advantages(rewards, groups), strict=True):
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


def run_ours(case: Case) -> dict[str, Any]:
    """One warm-up step of a tenth of the lengths, then the measured one."""
    ours = Ours(case)
    warm = replace(case, longest=max(8, case.longest // 10), median=max(8, case.median // 10))

    async def both() -> dict[str, float]:
        ours.case = warm
        await ours.step(0)
        ours.case = case
        return await ours.step(1)

    found = asyncio.run(both())
    tokens = sum(case.lengths)
    peak = memory_in_use("VmHWM")
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


def run_trl(case: Case) -> dict[str, Any]:
    """TRL's GRPOTrainer with PEFT: the second of two steps, by the trainer's own callbacks."""
    import datasets
    import peft
    import transformers
    import trl

    shape = SHAPES[case.shape]
    lengths = case.lengths
    end = 0

    class Ends(transformers.LogitsProcessor):  # type: ignore[misc]
        """Lets row i end at its own length and not before."""

        def __init__(self, prompt: int) -> None:
            self.prompt = prompt

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            drawn = input_ids.shape[1] - self.prompt
            last = torch.tensor(
                [drawn >= lengths[i % len(lengths)] - 1 for i in range(len(scores))]
            )
            scores[~last, end] = float("-inf")
            forced = torch.full_like(scores, float("-inf"))
            forced[:, end] = 0.0
            return torch.where(last[:, None].to(scores.device), forced, scores)

    class Told(transformers.Qwen2ForCausalLM):  # type: ignore[misc]
        """Generates completions of the lengths that are asked for."""

        def generate(self, *args: Any, **kwargs: Any) -> Any:
            kwargs["logits_processor"] = [Ends(kwargs["input_ids"].shape[1])]
            return super().generate(*args, **kwargs)

    settings = transformers.Qwen2Config(
        vocab_size=shape.vocab_size, hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size, num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads, max_position_embeddings=2048,
        tie_word_embeddings=shape.tie_word_embeddings,
        bos_token_id=None, eos_token_id=end, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    bf16 = case.precision == "bf16"
    model = Told(settings)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend(case), eos_token="<end>", pad_token="<pad>", padding_side="left"
    )
    adapter = peft.LoraConfig(r=case.rank, lora_alpha=32, target_modules=list(lora.TARGETS))
    marks: list[float] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        """Notes when each update begins and ends; generation comes before the first."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

    def rewards(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [score(ids) for ids in completion_ids]

    count = case.prompts * case.group
    with tempfile.TemporaryDirectory() as directory:
        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=rewards,
            args=trl.GRPOConfig(
                output_dir=directory, use_cpu=case.device == "cpu", bf16=bf16, fp16=False,
                max_steps=1, per_device_train_batch_size=min(8, count),
                gradient_accumulation_steps=count // min(8, count), num_generations=case.group,
                max_completion_length=case.longest, temperature=1.0, top_k=0, top_p=1.0, beta=0.0,
                learning_rate=1e-5, save_strategy="no", report_to=[], disable_tqdm=True,
                gradient_checkpointing=False, logging_strategy="no",
            ),
            train_dataset=datasets.Dataset.from_dict({"prompt": questions(case)}),
            processing_class=fast,
            peft_config=adapter,
            callbacks=[Clock()],
        )  # fmt: skip
        started = time.perf_counter()
        trainer.train()
    ended = marks[-1]
    return {
        "step": ended - started,
        "tokens": sum(lengths),
        "peak_gib": memory_in_use("VmHWM") / 2**30,
        "products": "bf16" if bf16 else "fp32",
    }


def in_a_process(side: str, case: Case) -> dict[str, Any]:
    """One run of one side, alone in its process."""
    words = [sys.executable, __file__, "--one", side, "--case", json.dumps(asdict(case))]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def summary(values: list[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


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
        figures[name] = {key: summary([run[key] for run in found]) for key in sorted(numbers)}
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
    if not options.quick:
        path = Path(__file__).parent / "results" / f"rl_real-{options.shape}-{options.device}.json"
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
    parser.add_argument("--one", choices=["ours", "trl"], help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        run = run_ours if given.one == "ours" else run_trl
        print(json.dumps(run(Case(**json.loads(given.case)))))
    else:
        main(given)
