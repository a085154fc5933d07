"""One GRPO step, ours against TRL's GRPOTrainer: the same 4.42M Qwen2, prompts and token counts.

A step samples 16 prompts x 8 completions x 64 tokens, scores them, and updates the weights once,
all in fp32. Both run in this one process, after each other, `REPEATS` times after a warm-up, for
each prompt length: 16 tokens, where nearly all work is on the completions, up to 512, as long as a
question with instructions and tools is.

    python bench/rl_step.py [--device cuda] [PROMPT_TOKENS ...]
"""

import argparse
import asyncio
import json
import platform
import random
import resource
import statistics
import string
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import tokenizers
import torch

from openqwq.config import OptimiserConfig, RlStage
from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.engine.threads import CallersThread
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.advantages import group_advantages
from openqwq.train.learner import Learner
from openqwq.train.objective import objective
from openqwq.train.packing import pack_trajectories
from openqwq.types import Completion, SamplingParams, Trajectory

PROMPTS, GROUP, NEW_TOKENS, REPEATS = 16, 8, 64, 5
PROMPT_LENGTHS = (16, 256, 512)
SHAPE = ModelConfig(256, 256, 716, 6, 8, 2, 32, rope_theta=10_000.0)
MICRO_BATCH = {"cpu": 2048, "cuda": 2**17}  # tokens; a GPU is filled by all at once


def reward(token_ids: list[int]) -> float:
    """Something that varies: the share of even ids."""
    return sum(i % 2 == 0 for i in token_ids) / len(token_ids)


def prompts(length: int) -> list[list[int]]:
    """The same random prompts for both: letters, so that text and ids say the same."""
    letters = random.Random(0)
    tokenizer = backend()
    return [
        tokenizer.encode("".join(letters.choices(string.ascii_letters, k=length))).ids
        for _ in range(PROMPTS)
    ]


def backend() -> tokenizers.Tokenizer:
    """Byte-level without merges: 254 bytes and two markers, 256 ids."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())[:254]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>", "<pad>"])
    return tokenizer


def trajectories(prompt: list[int], group: list[Completion], name: str) -> list[Trajectory]:
    """Training records of one group."""
    size = len(prompt)
    return [
        Trajectory(
            prompt + c.token_ids,
            [False] * size + c.sampled_mask,
            [0.0] * size + c.log_probs,
            [0] * size + c.weight_version,
            name, name, "", reward(c.token_ids), {}, "correct", 0,
        )
        for c in group
    ]  # fmt: skip


def config(device: str) -> RlStage:
    """Both sides' settings."""
    optimiser = OptimiserConfig(max_tokens_per_micro_batch=MICRO_BATCH[device])
    return RlStage("rl", steps=100, max_tokens=NEW_TOKENS, optimiser=optimiser)


async def our_step(
    engine: Engine, learner: Learner, asked: list[list[int]], step: int
) -> dict[str, float]:
    """Rollouts, rewards, update, weight push."""
    params = [
        SamplingParams.for_training(NEW_TOKENS, (), 1000 * (step * PROMPTS + i))
        for i in range(PROMPTS)
    ]
    groups = await asyncio.gather(
        *(engine.generate(p, s, GROUP) for p, s in zip(asked, params, strict=True))
    )
    records = [
        t
        for i, (p, g) in enumerate(zip(asked, groups, strict=True))
        for t in trajectories(p, g, str(i))
    ]
    advantages = group_advantages(
        [t.reward for t in records], [t.group_id for t in records]
    )
    for record, advantage in zip(records, advantages, strict=True):
        record.advantage = advantage
    settings = config(learner.device.type)
    batches = pack_trajectories(records, settings.optimiser.max_tokens_per_micro_batch)
    metrics = learner.train_step(batches, objective(settings))
    engine.push(learner.named_params(), step + 1)
    assert metrics["tokens"] == PROMPTS * GROUP * NEW_TOKENS
    return metrics


def time_ours(prompt_tokens: int, device: str) -> list[float]:
    """Seconds of each of our steps."""
    settings = config(device)
    generator = torch.Generator().manual_seed(0)
    models = Qwen2(SHAPE), Qwen2(SHAPE)
    models[0].initialise(generator)
    models[1].load_state_dict(models[0].state_dict())
    tokenizer = Tokenizer(
        backend(), {"eos_token": "<end>", "pad_token": "<pad>"}, [], "bench"
    )
    limits = EngineLimits(PROMPTS * GROUP, prompt_tokens + NEW_TOKENS)
    place = torch.device(device)
    engine = Engine(models[0], tokenizer, limits, thread=CallersThread(), device=place)
    learner = Learner(models[1].to(place), settings.optimiser, settings.steps)
    asked = prompts(prompt_tokens)

    async def run() -> list[float]:
        seconds = []
        for step in range(REPEATS + 1):
            started = time.perf_counter()
            metrics = await our_step(engine, learner, asked, step)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        assert metrics["log_prob_gap"] < 1e-4
        return seconds[1:]

    seconds = asyncio.run(run())
    engine.close()
    return seconds


def time_trl(prompt_tokens: int, device: str) -> list[float]:
    """Seconds of each of TRL's steps, from the trainer's own callbacks."""
    import datasets
    import transformers
    import trl

    shape = transformers.Qwen2Config(
        vocab_size=256, hidden_size=256, intermediate_size=716, num_hidden_layers=6,
        num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=1024,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=254, pad_token_id=255,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(shape)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend(),
        eos_token="<end>",
        pad_token="<pad>",
        padding_side="left",
    )
    marks: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

    def rewards(completion_ids: list[list[int]], **_: Any) -> list[float]:
        assert {len(ids) for ids in completion_ids} == {NEW_TOKENS}
        return [reward(ids) for ids in completion_ids]

    texts = [fast.decode(ids) for ids in prompts(prompt_tokens)]
    with tempfile.TemporaryDirectory() as directory:
        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=rewards,
            args=trl.GRPOConfig(
                output_dir=directory, use_cpu=device == "cpu", bf16=False, fp16=False,
                max_steps=REPEATS + 1,
                per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP,
                max_completion_length=NEW_TOKENS, temperature=1.0, top_k=0, top_p=1.0, beta=0.0,
                learning_rate=config(device).optimiser.lr, save_strategy="no", report_to=[],
                gradient_checkpointing=False, disable_tqdm=True, logging_strategy="no",
                generation_kwargs={"min_new_tokens": NEW_TOKENS},
            ),
            train_dataset=datasets.Dataset.from_dict({"prompt": texts * (REPEATS + 1)}),
            processing_class=fast,
            callbacks=[Clock()],
        )  # fmt: skip
        started = time.perf_counter()
        trainer.train()
    # Generation happens before on_step_begin: a step lasts from the end of the one before.
    ends = marks[1::2]
    return [b - a for a, b in zip([started, *ends], ends, strict=False)][1:]


def line(name: str, seconds: list[float]) -> str:
    """One row: min, median and max seconds, and samples a second."""
    middle = statistics.median(seconds)
    rate = PROMPTS * GROUP / middle
    return (
        f"{name:<8} min {min(seconds):6.2f}  median {middle:6.2f}  max {max(seconds):6.2f} s/step"
        f"  {rate:7.1f} samples/s"
    )


def peak() -> float:
    """Peak resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(prompt_tokens: int, device: str) -> dict[str, Any]:
    """Time both at one prompt length; prints a row for each and their ratio."""
    print(f"prompts of {prompt_tokens} tokens")
    ours = time_ours(prompt_tokens, device)
    print(line("openqwq", ours), f" peak {peak():.0f} MiB", flush=True)
    theirs = time_trl(prompt_tokens, device)
    print(line("trl", theirs), f" peak {peak():.0f} MiB (of the process)")
    ratio = statistics.median(theirs) / statistics.median(ours)
    print(f"ratio of medians: {ratio:.1f}x", flush=True)
    sides = {"openqwq": ours, "trl": theirs}
    return {
        "prompt_tokens": prompt_tokens,
        "ratio": ratio,
        **{
            name: {
                "min": min(s),
                "median": statistics.median(s),
                "max": max(s),
                "seconds": s,
            }
            for name, s in sides.items()
        },
    }


def main(lengths: list[int], device: str) -> None:
    """Compare at every prompt length and keep the figures."""
    parameters = sum(p.numel() for p in Qwen2(SHAPE).parameters())
    processor = platform.processor() or platform.machine()
    machine = torch.cuda.get_device_name() if device == "cuda" else processor
    print(f"{date.today()}  {machine}  torch {torch.__version__}")
    print(
        f"{parameters:,} parameters, {torch.get_num_threads()} threads, {REPEATS} steps each"
    )
    cases = [compare(length, device) for length in lengths]
    record = {
        "date": str(date.today()),
        "parameters": parameters,
        "threads": torch.get_num_threads(),
        "machine": machine,
        "cases": cases,
    }
    path = (
        Path(__file__).parent
        / "results"
        / f"rl_step{'' if device == 'cpu' else '-cuda'}.json"
    )
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lengths", nargs="*", type=int, default=list(PROMPT_LENGTHS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    main(options.lengths, options.device)
