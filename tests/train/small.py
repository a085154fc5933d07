"""A run small enough for tests: one-digit sums, short lists, a calculator, a tiny model."""

from pathlib import Path

from openqwq.config import Config, load_config

OVERRIDES = (
    "threads=1",
    "shape.hidden_size=32",
    "shape.intermediate_size=64",
    "shape.num_hidden_layers=1",
    "shape.num_attention_heads=2",
    "shape.num_key_value_heads=1",
    "tokenizer.vocab_size=300",
    "tokenizer.tasks_per_source=50",
    "tasks=[{source='addition', options={min_digits=1, max_digits=1}}]",
    "sft.steps=60",
    "sft.batch_size=32",
    "sft.thinking_share=0.0",
    "sft.tool_share=1.0",
    "sft.checkpoint_every=10",
    "sft.optimiser.lr=0.02",
    "sft.optimiser.warmup_steps=5",
    "rl.steps=4",
    "rl.prompts_per_step=8",
    "rl.group_size=8",
    "rl.max_tokens=16",
    "rl.checkpoint_every=1",
    "stage2.steps=3",
    "stage2.prompts_per_step=6",
    "stage2.group_size=4",
    "stage2.max_tokens=16",
    "stage2.checkpoint_every=1",
    "stage2.reward_model.prompts=24",
    "stage2.reward_model.held_out_prompts=12",
    "stage2.reward_model.epochs=1",
    "stage2.tasks=[{source='instructions', options={min_words=4, max_words=4}, weight=0.5}, "
    "{source='topics', options={min_words=2, max_words=3}, weight=1.0}, "
    "{source='calculator', options={min_digits=1, max_digits=1}, weight=0.1}]",
    "engine.slots=32",
    "engine.max_length=640",
    "evaluation.problems=5",
    "evaluation.samples=2",
    "sandbox.workers=1",
)


def small_config(*overrides: str) -> Config:
    return load_config([], [*OVERRIDES, *overrides])


def write_config(path: Path, *overrides: str) -> Path:
    from openqwq.config import dump_config

    path.write_text(dump_config(small_config(*overrides)))
    return path
