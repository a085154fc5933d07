"""Low-rank adapters (LoRA, arXiv 2106.09685) on a model's linear layers, saved as PEFT saves them.

A layer's output is W x + scale · B (A x) with W frozen. The adapter stands apart from the model,
whose parameters stay those of its checkpoint: `attach` hangs it on, `Adapter.off` leaves the base.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from openqwq.data.files import new_directory
from openqwq.model.linear import Linear, LowRank
from openqwq.model.qwen2 import Qwen2
from openqwq.model.tensor_file import write_tensors
from openqwq.types import OpenQwQError

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's, of every tensor
SAMPLES = 256  # numbers of each tensor that a base's fingerprint looks at
# What PEFT can do to a layer and we do not, with the value that means it is not done.
UNSUPPORTED = {
    "use_dora": False,
    "bias": "none",
    "modules_to_save": None,
    "fan_in_fan_out": False,
    "alpha_pattern": {},
    "trainable_token_indices": None,
}


@dataclass(frozen=True)
class AdapterShape:
    """Which layers are adapted, by how much: `alpha` / `rank` scales what an adapter adds.

    Raises OpenQwQError for a rank below 1, or a target that is not one of `TARGETS`.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise OpenQwQError(f"lora.rank is {self.rank}: it must be at least 1")
        if not self.alpha > 0:
            raise OpenQwQError(f"lora.alpha is {self.alpha}: it must be above 0")
        unknown = [target for target in self.targets if target not in TARGETS]
        if unknown or not self.targets:
            named = ", ".join(unknown) or "none"
            raise OpenQwQError(
                f"lora.targets names {named}: choose from {', '.join(TARGETS)}"
            )

    @property
    def scale(self) -> float:
        """The factor on B A."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class Base:
    """The model that an adapter belongs to: its name, its revision, and its fingerprint."""

    name: str = ""
    revision: str | None = None
    sha256: str = ""


@dataclass(frozen=True)
class Adapter:
    """One `LowRank` for each adapted layer, by the layer's name in the model."""

    shape: AdapterShape
    layers: dict[str, LowRank]
    base: Base

    def parameters(self) -> list[nn.Parameter]:
        """A and B of every layer, in order."""
        return [matrix for layer in self.layers.values() for matrix in (layer.a, layer.b)]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter by the name of its layer and `lora_A.weight` or `lora_B.weight`."""
        yield from named_parameters(self.layers)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside the block the model is its base alone."""
        for layer in self.layers.values():
            layer.active = False
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.active = True

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the values of `named_parameters`.

        Raises OpenQwQError, with nothing changed, for one that is missing, unknown or misshapen.
        """
        copy_into(self.layers, tensors)


def fresh(
    model: Qwen2,
    shape: AdapterShape,
    generator: torch.Generator,
    name: str = "",
    revision: str | None = None,
) -> Adapter:
    """An adapter that adds nothing yet: A is uniform as in PEFT, B is zero; both fp32.

    `name` and `revision` say which model this is.
    """
    layers = {}
    for layer, module in _linear_layers(model).items():
        if layer.rpartition(".")[2] not in shape.targets:
            continue
        bound = 1 / math.sqrt(module.in_features)
        a = torch.empty(shape.rank, module.in_features).uniform_(
            -bound, bound, generator=generator
        )
        b = torch.zeros(module.out_features, shape.rank)
        layers[layer] = _low_rank(a, b, shape.scale, module)
    return Adapter(shape, layers, Base(name, revision, fingerprint(model)))


def attach(model: Qwen2, adapter: Adapter) -> None:
    """Freeze the model and hang the adapter on its layers.

    Raises OpenQwQError if the model is not the adapter's base.
    """
    check_base(model, adapter)
    modules = _linear_layers(model)
    model.requires_grad_(False)
    for name, layer in adapter.layers.items():
        modules[name].adapter = layer


def detach(model: Qwen2) -> None:
    """Leave the model as it was, but frozen."""
    for module in _linear_layers(model).values():
        module.adapter = None


def attached(model: Qwen2) -> dict[str, LowRank]:
    """What hangs on the model's layers, by their names."""
    found = {}
    for name, module in _linear_layers(model).items():
        if module.adapter is not None:
            found[name] = module.adapter
    return found


def copy_into(layers: Mapping[str, LowRank], tensors: Mapping[str, Tensor]) -> None:
    """Give an adapter's layers the values of its `named_parameters`.

    Raises OpenQwQError, with nothing changed, for one that is missing, unknown or misshapen.
    """
    own = dict(named_parameters(layers))
    wrong = set(own.keys() ^ tensors.keys())
    for name in own.keys() & tensors.keys():
        if own[name].shape != tensors[name].shape:
            wrong.add(name)
    if wrong:
        raise OpenQwQError(
            f"the adapter's weights do not match it in {', '.join(sorted(wrong)[:3])}: give all of "
            "its tensors, in its own rank and targets"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])


def named_parameters(layers: Mapping[str, LowRank]) -> Iterator[tuple[str, nn.Parameter]]:
    """See `Adapter.named_parameters`, for its layers alone."""
    for name, layer in layers.items():
        yield f"{name}.lora_A.weight", layer.a
        yield f"{name}.lora_B.weight", layer.b


def names_adapter(names: Iterable[str]) -> bool:
    """Whether these are names of `Adapter.named_parameters`, and not of a model's."""
    return any(name.endswith(("lora_A.weight", "lora_B.weight")) for name in names)


def check_base(model: Qwen2, adapter: Adapter) -> None:
    """Raise OpenQwQError where the adapter was made for another model than this."""
    modules = _linear_layers(model)
    for name, layer in adapter.layers.items():
        module = modules.get(name)
        needed = (layer.b.shape[0], layer.a.shape[1])
        if module is None or needed != (module.out_features, module.in_features):
            found = "none" if module is None else [module.out_features, module.in_features]
            raise OpenQwQError(
                f"the adapter of {adapter.base.name or 'an unnamed base'} has {name} for a matrix "
                f"{list(needed)}, but the model's is {found}: name the base it was trained on"
            )
    known = model.device.type != "meta"  # else only shapes can be compared
    if known and adapter.base.sha256 and adapter.base.sha256 != fingerprint(model):
        raise OpenQwQError(
            f"the adapter was trained on {adapter.base.name or 'another model'}, whose weights "
            f"have the fingerprint {adapter.base.sha256[:12]}, and this model's are others: name "
            "the base it was trained on"
        )


def fingerprint(model: Qwen2) -> str:
    """SHA-256 of evenly spaced numbers of every tensor, the same for weights in fp32 and bf16."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{list(parameter.shape)}".encode())
        flat = parameter.detach().view(-1)
        numbers = flat[:: max(1, len(flat) // SAMPLES)].to(torch.bfloat16)
        digest.update(numbers.view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()


def save(adapter: Adapter, directory: Path) -> None:
    """Write a new directory that `load`, PEFT and vLLM read.

    Raises OpenQwQError if `directory` holds anything, or cannot be written.
    """
    names = {name.rpartition(".")[2] for name in adapter.layers}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base.name or None,
        "revision": adapter.base.revision,
        "r": adapter.shape.rank,
        "lora_alpha": adapter.shape.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(names),
        "bias": "none",
        "inference_mode": True,
    }
    tensors = {PREFIX + name: p.detach() for name, p in adapter.named_parameters()}
    with new_directory(directory.resolve()) as folder:
        fingerprint_of_base = {"base_sha256": adapter.base.sha256}
        write_tensors(tensors, tensors.items(), folder / WEIGHTS, fingerprint_of_base)
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def load(directory: Path, model: Qwen2) -> Adapter:
    """The adapter in a PEFT directory, for `model`; in fp32, not yet attached.

    Raises OpenQwQError naming what is missing, damaged, not supported, or of another base.
    """
    config = _read_config(directory / CONFIG)
    tensors, metadata = _read_tensors(directory / WEIGHTS)
    targets = sorted({name.split(".")[-3] for name in tensors if name.count(".") > 2})
    shape = AdapterShape(config["r"], float(config["lora_alpha"]), tuple(targets))
    scale = shape.alpha / math.sqrt(shape.rank) if config.get("use_rslora") else shape.scale
    modules = _linear_layers(model)
    layers = {}
    for name, module in modules.items():  # in the model's order, as `fresh` has it
        a = tensors.pop(f"{PREFIX}{name}.lora_A.weight", None)
        b = tensors.pop(f"{PREFIX}{name}.lora_B.weight", None)
        if a is not None and b is not None:
            layers[name] = _low_rank(a, b, scale, module)
        elif a is not None or b is not None:
            raise OpenQwQError(
                f"{directory / WEIGHTS} has half of {name}: copy the file again"
            )
    if tensors or not layers:
        left = ", ".join(sorted(tensors)[:3]) or "no tensors"
        raise OpenQwQError(
            f"{directory / WEIGHTS} has {left} without a place in this model: name the base that "
            "the adapter was trained on (only linear layers' lora_A and lora_B are supported)"
        )
    base = Base(
        config.get("base_model_name_or_path") or "",
        config.get("revision"),
        metadata.get("base_sha256", ""),
    )
    adapter = Adapter(shape, layers, base)
    check_base(model, adapter)
    return adapter


def merge(model: Qwen2, adapter: Adapter) -> None:
    """Add the adapter to the weights, computed in fp32 and rounded to their own type.

    Raises OpenQwQError if the model is not the adapter's base.
    """
    check_base(model, adapter)
    modules = _linear_layers(model)
    with torch.no_grad():
        for name, layer in adapter.layers.items():
            weight = modules[name].weight
            added = layer.scale * (layer.b.float() @ layer.a.float())
            merged = (weight.float() + added.to(weight.device)).to(weight.dtype)
            modules[name].weight = nn.Parameter(merged, requires_grad=weight.requires_grad)


def _linear_layers(model: Qwen2) -> dict[str, Linear]:
    linear = {name: m for name, m in model.named_modules() if isinstance(m, Linear)}
    linear.pop("lm_head", None)
    return linear


def _low_rank(a: Tensor, b: Tensor, scale: float, module: Linear) -> LowRank:
    device = module.weight.device
    if device.type == "meta":
        device = torch.device("cpu")
    return LowRank(
        nn.Parameter(a.float().to(device)), nn.Parameter(b.float().to(device)), scale
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OpenQwQError(
            f"cannot read {path} ({error}): name a directory that PEFT or qwq train wrote"
        ) from error
    if config.get("peft_type") != "LORA":
        raise OpenQwQError(
            f"{path} has peft_type = {config.get('peft_type')!r}: it must be 'LORA'"
        )
    for name, supported in UNSUPPORTED.items():
        value = config.get(name)
        if value and value != supported:
            raise OpenQwQError(f"{path} has {name} = {value!r}: it must be {supported!r}")
    for name in ("r", "lora_alpha"):
        if not isinstance(config.get(name), int | float):
            raise OpenQwQError(
                f"{path} has {name} = {config.get(name)!r}: it must be a number"
            )
    return config


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise OpenQwQError(f"cannot read {path} ({error}): copy it again") from error
