"""How many sequences an engine holds, where a config leaves that to the free memory."""

from dataclasses import replace

from openqwq.config import Config, EngineConfig
from openqwq.engine.limits import EngineLimits
from openqwq.model.qwen2 import ModelConfig
from openqwq.train.micro_batches import free_memory
from openqwq.train.plan import cache_bytes
from openqwq.train.run import Run

CACHE_SHARE = 3  # the cache may take one part in so many of the free memory


def fitting_slots(engine: EngineConfig, model: ModelConfig, memory: int) -> int:
    """The most slots whose keys and values fit into a third of `memory` bytes.

    Every slot has room for `max_length` tokens, as one long prompt makes all of them that long.
    """
    slots = EngineLimits.slots
    while slots > 1:
        needed = cache_bytes(model, slots + engine.lanes, engine.max_length)
        if CACHE_SHARE * needed <= memory:
            break
        slots //= 2
    return slots


def with_slots(run: Run, model: ModelConfig) -> Config:
    """The run's config with the engine's slots, which a resumed run takes over.

    On a cluster, whose memory is not seen from here, there are as many as there may be.
    """
    config = run.config
    if config.engine.slots or config.cluster.learners:
        return config
    slots = run.slots(lambda: fitting_slots(config.engine, model, free_memory(config)))
    return replace(config, engine=replace(config.engine, slots=slots))
