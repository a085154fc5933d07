"""Where an RL stage trains, samples and judges: here it is this process; `cluster/` has another."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import NamedTuple, Protocol

from openqwq.config import Config, DistillStage, RlStage
from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.engine.threads import CallersThread
from openqwq.model.fit import return_freed_memory, room_for_pack
from openqwq.model.qwen2 import Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.judges import Bench
from openqwq.train.learner import Learner, PolicyLearner
from openqwq.train.policies import LoadedPolicy
from openqwq.train.rl import Trainer
from openqwq.train.run import Run
from openqwq.types import Generate, Verifier, WeightLink

SamplingStage = RlStage | DistillStage


class Policy(NamedTuple):
    """One model in its two roles, and the way from one to the other."""

    learner: PolicyLearner
    generate: Generate
    link: WeightLink


class Placement(Protocol):
    """Gives the parts of an RL stage a place to run, and frees it at the end."""

    trainer: type[Trainer]

    def policy(
        self, run: Run, stage: SamplingStage, policy: LoadedPolicy, tokenizer: Tokenizer
    ) -> AbstractContextManager[Policy]:
        """A policy as learner and sampler; a local learner trains its own weights."""
        ...

    def generator(
        self, run: Run, name: str, policy: LoadedPolicy, tokenizer: Tokenizer
    ) -> AbstractContextManager[Generate]:
        """Something that samples a policy, which is called `name` in the run."""
        ...

    async def verifiers(self, names: Iterable[str], bench: Bench) -> Mapping[str, Verifier]:
        """The judges called `names`; the bench's stack closes them."""
        ...


class LocalPlacement:
    """Everything in this process."""

    trainer = Trainer

    @contextmanager
    def policy(
        self, run: Run, stage: SamplingStage, policy: LoadedPolicy, tokenizer: Tokenizer
    ) -> Iterator[Policy]:
        """See `Placement.policy`."""
        with local_engine(policy.model, tokenizer, run.config) as engine:
            learner = Learner(
                policy.model,
                stage.optimiser,
                stage.steps,
                policy.adapter,
                stage.temperature,
            )
            yield Policy(learner, engine, engine)

    @contextmanager
    def generator(
        self, run: Run, name: str, policy: LoadedPolicy, tokenizer: Tokenizer
    ) -> Iterator[Generate]:
        """See `Placement.generator`."""
        with local_engine(policy.model, tokenizer, run.config) as engine:
            yield engine

    async def verifiers(self, names: Iterable[str], bench: Bench) -> Mapping[str, Verifier]:
        """See `Placement.verifiers`."""
        return {name: await bench.verifier(name) for name in names}


@contextmanager
def local_engine(model: Qwen2, tokenizer: Tokenizer, config: Config) -> Iterator[Engine]:
    """An engine over `model`, of which it keeps a copy in its own layout."""
    return_freed_memory()
    if config.deterministic:
        model.make_invariant()
    limits = engine_limits(config)
    packs = room_for_pack(model)
    engine = Engine(model, tokenizer, limits, thread=CallersThread(), packs=packs)
    try:
        yield engine
    finally:
        engine.close()


def engine_limits(config: Config) -> EngineLimits:
    """What the engine runs at once; `max_length`, and locally `slots`, were settled before."""
    engine = config.engine
    return EngineLimits(
        slots=engine.slots or EngineLimits.slots,
        max_length=engine.max_length,
        prefill_tokens=engine.prefill_tokens,
        lanes=engine.lanes,
    )


def with_max_length(config: Config, length: int) -> Config:
    """`config` with the engine's sequences limited to `length` tokens."""
    return replace(config, engine=replace(config.engine, max_length=length))
