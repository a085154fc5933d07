"""The engine's own form of a model: weights laid out for decoding, nothing kept for learning.

On the CPU, oneDNN packs each matrix into the blocks that its kernels read, which at 8 to 64 rows is
1.3 to 2 times as fast as the rows that a checkpoint holds, and folds bias, activation, gate and
residual into the product before them. Results differ from `Qwen2`'s by rounding alone. A model in
bf16 has its products there in bf16 and everything between them, the cache included, in fp32:
PyTorch's other operations gain nothing from bf16, and so only products round.
"""

import math
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from openqwq.model.qwen2 import Attend, ModelConfig, Qwen2
from openqwq.model.rope import attention_scale, rotate, rotation
from openqwq.types import OpenQwQError


class Matrix:
    """One projection, packed where that helps; the plain form is not kept."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.bias = bias
        fast = {torch.float32, torch.bfloat16} if has_bf16() else {torch.float32}
        cpu = weight.device.type == "cpu" and weight.dtype in fast
        self.packed = cpu and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        if self.packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self.weight = weight

    def product(self, x: Tensor, activation: str = "none") -> Tensor:
        """(tokens, inputs) to (tokens, outputs), in the weight's dtype; "swish" is silu."""
        x = x.to(self.weight.dtype)
        if self.packed:
            pointwise = torch.ops.mkldnn._linear_pointwise.default
            output: Tensor = pointwise(x, self.weight, self.bias, activation, [], "")
            return output
        output = F.linear(x, self.weight, self.bias)
        return F.silu(output) if activation == "swish" else output

    def combined(self, x: Tensor, other: Tensor, operation: str) -> Tensor:
        """The product of `x` "add" or "mul" `other` (tokens, outputs), in the wider dtype."""
        if self.packed and other.dtype == self.weight.dtype:
            pointwise = torch.ops.mkldnn._linear_pointwise.binary
            output: Tensor = pointwise(x.to(other.dtype), other, self.weight, self.bias, operation)
            return output
        if operation == "add" and self.bias is None and other.dtype == self.weight.dtype:
            return torch.addmm(other, x, self.weight.t())
        output = self.product(x)
        return output + other if operation == "add" else output * other


def has_bf16() -> bool:
    """Whether this CPU multiplies in bf16 (AVX-512 BF16 or AMX); others are faster in fp32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@dataclass(frozen=True)
class Layer:
    """One layer's weights; queries, keys and values are one product."""

    input_norm: Tensor
    qkv: Matrix
    head_norm: Tensor | None  # of each query and key head, (heads + kv_heads, head_dim)
    output: Matrix
    post_norm: Tensor
    gate: Matrix
    up: Matrix
    down: Matrix


class PackedModel:
    """A `Qwen2` to sample from, on `device`: `forward` and `logits` as there, but for rounding.

    `dtype` is that of all but the products: of keys and values, too.
    """

    def __init__(self, model: Qwen2, device: torch.device | None = None) -> None:
        self.config, self.device = model.config, device or model.device
        self.frequencies = model.frequencies.to(self.device)
        cpu = self.device.type == "cpu"
        dtype = model.lm_head.weight.dtype
        self.dtype = torch.promote_types(dtype, torch.float32) if cpu else dtype
        self.least = torch.tensor(math.sqrt(model.config.rms_norm_eps))
        self.names = {name for name, _ in model.named_parameters()}
        self._places: dict[str, Tensor] = {}
        with torch.no_grad():
            self.load(model.named_parameters())

    def load(self, named_params: Iterable[tuple[str, Tensor]]) -> None:
        """Take copies of all parameters, by their checkpoint names, one layer at a time.

        Raises OpenQwQError where a parameter is missing or unknown, with nothing changed.
        """
        given = _all_of(self.names, named_params, self.config)
        given = {name: weight.detach() for name, weight in given.items()}
        self.embedding = self._own("embedding", given["model.embed_tokens.weight"])
        self.layers = [self._layer(given, i) for i in range(self.config.num_hidden_layers)]
        self.norm = self._own("norm", given["model.norm.weight"], dtype=self.dtype)
        tied = self.config.tie_word_embeddings
        self.head = Matrix(self.embedding if tied else self._own("head", given["lm_head.weight"]))

    def _layer(self, given: dict[str, Tensor], number: int) -> Layer:
        def norm(name: str) -> Tensor:
            full = f"model.layers.{number}.{name}.weight"
            return self._own(full, given[full], dtype=self.dtype)

        def matrix(*names: str) -> Matrix:
            full = [f"model.layers.{number}.{name}_proj" for name in names]
            weights = [given[f"{name}.weight"] for name in full]
            biases = [given[f"{name}.bias"] for name in full if f"{name}.bias" in given]
            return Matrix(
                self._own(f"{full[0]}.weight", *weights),
                self._own(f"{full[0]}.bias", *biases) if biases else None,
            )

        return Layer(
            norm("input_layernorm"),
            matrix("self_attn.q", "self_attn.k", "self_attn.v"),
            self._head_norm(given, number),
            matrix("self_attn.o"),
            norm("post_attention_layernorm"),
            *(matrix(f"mlp.{name}") for name in ("gate", "up", "down")),
        )

    def _head_norm(self, given: dict[str, Tensor], number: int) -> Tensor | None:
        if not self.config.qk_norm:
            return None
        name = f"model.layers.{number}.self_attn"
        queries = given[f"{name}.q_norm.weight"].expand(self.config.num_attention_heads, -1)
        keys = given[f"{name}.k_norm.weight"].expand(self.config.num_key_value_heads, -1)
        return self._own(f"{name}.head_norm", queries, keys, dtype=self.dtype)

    def _own(self, name: str, *parts: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A copy of one tensor, or of several end to end, on the device.

        On a GPU it is always at the same address, by which graphs know it.
        """
        weight = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.device.type == "cpu":
            return weight.to(self.device, dtype or weight.dtype, copy=len(parts) == 1)
        if name not in self._places:
            self._places[name] = torch.empty_like(weight, device=self.device)
        return self._places[name].copy_(weight)

    def forward(self, token_ids: Tensor, position_ids: Tensor, attend: Attend) -> Tensor:
        """See `Qwen2.forward`."""
        x = F.embedding(token_ids, self.embedding).to(self.dtype)
        scale = attention_scale(self.config.rope_scaling)
        cos, sin = rotation(position_ids, self.frequencies, scale)
        for number, layer in enumerate(self.layers):
            x = self._mixed(number, layer, x, cos, sin, attend)
            x = self._fed_forward(layer, x)
        return self._normed(x, self.norm)

    def _mixed(
        self, number: int, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend
    ) -> Tensor:
        """The residual stream (tokens, hidden) after a layer's attention."""
        heads, kv_heads = self.config.num_attention_heads, self.config.num_key_value_heads
        projected = layer.qkv.product(self._normed(x, layer.input_norm)).to(self.dtype)
        projected = projected.view(-1, heads + 2 * kv_heads, self.config.head_dim)

        turned = projected[:, : heads + kv_heads]
        if layer.head_norm is not None:
            turned = self._normed(turned, layer.head_norm)
        turned = rotate(turned, cos, sin)

        queries, keys = turned[:, :heads], turned[:, heads:]
        attended = attend(number, queries, keys, projected[:, -kv_heads:])
        return layer.output.combined(attended.flatten(1), x, "add")

    def _fed_forward(self, layer: Layer, x: Tensor) -> Tensor:
        """The residual stream (tokens, hidden) after a layer's SwiGLU."""
        normed = self._normed(x, layer.post_norm).to(layer.gate.weight.dtype)
        gate = layer.gate.product(normed, "swish")
        gated = layer.up.combined(normed, gate, "mul")
        return layer.down.combined(gated, x, "add")

    def logits(self, hidden: Tensor) -> Tensor:
        """See `Qwen2.logits`."""
        return self.head.product(hidden).float()

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm of the last dimension; `weight` is (size,) or one row a head.

        On a CPU by lengths, which is twice as fast as `F.rms_norm` on few tokens.
        """
        size = x.shape[-1]
        if self.device.type != "cpu":
            if weight.dim() == 1:
                return F.rms_norm(x, weight.shape, weight, self.config.rms_norm_eps)
            return F.rms_norm(x, (size,), None, self.config.rms_norm_eps) * weight
        wide = x.float()
        rms: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).div_(math.sqrt(size))
        return (wide / rms.hypot_(self.least)).to(x.dtype) * weight


class PlainModel:
    """A `Qwen2` to sample from as it is: in deterministic mode the learner's code is the only one.

    `dtype`, `device`, `load`, `forward` and `logits` as in `PackedModel`.
    """

    dtype = torch.float32

    def __init__(self, model: Qwen2) -> None:
        self.config, self.copy = model.config, deepcopy(model)
        self.device = model.device
        self.forward, self.logits = self.copy.forward, self.copy.logits

    def load(self, named_params: Iterable[tuple[str, Tensor]]) -> None:
        """See `PackedModel.load`."""
        own = dict(self.copy.named_parameters())
        given = _all_of(set(own), named_params, self.config)
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(given[name])


def _all_of(
    names: set[str], named_params: Iterable[tuple[str, Tensor]], config: ModelConfig
) -> dict[str, Tensor]:
    given = dict(named_params)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    wrong = names.symmetric_difference(given) - tied
    if wrong:
        raise OpenQwQError(
            f"the weights do not match the model in {', '.join(sorted(wrong)[:3])}: push every "
            "parameter, and no other"
        )
    return given
