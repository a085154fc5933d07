"""The policies of a run by name: told by their headers, loaded where this process needs them."""

from dataclasses import replace

from openqwq.config import Config, Stage
from openqwq.model import precision
from openqwq.model.device import chosen_device
from openqwq.model.qwen2 import ModelConfig
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.lengths import needed_length
from openqwq.train.policies import LoadedPolicy, for_stage, load_policy, shape_of
from openqwq.train.prepare import Prepared
from openqwq.train.run import Run
from openqwq.train.slots import with_slots
from openqwq.types import Products


class Policies:
    """What stages and placements ask for by name; the last policy that was loaded stays here."""

    def __init__(self, run: Run, prepared: Prepared, tokenizer: Tokenizer) -> None:
        self.run = run
        self.prepared = prepared
        self.tokenizer = tokenizer
        self._held: tuple[str, LoadedPolicy] | None = None

    def shape(self, name: str) -> ModelConfig:
        """A policy's shape; the first settles the engine's length and slots."""
        shape = shape_of(self.run, name, self.tokenizer)
        config = self.run.config
        if not config.engine.max_length:
            needed = needed_length(self.prepared, self.tokenizer)
            length = min(needed, shape.max_position_embeddings)
            self.run.config = _with_max_length(config, length)
        self.run.config = with_slots(self.run, shape)
        return shape

    def products(self, name: str) -> Products:
        """What the run multiplies in; `auto` is measured once and kept for the run."""
        shape = self.shape(name)  # settles the engine, also where the precision is known
        config = self.run.config
        recorded = self.run.recorded_precision()
        if config.precision == "auto" and recorded is not None:
            return recorded
        device = chosen_device(config.device)
        chosen = precision.chosen_products(config.precision, shape, device)
        self.run.record_precision(chosen)
        return chosen

    def load(self, name: str) -> LoadedPolicy:
        """A policy on the run's device, in its precision."""
        products = self.products(name)
        policy = load_policy(self.run, name, self.tokenizer)
        config = self.run.config
        policy.model.to(chosen_device(config.device))
        policy.model.recompute = config.recompute
        precision.prepare(policy.model, products, trained=policy.adapter is None)
        return policy

    def loaded(self, name: str) -> LoadedPolicy:
        """`load`, from memory where it was the last."""
        if self._held is None or self._held[0] != name:
            self.forget()
            self._held = (name, self.load(name))
        return self._held[1]

    def trained(self, stage: Stage, name: str) -> LoadedPolicy:
        """The policy `name` as `stage` trains it, by whose name it is known from now on."""
        policy = for_stage(self.run, stage, self.loaded(name), self.tokenizer)
        products = self.products(name)
        precision.prepare(policy.model, products, trained=policy.adapter is None)
        self._held = (stage.name, policy)
        return policy

    def forget(self) -> None:
        """Hold no policy any more."""
        self._held = None


def _with_max_length(config: Config, length: int) -> Config:
    return replace(config, engine=replace(config.engine, max_length=length))
