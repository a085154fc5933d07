"""How many tokens one forward pass takes, where a config leaves that to the free memory."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from openqwq.config import Config, DistillStage, LoraConfig, RlStage, SftStage
from openqwq.model.device import chosen_device
from openqwq.model.fit import available_memory, memory_in_use, pack_fits, parameter_counts
from openqwq.model.precision import DTYPES
from openqwq.model.qwen2 import ModelConfig
from openqwq.train.frozen import has_copy_of_its_start
from openqwq.train.plan import Work, micro_batch_tokens, useful_tokens
from openqwq.train.run import Run
from openqwq.types import Products

Trained = TypeVar("Trained", SftStage, RlStage, DistillStage)
PROCESS = 420 * 2**20  # bytes; the peak of a run whose model has next to no weights


def adapter_rank(stage: SftStage | RlStage | DistillStage) -> int:
    """Of a stage's adapter; 0: all weights are trained."""
    if stage.lora is None:
        return 0
    if isinstance(stage.lora, LoraConfig):
        return stage.lora.rank
    return LoraConfig().rank  # "continue": known only when the adapter is loaded


def fitting_tokens(
    stage: SftStage | RlStage | DistillStage,
    config: Config,
    model: ModelConfig,
    products: Products,
    memory: int,
    teacher: int = 0,
    longest: int = 0,
) -> int:
    """The largest useful micro-batch that fits into `memory` bytes with all else in the stage.

    Sequences are taken to be as long as they may be; `longest` are the tokens of SFT's longest
    example, `teacher` the bytes of another policy that is loaded. Raises OpenQwQError, saying what
    would fit, where nothing does.
    """
    length = config.engine.max_length or model.max_position_embeddings
    length = max(length, longest)
    completions = 1
    slots = 0
    if isinstance(stage, RlStage | DistillStage):
        completions = stage.prompts_per_step * stage.group_size
        slots = config.engine.slots
    work = Work(
        completions=completions,
        group_size=1,
        prompt_tokens=length,
        completion_tokens=length,
        slots=slots,
        lanes=config.engine.lanes,
        max_length=length,
        prefill_tokens=config.engine.prefill_tokens,
        micro_batch_tokens=0,
        products=products,
        rank=adapter_rank(stage),
        recompute=config.recompute,
        reference=has_copy_of_its_start(stage),
        teacher=teacher,
    )
    if config.device == "cuda":
        return micro_batch_tokens(model, work, PROCESS, memory)

    parameters, _ = parameter_counts(model)
    size = DTYPES[products].itemsize * parameters
    work = replace(work, packs=pack_fits(size, memory - size))
    return micro_batch_tokens(model, work, PROCESS, memory, useful_tokens(model))


def free_memory(config: Config) -> int:
    """Bytes that this process may use on the run's device, with what it has already."""
    if chosen_device(config.device).type == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved()
    return available_memory() + memory_in_use()


def sized(
    stage: Trained,
    run: Run,
    model: ModelConfig,
    products: Products,
    teacher: int = 0,
    longest: Callable[[], int] = lambda: 0,
) -> Trained:
    """The stage with its micro-batches in tokens, by the free memory where it leaves that open.

    On a cluster, whose memory is not seen from here, they are as large as they may be. `teacher`
    and `longest` are as in `fitting_tokens`; the latter takes time, and is asked where it counts.
    """
    if stage.optimiser.max_tokens_per_micro_batch:
        return stage
    if run.config.cluster.learners:
        tokens = max(stage.optimiser.micro_batch_tokens, longest())
    else:
        memory = free_memory(run.config)

        def choose() -> int:
            return fitting_tokens(
                stage, run.config, model, products, memory, teacher, longest()
            )

        tokens = run.micro_batch(stage.name, choose)
    optimiser = replace(stage.optimiser, max_tokens_per_micro_batch=tokens)
    return replace(stage, optimiser=optimiser)
