"""Think tokens for a base that has none: `thinking = "tokens"`.

Without the setting, `<think>` and `</think>` are plain text to such a base, and the state machine
of `text/stream.py` reads them as text. With it they are two tokens of the run's tokenizer, each
with a row of its own in the embedding, and every checkpoint of the run is saved with both.
"""

from dataclasses import replace

import torch
from torch import Tensor

from openqwq.config import Config, RewardModelStage, Stage
from openqwq.model.checkpoint import empty_model, fill
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.text.tokenizer import THINK_TOKENS, Tokenizer
from openqwq.types import OpenQwQError

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def with_setting(tokenizer: Tokenizer, config: Config) -> Tokenizer:
    """The base's tokenizer as the run uses it; raises OpenQwQError where it cannot be extended.

    New rows are trained with whole weights, so the first stage of a policy may not be an adapter's.
    """
    if config.thinking == "text" or tokenizer.think_open_id is not None:
        return tokenizer
    for stage in config.stages:
        if isinstance(stage, RewardModelStage):
            continue
        if stage.lora is not None:
            raise OpenQwQError(_untrained(stage, config.model))
        break
    return tokenizer.with_think_tokens()


def _untrained(stage: Stage, model: str) -> str:
    return (
        f"stages.{stage.name}.lora with thinking 'tokens': {model} has no think tokens, and an "
        "adapter does not train the rows that they get; begin with a stage of whole weights, or "
        'set thinking = "text"'
    )


def with_rows(model: Qwen2, tokenizer: Tokenizer) -> Qwen2:
    """`model` with embedding (and head) rows for the think tokens of `tokenizer`.

    A row starts as the mean of the rows that stand for the same text in pieces, so that the model
    meets something that it knows. The other weights are shared with `model`.
    """
    grown = shape_with_rows(model.config, tokenizer)
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensor = parameter.detach()
        if name in (EMBEDDING, HEAD):
            tensor = _grown(tensor, grown.vocab_size, tokenizer)
        tensors[name] = tensor
    return fill(empty_model(grown), tensors)


def shape_with_rows(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The shape of a model of `config` after `with_rows`."""
    return replace(config, vocab_size=max(config.vocab_size, tokenizer.vocab_size))


def _grown(rows: Tensor, size: int, tokenizer: Tokenizer) -> Tensor:
    grown = torch.zeros(size, rows.shape[1], dtype=rows.dtype, device=rows.device)
    grown[: len(rows)] = rows
    for text in THINK_TOKENS:
        pieces = tokenizer.encode(text)  # without the added tokens
        grown[tokenizer.added_tokens[text]] = rows[pieces].mean(0)
    return grown
