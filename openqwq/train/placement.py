"""Where an RL stage trains, samples and judges: here it is this process; `cluster/` has another."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from typing import NamedTuple, Protocol

from openqwq.config import Config, DistillStage, RlStage
from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.engine.threads import CallersThread
from openqwq.model.fit import return_freed_memory, room_for_pack
from openqwq.model.qwen2 import Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.frozen import name_of_frozen
from openqwq.train.judges import Bench
from openqwq.train.learner import Learner, PolicyLearner
from openqwq.train.objective import Frozen
from openqwq.train.policies import AdapterAsItWas, LoadedPolicy
from openqwq.train.rl import Trainer
from openqwq.train.run_policies import Policies
from openqwq.types import Generate, Verifier, WeightLink

SamplingStage = RlStage | DistillStage


class Policy(NamedTuple):
    """One model in its two roles, the way from one to the other, and what it is compared with."""

    learner: PolicyLearner
    generate: Generate
    link: WeightLink
    frozen: Frozen | None  # a KL penalty's reference, or a teacher that is not an endpoint


class Placement(Protocol):
    """Gives the parts of an RL stage a place to run, and frees it at the end."""

    trainer: type[Trainer]

    def policy(
        self, policies: Policies, stage: SamplingStage, origin: str
    ) -> AbstractContextManager[Policy]:
        """The policy `origin` as learner and sampler of a stage."""
        ...

    def generator(
        self, policies: Policies, name: str, policy: str | LoadedPolicy
    ) -> AbstractContextManager[Generate]:
        """Something that samples a policy, for what is called `name` in the run.

        The policy goes by its own name, or is in this process, where it is being trained.
        """
        ...

    async def verifiers(
        self, names: Iterable[str], bench: Bench, seconds: float | None = None
    ) -> Mapping[str, Verifier]:
        """The judges called `names`, as `Bench.verifier` gives them; its stack closes them."""
        ...


class LocalPlacement:
    """Everything in this process."""

    trainer = Trainer

    @contextmanager
    def policy(
        self, policies: Policies, stage: SamplingStage, origin: str
    ) -> Iterator[Policy]:
        """See `Placement.policy`."""
        frozen_name = name_of_frozen(stage)
        frozen: Frozen | None = None
        if frozen_name is not None:
            loaded = policies.load(frozen_name)
            frozen = _learner(loaded, stage, 0)
        policy = policies.trained(stage, origin)
        with local_engine(policy.model, policies.tokenizer, policies.run.config) as engine:
            learner = _learner(policy, stage, stage.steps)
            if frozen is None:
                frozen = _start_of(stage, policy, learner)
            yield Policy(learner, engine, engine, frozen)

    @contextmanager
    def generator(
        self, policies: Policies, name: str, policy: str | LoadedPolicy
    ) -> Iterator[Generate]:
        """See `Placement.generator`."""
        loaded = policies.loaded(policy) if isinstance(policy, str) else policy
        with local_engine(loaded.model, policies.tokenizer, policies.run.config) as engine:
            yield engine

    async def verifiers(
        self, names: Iterable[str], bench: Bench, seconds: float | None = None
    ) -> Mapping[str, Verifier]:
        """See `Placement.verifiers`."""
        return {name: await bench.verifier(name, seconds) for name in names}


def _learner(policy: LoadedPolicy, stage: SamplingStage, steps: int) -> Learner:
    return Learner(policy.model, stage.optimiser, steps, policy.adapter, stage.temperature)


def _start_of(
    stage: SamplingStage, policy: LoadedPolicy, learner: Learner
) -> Frozen | None:
    """The policy as the stage begins, for a KL penalty where it has one."""
    if not isinstance(stage, RlStage) or not stage.kl_coefficient:
        return None
    if policy.adapter is None:
        return _learner(LoadedPolicy(deepcopy(policy.model), policy.base), stage, 0)
    if stage.lora == "continue":
        return AdapterAsItWas(learner, policy.adapter)
    return learner.reference()


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
