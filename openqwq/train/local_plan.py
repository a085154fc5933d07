"""`qwq train CONFIG --plan` for one machine: memory and seconds of each stage, before training."""

from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from statistics import mean

import torch

from openqwq.config import Config, DistillStage, RlStage, SftStage, Stage
from openqwq.data.hub import DataLock
from openqwq.engine.cache import SlotCache
from openqwq.engine.open import locate
from openqwq.model.fit import (
    available_memory,
    memory_in_use,
    pack_fits,
    parameter_counts,
    read_subject,
)
from openqwq.model.precision import DTYPES, chosen_products
from openqwq.model.qwen2 import ModelConfig
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.curriculum import Curriculum
from openqwq.train.frozen import has_copy_of_its_start, loaded_bytes
from openqwq.train.held_out import settings_of
from openqwq.train.lengths import (
    evaluated_length,
    longest_example,
    needed_length,
    run_tokenizer,
)
from openqwq.train.micro_batches import PROCESS, adapter_rank, fitting_tokens
from openqwq.train.plan import Work, advice, describe, plan_stage
from openqwq.train.policies import base_of_adapter, fresh_config
from openqwq.train.prepare import BEST, PREVIOUS, START, Prepared, prepare
from openqwq.train.sft import TaskStream, encode_examples
from openqwq.train.slots import fitting_slots
from openqwq.types import OpenQwQError, Products

TASKS = 200  # of a stage, whose lengths are measured


def describe_local_plan(config: Config, skip_bad_rows: bool = False) -> str:
    """The plan as text: the tables are opened to measure prompts, of the model only its header.

    Raises OpenQwQError as a run would before its first step.
    """
    torch.set_num_threads(config.threads or torch.get_num_threads())  # "auto" measures
    prepared = prepare(config, DataLock(), skip_bad_rows)
    tokenizer, context = run_tokenizer(config, prepared.tables)
    model = _model_config(config, tokenizer)
    memory = available_memory() + memory_in_use()
    # on a card or machine whose speed nobody measured
    elsewhere = config.plan.memory_gib > 0
    if elsewhere:
        memory = round(config.plan.memory_gib * 2**30)
    length = config.engine.max_length or min(context, needed_length(prepared, tokenizer))
    engine = replace(config.engine, max_length=length)
    slots = engine.slots or fitting_slots(engine, model, memory)
    settled = replace(config, engine=replace(engine, slots=slots))
    prepared = replace(prepared, config=settled)

    texts: list[str] = []
    for stage in config.stages:
        if not isinstance(stage, SftStage | RlStage | DistillStage):
            texts.append(
                f"{stage.name}: a reward model takes less than the policy's own stages"
            )
            continue
        work = _work(prepared, stage, tokenizer, model, memory)
        plan = plan_stage(model, work, PROCESS, timed=not elsewhere)
        hint = advice(model, work, PROCESS, memory)
        texts.append(describe(stage.name, plan, memory, hint))
    return "\n\n".join(texts)


def _model_config(config: Config, tokenizer: Tokenizer) -> ModelConfig:
    if config.model:
        return _saved_shape(config.model)
    assert config.shape is not None
    return fresh_config(config.shape, tokenizer)


def _work(
    prepared: Prepared,
    stage: Stage,
    tokenizer: Tokenizer,
    model: ModelConfig,
    memory: int,
) -> Work:
    """One step of a stage in `memory` bytes, of a config with its length and slots settled."""
    config = prepared.config
    products = _products(config, model)
    parameters, _ = parameter_counts(model)
    size = DTYPES[products].itemsize * parameters  # of a base in memory
    assert isinstance(stage, SftStage | RlStage | DistillStage)
    teacher = loaded_bytes(stage, partial(_shape_of, config, model))
    micro_batch = stage.optimiser.max_tokens_per_micro_batch
    if not micro_batch:
        try:
            longest = longest_example(prepared, stage, tokenizer)
            micro_batch = fitting_tokens(
                stage, config, model, products, memory, teacher, longest
            )
        except OpenQwQError:  # the plan itself says so, and what would fit
            micro_batch = config.engine.max_length
    evaluated = 0
    if isinstance(stage, SftStage):
        settings = settings_of(config, prepared.tables, stage)
        evaluated = evaluated_length(settings, prepared.tables, tokenizer)
        step = imitated_step(prepared, stage, tokenizer)
    else:
        step = sampled_step(prepared, stage, tokenizer)
    return Work(
        completions=step.completions,
        group_size=step.group_size,
        prompt_tokens=step.prompt_tokens,
        completion_tokens=step.completion_tokens,
        slots=0 if isinstance(stage, SftStage) else config.engine.slots,
        lanes=config.engine.lanes,
        max_length=config.engine.max_length,
        prefill_tokens=config.engine.prefill_tokens,
        micro_batch_tokens=micro_batch,
        products=products,
        rank=adapter_rank(stage),
        recompute=config.recompute,
        reference=has_copy_of_its_start(stage),
        teacher=teacher,
        packs=config.device != "cuda" and pack_fits(size, memory - size),
        evaluation_slots=config.engine.slots if evaluated else 0,
        evaluated_length=min(
            max(evaluated, SlotCache.FIRST_LENGTH), config.engine.max_length
        ),
        evaluated_within=stage.evaluate.every > 0,
    )


def _shape_of(config: Config, model: ModelConfig, name: str) -> ModelConfig:
    """The shape of a teacher or reference; that of an earlier stage is the model's own."""
    stages = [stage.name for stage in config.stages]
    if name.removesuffix(BEST) in (*stages, PREVIOUS, START):
        return model
    return _saved_shape(name)


def _saved_shape(name: str) -> ModelConfig:
    """The shape of a checkpoint, or of an adapter's base, by its header."""
    return read_subject(locate(base_of_adapter(name) or name, weights=False)).config


def _products(config: Config, model: ModelConfig) -> Products:
    """What the run multiplies in; a card that is not here is taken to know bf16."""
    if config.plan.memory_gib and config.device == "cuda":
        return "fp32" if config.precision == "fp32" else "bf16"
    device = torch.device("cuda" if config.device == "cuda" else "cpu")
    return chosen_products(config.precision, model, device)


@dataclass(frozen=True)
class Step:
    """What one step of a stage learns from: numbers as in `Work`, means of its first tasks."""

    completions: int
    group_size: int
    prompt_tokens: int
    completion_tokens: int


def imitated_step(prepared: Prepared, stage: SftStage, tokenizer: Tokenizer) -> Step:
    """The mean of the stage's first batches; each turn of a worked solution is an example."""
    stream = TaskStream(prepared.of(stage), stage, str(prepared.config.seed))
    batches = min(stream.steps, -(-TASKS // stage.batch_size))
    prompts: list[int] = []
    replies: list[int] = []
    for task in chain.from_iterable(stream.next_batch() for _ in range(batches)):
        for ids, learned in encode_examples(tokenizer, task, stage.loss_on):
            replies.append(sum(learned))
            prompts.append(len(ids) - sum(learned))
    return Step(
        completions=round(len(replies) / batches),
        group_size=1,
        prompt_tokens=round(mean(prompts)),
        completion_tokens=round(mean(replies)),
    )


def sampled_step(
    prepared: Prepared, stage: RlStage | DistillStage, tokenizer: Tokenizer
) -> Step:
    """The mean of the stage's first prompts; plan.mean_completion says how long replies are."""
    config = prepared.config
    curriculum = Curriculum(prepared.of(stage), stage.data, str(config.seed))
    prompts: list[int] = []
    for task in curriculum.next_tasks(TASKS):
        prompts.append(len(encode_chat(tokenizer, task.messages, task.tools)))
    return Step(
        completions=stage.prompts_per_step * stage.group_size,
        group_size=stage.group_size,
        prompt_tokens=round(mean(prompts)),
        completion_tokens=round(config.plan.mean_completion * stage.max_tokens),
    )
