"""A policy on disk, from which ranks and samplers start; the run's directory is seen by all."""

from dataclasses import dataclass
from pathlib import Path

import torch

from openqwq.model import checkpoint, lora, precision
from openqwq.model.fit import available_memory, parameter_counts, read_subject
from openqwq.model.lora import Adapter
from openqwq.model.precision import DTYPES
from openqwq.model.qwen2 import Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.policies import LoadedPolicy
from openqwq.types import OpenQwQError, Products

GB = 1e9


@dataclass(frozen=True)
class SavedPolicy:
    """A checkpoint with its tokenizer, the adapter on it if there is one, and its precision."""

    weights: Path
    adapter: Path | None
    products: Products

    def require_room(self, device: torch.device) -> None:
        """Raise OpenQwQError where `device` has no room for the weights as a sampler holds them."""
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
        """The model, as far as possible still in its mapped file, with the adapter hung on it."""
        model = checkpoint.load(self.weights, dtype=None)
        precision.prepare(model, self.products, trained=self.adapter is None)
        if self.adapter is None:
            return model, None
        adapter = lora.load(self.adapter, model)
        lora.attach(model, adapter)
        return model, adapter

    @staticmethod
    def write(
        folder: Path,
        name: str,
        policy: LoadedPolicy,
        tokenizer: Tokenizer,
        products: Products,
    ) -> "SavedPolicy":
        """Write what is not there yet of `folder/name` and its adapter."""
        weights = folder / name
        if not weights.exists():
            checkpoint.save(policy.model, weights, tokenizer)
        if policy.adapter is None:
            return SavedPolicy(weights, None, products)
        adapter = folder / f"{name}.adapter"
        if not adapter.exists():
            lora.save(policy.adapter, adapter)
        return SavedPolicy(weights, adapter, products)
