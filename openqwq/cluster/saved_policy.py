"""A policy on disk, from which ranks and samplers start; its directories are seen by all nodes."""

from contextlib import chdir, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from openqwq.cluster.node import node_address
from openqwq.config import Config, Stage
from openqwq.model import checkpoint, lora, precision
from openqwq.model.fit import available_memory, parameter_counts, read_subject
from openqwq.model.linear import Linear
from openqwq.model.lora import Adapter
from openqwq.model.precision import DTYPES
from openqwq.model.qwen2 import Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.policies import LoadedPolicy, files_of, for_stage, load_policy
from openqwq.types import OpenQwQError, Products

GB = 1e9


@dataclass(frozen=True)
class SavedPolicy:
    """A checkpoint, the adapter on it if there is one, the run's tokenizer, and its precision."""

    weights: Path
    adapter: Path | None
    tokenizer: Tokenizer
    products: Products

    def require_room(self, device: torch.device) -> None:
        """Raise OpenQwQError where `device` has no room for the weights as a sampler holds them."""
        self.require_seen()
        count, _ = parameter_counts(read_subject(self.weights).config)
        needed = count * DTYPES[self.products].itemsize
        if device.type == "cpu":
            free = available_memory()
        else:
            free, _ = torch.cuda.mem_get_info(device)
        if needed > free:
            raise OpenQwQError(
                f"a sampler needs {needed / GB:.1f} GB for the weights in {self.products}, and its "
                f"node has {free / GB:.1f} GB free: choose precision = 'bf16', wider samplers "
                "(cluster.gpus_per_sampler with vLLM), or nodes with more memory"
            )

    def load(self) -> tuple[Qwen2, Adapter | None]:
        """The model, still in its mapped file and its type, with the adapter hung on it."""
        self.require_seen()
        model = checkpoint.load(self.weights, dtype=None)
        if self.adapter is None:
            return model, None
        adapter = lora.load(self.adapter, model)
        lora.attach(model, adapter)
        return model, adapter

    def require_seen(self) -> None:
        """Raise OpenQwQError where this node does not see the directories."""
        for directory in (self.weights, self.adapter):
            if directory is not None and not directory.is_dir():
                raise OpenQwQError(
                    f"the node {node_address()} does not see {directory}: put the run and its "
                    "model where all nodes see them by the same path (for a hub id, HF_HOME)"
                )

    def load_to_sample(self) -> Qwen2:
        """The model for an engine, which copies it matrix by matrix into the run's precision."""
        model, adapter = self.load()
        for module in model.modules():
            if isinstance(module, Linear):
                module.product_dtype = DTYPES[self.products]
        # the one matrix that an engine keeps in the type in which it comes
        embedding = model.model.embed_tokens
        precision.prepare(embedding, self.products, trained=adapter is None)
        return model

    @staticmethod
    def write(
        target: Path, policy: LoadedPolicy, tokenizer: Tokenizer, products: Products
    ) -> "SavedPolicy":
        """Write to `target`, and its adapter next to it, what is not on disk yet."""
        weights = policy.stored
        if weights is None:
            weights = target
            if not weights.exists():
                checkpoint.save(policy.model, weights, tokenizer)
        if policy.adapter is None:
            return SavedPolicy(weights, None, tokenizer, products)
        adapter = target.with_name(f"{target.name}.adapter")
        if not adapter.exists():
            lora.save(policy.adapter, adapter)
        return SavedPolicy(weights, adapter, tokenizer, products)


@dataclass(frozen=True)
class Errand:
    """A policy of a run that a node is to put into directories; see `RunPlace` for the first two.

    With a `stage` it is as that stage trains it. `folder` is the driver's working directory, to
    which a model's path may be relative.
    """

    directory: Path
    config: Config
    folder: Path
    name: str
    stage: Stage | None
    tokenizer: Tokenizer
    products: Products
    target: Path

    def run(self) -> SavedPolicy:
        """Name the directories; only weights that are in none are loaded, and written to `target`.

        These are fresh ones, those of a GGUF file, and those with new rows or an adapter merged in.
        """
        # Ray gives the process other work afterwards, which has a folder of its own.
        with chdir(self.folder) if self.folder.is_dir() else nullcontext():
            return self._run()

    def _run(self) -> SavedPolicy:
        adapted = files_of(self, self.name).adapter is not None
        merges = adapted and self.stage is not None and self.stage.lora != "continue"
        policy = load_policy(self, self.name, self.tokenizer, mapped=not merges)
        if merges:
            precision.prepare(policy.model, self.products, trained=False)
        if self.stage is not None:
            policy = for_stage(self, self.stage, policy, self.tokenizer)
        return SavedPolicy.write(self.target, policy, self.tokenizer, self.products)


def of_what_is_trained(policy: LoadedPolicy) -> LoadedPolicy:
    """The policy without the checkpoint from which its weights have moved away."""
    return policy if policy.adapter is not None else replace(policy, stored=None)
