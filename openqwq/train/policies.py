"""Where a stage's weights come from, and where its result is saved."""

from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch

from openqwq.config import Config, ShapeConfig
from openqwq.model import checkpoint
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.tasks.table import Table
from openqwq.text.tokenizer import SPECIAL_TOKENS, TEXT_TOKENS, Tokenizer
from openqwq.train.prepare import START, Prepared
from openqwq.train.run import Run
from openqwq.train.sft import encode_examples


def open_tokenizer(run: Run, prepared: Prepared) -> Tokenizer:
    """The tokenizer of the run's model; a fresh one is trained the first time."""
    config = run.config
    if config.model:
        from openqwq.engine.open import load_tokenizer, locate

        return load_tokenizer(locate(config.model))
    directory = run.directory / "tokenizer"
    if (directory / "tokenizer_config.json").exists():
        return Tokenizer.load(directory)
    tokenizer = fresh_tokenizer(config, prepared.tables)
    tokenizer.save(directory)
    return tokenizer


def fresh_tokenizer(config: Config, tables: Mapping[str, Table]) -> Tokenizer:
    """A tokenizer trained on the training splits of all staged tables."""
    return Tokenizer.train(_training_texts(config, tables), config.tokenizer.vocab_size)


def _training_texts(config: Config, tables: Mapping[str, Table]) -> list[str]:
    """Whole examples of all staged tables, as the template renders them, without its markers.

    Prompts of tools are mostly template, so the tasks' own text would not do.
    """
    in_bytes = Tokenizer.train([], 256 + len(SPECIAL_TOKENS + TEXT_TOKENS))
    markers = set(in_bytes.added_tokens.values())
    limit = config.tokenizer.tasks_per_table
    texts: list[str] = []
    for name in config.staged_data():
        table = tables[name]
        size = limit if table.size is None else min(limit, table.size)
        for number in islice(range(size), limit):
            task = table.draw(number, str(config.seed))
            for ids, _ in encode_examples(in_bytes, task):
                texts.append(in_bytes.decode(i for i in ids if i not in markers))
    return texts


def load_policy(run: Run, origin: str, tokenizer: Tokenizer) -> Qwen2:
    """The model that `origin` names: `start`, a stage of the run, `STAGE:best`, or a path."""
    if origin == START:
        return _start(run.config, tokenizer)
    name = origin.replace(":best", ".best")
    saved = run.directory / name
    return checkpoint.load(saved if saved.exists() else Path(origin))


def _start(config: Config, tokenizer: Tokenizer) -> Qwen2:
    if not config.model:
        return fresh_model(config.shape or ShapeConfig(), tokenizer, config.seed)
    from openqwq.engine.open import locate
    from openqwq.model import gguf

    source = locate(config.model)
    return gguf.load(source) if source.is_file() else checkpoint.load(source)


def fresh_model(shape: ShapeConfig, tokenizer: Tokenizer, seed: int) -> Qwen2:
    """A model of `shape` with random weights, its output projection tied to its embedding."""
    model = Qwen2(
        ModelConfig(
            vocab_size=tokenizer.vocab_size,
            head_dim=shape.hidden_size // shape.num_attention_heads,
            tie_word_embeddings=True,
            **asdict(shape),
        )
    )
    model.initialise(torch.Generator().manual_seed(seed))
    return model


def save_policy(run: Run, name: str, model: Qwen2, tokenizer: Tokenizer) -> None:
    """Save `model` as `name` in the run's directory, in place of what was there."""
    with run.replacing(name) as directory:
        checkpoint.save(model, directory, tokenizer)
