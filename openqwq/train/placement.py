"""Where an RL stage trains, samples and judges: here it is this process; `cluster/` has another."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from dataclasses import asdict
from typing import NamedTuple, Protocol

from openqwq.config import Config, RlConfig
from openqwq.engine.engine import CallersThread, Engine, EngineLimits
from openqwq.model.qwen2 import Qwen2
from openqwq.sandbox.local import LocalSandbox
from openqwq.tasks.instructions import TasteVerifier
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.learner import Learner, PolicyLearner
from openqwq.train.rl import Trainer
from openqwq.train.run import Run
from openqwq.types import Generate, Verifier, WeightLink
from openqwq.verify.code import CodeVerifier
from openqwq.verify.instructions import InstructionVerifier
from openqwq.verify.math import MathVerifier


class Policy(NamedTuple):
    """One model in its two roles, and the way from one to the other."""

    learner: PolicyLearner
    generate: Generate
    link: WeightLink


class Placement(Protocol):
    """Puts the parts of an RL stage somewhere and takes them away again."""

    trainer: type[Trainer]

    def policy(
        self, run: Run, stage: str, model: Qwen2, tokenizer: Tokenizer, config: RlConfig
    ) -> AbstractContextManager[Policy]:
        """`model` as learner and sampler; a local learner trains `model` itself."""
        ...

    def generator(
        self, run: Run, name: str, model: Qwen2, tokenizer: Tokenizer
    ) -> AbstractContextManager[Generate]:
        """Something that samples `model`, which is saved as `name` in the run's directory."""
        ...

    async def verifiers(self, config: Config, stack: AsyncExitStack) -> Mapping[str, Verifier]:
        """The judges that tasks ask for by name; `stack` closes them."""
        ...


class LocalPlacement:
    """Everything in this process."""

    trainer = Trainer

    @contextmanager
    def policy(
        self, run: Run, stage: str, model: Qwen2, tokenizer: Tokenizer, config: RlConfig
    ) -> Iterator[Policy]:
        """See `Placement.policy`."""
        with local_engine(model, tokenizer, run.config) as engine:
            yield Policy(Learner(model, config.optimiser, config.steps), engine, engine)

    @contextmanager
    def generator(
        self, run: Run, name: str, model: Qwen2, tokenizer: Tokenizer
    ) -> Iterator[Generate]:
        """See `Placement.generator`."""
        with local_engine(model, tokenizer, run.config) as engine:
            yield engine

    async def verifiers(self, config: Config, stack: AsyncExitStack) -> Mapping[str, Verifier]:
        """See `Placement.verifiers`."""
        return await open_verifiers(config, stack)


@contextmanager
def local_engine(model: Qwen2, tokenizer: Tokenizer, config: Config) -> Iterator[Engine]:
    """An engine over `model`, of which it keeps a copy in its own layout."""
    if config.deterministic:
        model.make_invariant()
    limits = EngineLimits(**asdict(config.engine))
    engine = Engine(model, tokenizer, limits, thread=CallersThread())
    try:
        yield engine
    finally:
        engine.close()


async def open_verifiers(config: Config, stack: AsyncExitStack) -> dict[str, Verifier]:
    """Every judge that a run may ask, by the name tasks ask for; `stack` closes them."""
    sandbox = await stack.enter_async_context(LocalSandbox.configured(config.sandbox))
    math = await stack.enter_async_context(MathVerifier())
    verifiers: dict[str, Verifier] = {
        "math": math,
        "code": CodeVerifier(sandbox),
        "instructions": InstructionVerifier(),
        "preference": TasteVerifier(),
    }
    if any(entry.source == "gym" for entry in (*config.tasks, *config.stage2.tasks)):
        from openqwq.tasks.gym import GymVerifier

        verifiers["gym"] = GymVerifier()
    return verifiers
