"""TRL's side of `rl_real.py`: GRPOTrainer with PEFT, the second of two steps."""

import argparse
import json
import tempfile
import time
from typing import Any

import datasets
import peft
import torch
import transformers
import trl
from rl_real import SHAPES, Case, backend, questions, score

from openqwq.model import lora, precision
from openqwq.model.fit import memory_in_use


class Lengths:
    """How long the completions of the next generation are: short first, to warm up."""

    def __init__(self, case: Case) -> None:
        self.next = [case.shortened().lengths, case.lengths]


class Ends(transformers.LogitsProcessor):  # type: ignore[misc]
    """Lets row i end at its own length and not before; the end is token 0."""

    def __init__(self, prompt: int, lengths: list[int]) -> None:
        self.prompt = prompt
        self.lengths = lengths

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        drawn = input_ids.shape[1] - self.prompt
        lengths = torch.tensor(self.lengths, device=scores.device)
        is_last = (drawn >= lengths - 1)[:, None]
        scores[:, 0] = float("-inf")
        ended = torch.full_like(scores, float("-inf"))
        ended[:, 0] = 0.0
        return torch.where(is_last, ended, scores)


class Told(transformers.Qwen2ForCausalLM):  # type: ignore[misc]
    """Generates completions of the lengths that are asked for."""

    lengths: Lengths

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        prompt = kwargs["input_ids"].shape[1]
        kwargs["logits_processor"] = [Ends(prompt, self.lengths.next.pop(0))]
        return super().generate(*args, **kwargs)


class Clock(transformers.TrainerCallback):  # type: ignore[misc]
    """Notes when each step has ended; a step begins with its generation."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


def rewards(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """What `rl_real` gives."""
    return [score(ids) for ids in completion_ids]


def run(case: Case) -> dict[str, Any]:
    """Seconds of a step, its tokens, and the peak."""
    shape = SHAPES[case.shape]
    asked: Any = case.precision
    products = precision.chosen_products(asked, shape, torch.device(case.device))
    settings = transformers.Qwen2Config(
        vocab_size=shape.vocab_size, hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size, num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads, max_position_embeddings=2048,
        tie_word_embeddings=shape.tie_word_embeddings,
        bos_token_id=None, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Told(settings).to(precision.DTYPES[products])
    model.lengths = Lengths(case)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend(case),
        eos_token="<end>",
        pad_token="<pad>",
        padding_side="left",
    )
    clock = Clock()
    count = case.prompts * case.group
    with tempfile.TemporaryDirectory() as directory:
        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=rewards,
            args=trl.GRPOConfig(
                output_dir=directory, use_cpu=case.device == "cpu", bf16=products == "bf16",
                fp16=False, max_steps=2, per_device_train_batch_size=min(8, count),
                gradient_accumulation_steps=count // min(8, count), num_generations=case.group,
                max_completion_length=case.longest, temperature=1.0, top_k=0, top_p=1.0, beta=0.0,
                learning_rate=1e-5, save_strategy="no", report_to=[], disable_tqdm=True,
                gradient_checkpointing=False, logging_strategy="no",
            ),
            train_dataset=datasets.Dataset.from_dict({"prompt": questions(case)}),
            processing_class=fast,
            peft_config=peft.LoraConfig(
                r=case.rank, lora_alpha=32, target_modules=list(lora.TARGETS)
            ),
            callbacks=[clock],
        )  # fmt: skip
        trainer.train()
    warm, measured = clock.ends
    return {
        "step": measured - warm,
        "tokens": sum(case.lengths),
        "peak_gib": memory_in_use("VmHWM") / 2**30,
        "products": products,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", required=True)
    given = parser.parse_args()
    print(json.dumps(run(Case(**json.loads(given.case)))))
