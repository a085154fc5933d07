"""Checkpoint directories in Hugging Face's layout: a config.json and safetensors files."""

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from openqwq.data.files import new_directory
from openqwq.model.fields import Fields, checked
from openqwq.model.qwen2 import Family, ModelConfig, Qwen2
from openqwq.model.rope import Llama3Scaling, RopeScaling, YarnScaling, attention_scale
from openqwq.model.tensor_file import write_tensors
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import OpenQwQError

ARCHITECTURES: dict[str, Family] = {
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "LlamaForCausalLM": "llama",
}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
STORED_TYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
LLAMA_BUFFER = "rotary_emb.inv_freq"  # old Llama files store it; it follows from the config


def load(directory: Path | str, dtype: torch.dtype | None = torch.float32) -> Qwen2:
    """The model in `directory`, its weights copied from the mapped files and cast to `dtype`.

    The mapped file takes memory for one tensor at a time. With None nothing is copied: tensors
    keep their own type and stay mapped. Raises OpenQwQError naming the file, and the field or
    tensor, that is missing, damaged or not supported.
    """
    folder = Path(directory)
    config_path = folder / "config.json"
    if not folder.is_dir():
        raise OpenQwQError(
            f"{folder} is not a directory: name one that holds {config_path.name}"
        )
    model = empty_model(parse_config(_read_json(config_path), str(config_path)))
    file_of = _tensor_files(folder)
    tied = model.config.tie_word_embeddings
    stored = {name for name in file_of if not name.endswith(LLAMA_BUFFER)}
    check_names(
        str(folder), needed_names(model), stored - ({"lm_head.weight"} if tied else set())
    )
    # The largest first, when there is still room for its mapped and its copied pages.
    largest_first = sorted(model.named_parameters(), key=lambda named: -named[1].numel())
    tensors = {
        name: _read_tensor(file_of[name], name, parameter.shape, dtype)
        for name, parameter in largest_first
    }
    if tied and (file := file_of.get("lm_head.weight")):
        embedding = tensors["model.embed_tokens.weight"]
        if not torch.equal(
            _read_tensor(file, "lm_head.weight", embedding.shape, dtype), embedding
        ):
            raise OpenQwQError(
                f"{file} has an lm_head.weight of its own, but {config_path} ties it to the "
                "embedding: set tie_word_embeddings to false there"
            )
    return fill(model, tensors)


def save(model: Qwen2, directory: Path | str, tokenizer: Tokenizer | None = None) -> None:
    """Write a new directory, whole or not at all, that transformers, vLLM and llama.cpp's converter
    load; the weights keep their dtype.

    Raises OpenQwQError if `directory` holds anything, or cannot be written (a full disk).
    """
    # `named_parameters` gives a tied head once, as the embedding.
    tensors = {name: weight.detach() for name, weight in model.named_parameters()}
    save_weights(model.config, tensors, tensors.items(), directory, tokenizer)


def save_weights(
    config: ModelConfig,
    described: Mapping[str, Tensor],
    weights: Iterable[tuple[str, Tensor]],
    directory: Path | str,
    tokenizer: Tokenizer | None,
) -> None:
    """`save` where the weights come one by one; `described` has their shapes and types."""
    dtype = described["model.embed_tokens.weight"].dtype
    description = config_json(config, dtype, tokenizer)
    with new_directory(Path(directory).resolve()) as folder:
        write_tensors(described, weights, folder / WEIGHTS)
        (folder / "config.json").write_text(json.dumps(description, indent=2) + "\n")
        if tokenizer:
            tokenizer.save(folder)


def parse_config(config: Mapping[str, Any], source: str = "config.json") -> ModelConfig:
    """The shape that the fields of a config.json state.

    Raises OpenQwQError naming the first field that is missing, malformed, or asks for something
    that `Qwen2` does not compute.
    """
    fields = Fields(config, source)
    names = config.get("architectures")
    if names not in [[name] for name in ARCHITECTURES]:
        raise OpenQwQError(
            f"{source} has architectures = {names!r}: supported are {', '.join(ARCHITECTURES)}"
        )
    family = ARCHITECTURES[names[0]]
    fields.require("hidden_act", "silu")
    fields.require("quantization_config", None)
    if family == "llama":
        fields.require("mlp_bias", False)
    else:
        fields.require("use_sliding_window", False)
    if family != "qwen2":
        fields.require("attention_bias", False)  # it would be on the output projection too
    for kind in config.get("layer_types") or ():
        Fields({"layer_types": kind}, source).require("layer_types", "full_attention")
    heads = fields.integer("num_attention_heads")
    hidden = fields.integer("hidden_size")
    usual_head_dim = 128 if family == "qwen3" else hidden // heads
    theta, scaling = _rotary_embedding(fields)
    return checked(
        ModelConfig(
            vocab_size=fields.integer("vocab_size"),
            hidden_size=hidden,
            intermediate_size=fields.integer("intermediate_size"),
            num_hidden_layers=fields.integer("num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=fields.integer("num_key_value_heads", heads),
            head_dim=fields.integer("head_dim", usual_head_dim),
            rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
            rope_theta=theta,
            max_position_embeddings=fields.integer("max_position_embeddings"),
            tie_word_embeddings=fields.boolean("tie_word_embeddings", False),
            attention_bias=family == "qwen2",
            qk_norm=family == "qwen3",
            rope_scaling=scaling,
        ),
        source,
    )


def config_json(
    config: ModelConfig, dtype: torch.dtype, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """The fields of a config.json, in the spelling that old and new transformers both read."""
    own: dict[str, Any] = {"use_sliding_window": False}
    if config.family == "llama":
        own = {"mlp_bias": False}
    if config.family != "qwen2":
        own["attention_bias"] = False
    return {
        "architectures": [
            name for name, value in ARCHITECTURES.items() if value == config.family
        ],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _scaling_json(config.rope_scaling),
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
        **own,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "bos_token_id": None,
        "eos_token_id": tokenizer and tokenizer.eos_ids[0],
        "pad_token_id": tokenizer and tokenizer.pad_id,
    }


def empty_model(config: ModelConfig) -> Qwen2:
    """A model on the meta device, whose weights take no memory."""
    with torch.device("meta"), _NoInitialisation():
        return Qwen2(config)


class _NoInitialisation(TorchFunctionMode):
    """Without `torch.nn.init`: for a meta tensor it would import all of torch's compiler."""

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs and kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def fill(model: Qwen2, tensors: Mapping[str, Tensor]) -> Qwen2:
    """Make `tensors` (one a parameter, by its name) the weights of an `empty_model`, uncopied."""
    for name, tensor in tensors.items():
        module, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(module), attribute, nn.Parameter(tensor))
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


def needed_names(model: Qwen2) -> Set[str]:
    """The tensors that a checkpoint of `model` holds; a tied head is not among them."""
    return {name for name, _ in model.named_parameters()}


def check_names(source: str, needed: Set[str], stored: Set[str]) -> None:
    """Raise OpenQwQError naming the tensors that a checkpoint lacks or should not have."""
    for names, verb in [
        (needed - stored, "lacks"),
        (stored - needed, "has the unexpected"),
    ]:
        if names:
            shown = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            raise OpenQwQError(
                f"{source} {verb} tensor(s) {shown} ({len(names)} in all): its weights and its "
                "config belong to different models, or the copy is incomplete"
            )


def _scaling_json(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    kind = "yarn" if isinstance(scaling, YarnScaling) else "llama3"
    return {"rope_type": kind, "type": kind, **vars(scaling)}


def _rotary_embedding(fields: Fields) -> tuple[float, RopeScaling | None]:
    """Theta and scaling, from `rope_parameters` (transformers 5) or the two older fields."""
    values = fields.values
    found = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(found, dict):
        raise OpenQwQError(
            f"{fields.source} has rope scaling {found!r}: it must be an object"
        )
    rope = Fields(
        {"rope_theta": values.get("rope_theta"), **found}, f"{fields.source}'s rope"
    )
    theta = rope.number("rope_theta", 10_000.0)
    rope.require("partial_rotary_factor", 1.0)
    kind = found.get("rope_type", found.get("type", "default"))
    read = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    scaling: RopeScaling | None = None
    if kind == "yarn":
        scaling = _yarn(rope, fields.integer("max_position_embeddings"))
        rope.require("truncate", True)
        rope.require("attention_factor", attention_scale(scaling))
        read |= {*vars(scaling), "truncate", "attention_factor"}
    elif kind == "llama3":
        scaling = _llama3(rope)
        read |= {*vars(scaling)}
    elif kind != "default":
        raise OpenQwQError(
            f"{rope.source} has type {kind!r}: supported are default, yarn, llama3"
        )
    for name in sorted(found.keys() - read):
        rope.require(name, None)
    return theta, scaling


def _yarn(rope: Fields, length: int) -> YarnScaling:
    original = rope.integer("original_max_position_embeddings", length)
    return YarnScaling(
        rope.number("factor", length / original),
        original,
        rope.number("beta_fast", 32.0),
        rope.number("beta_slow", 1.0),
    )


def _llama3(rope: Fields) -> Llama3Scaling:
    scaling = Llama3Scaling(
        rope.number("factor"),
        rope.integer("original_max_position_embeddings"),
        rope.number("low_freq_factor"),
        rope.number("high_freq_factor"),
    )
    if scaling.low_freq_factor >= scaling.high_freq_factor:
        raise OpenQwQError(
            f"{rope.source} has low_freq_factor = {scaling.low_freq_factor} and high_freq_factor ="
            f" {scaling.high_freq_factor}: the first must be below the second"
        )
    return scaling


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OpenQwQError(
            f"cannot read {path} ({error}): copy it from the checkpoint"
        ) from error
    if not isinstance(content, dict):
        raise OpenQwQError(f"{path} holds no JSON object: copy it from the checkpoint")
    return content


def _tensor_files(folder: Path) -> dict[str, Path]:
    """Which file holds each tensor."""
    files = [folder / WEIGHTS]
    if not files[0].exists() and (folder / INDEX).exists():
        shard_of = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(shard_of, dict) or not all(
            isinstance(s, str) for s in shard_of.values()
        ):
            raise OpenQwQError(
                f"{folder / INDEX} has no weight_map: copy it from the checkpoint"
            )
        files = [folder / shard for shard in sorted(set(shard_of.values()))]
    file_of: dict[str, Path] = {}
    for file in files:
        if not file.exists():
            raise OpenQwQError(f"{file} is missing: copy it from the checkpoint")
        try:
            with safe_open(file, "pt") as opened:
                file_of |= dict.fromkeys(opened.keys(), file)
        except (OSError, SafetensorError) as error:
            raise OpenQwQError(f"cannot read {file} ({error}): copy it again") from error
    return file_of


def _read_tensor(
    file: Path, name: str, shape: torch.Size, dtype: torch.dtype | None
) -> Tensor:
    # Opened again for each tensor: pages that were read count as ours until the mapping goes.
    try:
        with safe_open(file, "pt") as opened:
            stored = opened.get_tensor(name)
            if stored.shape != shape or stored.dtype not in STORED_TYPES:
                raise OpenQwQError(
                    f"{file} has {name} as {stored.dtype} {list(stored.shape)}, but its config "
                    f"needs floating-point numbers {list(shape)}: the two belong to other models"
                )
            tensor: Tensor = stored.to(dtype, copy=True) if dtype else stored
            return tensor
    except (OSError, SafetensorError) as error:
        raise OpenQwQError(
            f"cannot read {name} from {file} ({error}): copy it again"
        ) from error
