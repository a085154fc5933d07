"""Defaults that depend on other settings: learning rates, and the shape of a fresh model."""

from dataclasses import replace

from openqwq.config.stages import FULL_RATES, LORA_RATES, RewardModelStage, Stage
from openqwq.config.tree import Config, ShapeConfig

REWARD_MODEL_EPOCHS = 3.0


def with_defaults(config: Config) -> Config:
    """`config` with every setting that another one decides filled in."""
    if not config.model and config.shape is None:
        config = replace(config, shape=ShapeConfig())
    stages = tuple(_with_rate(_with_epochs(stage)) for stage in config.stages)
    return replace(config, stages=stages)


def _with_epochs(stage: Stage) -> Stage:
    if isinstance(stage, RewardModelStage) and not stage.epochs:
        return replace(stage, epochs=REWARD_MODEL_EPOCHS)
    return stage


def _with_rate(stage: Stage) -> Stage:
    if stage.optimiser.lr:
        return stage
    rates = FULL_RATES if stage.lora is None else LORA_RATES
    return replace(stage, optimiser=replace(stage.optimiser, lr=rates[stage.kind]))
