"""The engine's own form of a model: weights laid out for decoding, nothing kept for learning.

On the CPU, oneDNN packs each matrix into the blocks that its kernels read, which at 8 to 64 rows is
1.3 to 2 times as fast as the rows that a checkpoint holds, and folds bias, activation, gate and
residual into the product before them. Results differ from `Qwen2`'s by rounding alone. A model in
bf16 has its products there in bf16 and everything between them, the cache included, in fp32:
PyTorch's other operations gain nothing from bf16, and so only products round.
"""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from openqwq.engine.adapters import AdapterBank
from openqwq.model import lora
from openqwq.model.precision import has_bf16
from openqwq.model.qwen2 import Attend, ModelConfig, Qwen2
from openqwq.model.rope import attention_scale, rotate, rotation
from openqwq.types import OpenQwQError


class Matrix:
    """One projection, packed where that helps; the plain form is then not kept."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, pack: bool = True
    ) -> None:
        self.bias = bias
        fast = {torch.float32, torch.bfloat16} if has_bf16() else {torch.float32}
        cpu = weight.device.type == "cpu" and weight.dtype in fast
        self.fused = cpu and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        self.packed = self.fused and pack
        if self.packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self.weight = weight

    def product(self, x: Tensor, activation: str = "none") -> Tensor:
        """(tokens, inputs) to (tokens, outputs), in the weight's dtype; "swish" is silu."""
        x = x.to(self.weight.dtype)
        if self.fused:
            pointwise = torch.ops.mkldnn._linear_pointwise.default
            output: Tensor = pointwise(x, self.weight, self.bias, activation, [], "")
            return output
        output = F.linear(x, self.weight, self.bias)
        return F.silu(output) if activation == "swish" else output

    def combined(self, x: Tensor, other: Tensor, operation: str) -> Tensor:
        """The product of `x` "add" or "mul" `other` (tokens, outputs), in the wider dtype."""
        if self.fused and other.dtype == self.weight.dtype:
            pointwise = torch.ops.mkldnn._linear_pointwise.binary
            output: Tensor = pointwise(
                x.to(other.dtype), other, self.weight, self.bias, operation
            )
            return output
        if operation == "add" and self.bias is None and other.dtype == self.weight.dtype:
            return torch.addmm(other, x, self.weight.t())
        output = self.product(x)
        return output + other if operation == "add" else output * other


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


# The projections that make up each of a layer's matrices, in the order of `Layer`.
PROJECTIONS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj",),
    ("mlp.up_proj",),
    ("mlp.down_proj",),
)


LAYERS = "model.layers."


class PackedModel:
    """A `Qwen2` to sample from, on `device`: `forward` and `logits` as there, but for rounding.

    `dtype` is that of all but the products: of keys and values, too. The weights are copies, but
    where an adapter hangs on the model they are its own, frozen and in its own layout, unless it
    `packs` them. Queries, keys and values of a shared layer are laid end to end, of which the model
    keeps views.
    """

    def __init__(
        self, model: Qwen2, device: torch.device | None = None, packs: bool = False
    ) -> None:
        self.config = model.config
        self.device = device or model.device
        self.own_layers = lora.attached(model)
        on_same_device = self.device == model.device
        self.shared = bool(self.own_layers) and on_same_device and not packs
        self.frequencies = model.frequencies.to(self.device)
        self.products = model.lm_head.product_dtype or model.lm_head.weight.dtype
        self.dtype = self.products
        if self.device.type == "cpu":
            self.dtype = torch.promote_types(self.products, torch.float32)
        self.least = torch.tensor(math.sqrt(model.config.rms_norm_eps))
        self.shapes = {
            name: parameter.shape for name, parameter in model.named_parameters()
        }
        self.adapters = AdapterBank(_projections(model), self.device)
        if self.own_layers:
            self.adapters.add("", self.own_layers)
        self._places: dict[str, Tensor] = {}
        self.layers: list[Layer] = []
        if self.shared:
            _lay_end_to_end(model)
        self.take(model.named_parameters())

    def load(self, named_params: Iterable[tuple[str, Tensor]]) -> None:
        """Take copies of all parameters, by their checkpoint names, one layer at a time.

        Raises OpenQwQError where a parameter is missing or unknown, with nothing changed, and
        where the weights are shared.
        """
        if self.shared:
            raise OpenQwQError(
                "the base is frozen and shared with the learner: push its adapter"
            )
        self.take(all_of(self.shapes.keys(), named_params, self.config).items())

    def load_adapter(self, tensors: Mapping[str, Tensor]) -> int:
        """Take new weights of the model's own adapter; its number.

        Raises OpenQwQError for tensors that do not match it.
        """
        lora.copy_into(self.own_layers, tensors)
        number = self.adapters.number_of("")
        self.adapters.load(number, self.own_layers)
        return number

    def take(self, named_params: Iterable[tuple[str, Tensor]]) -> None:
        """Lay out parameters as they come, a layer when it is complete; nothing else is kept.

        Layers must come in order where there are none yet.
        """
        layer_size = sum(name.startswith(f"{LAYERS}0.") for name in self.shapes)
        waiting: list[dict[str, Tensor]] = [
            {} for _ in range(self.config.num_hidden_layers)
        ]
        for name, parameter in named_params:
            weight = parameter.detach()
            if not name.startswith(LAYERS):
                self._take_end(name, weight)
                continue

            number = int(name.removeprefix(LAYERS).partition(".")[0])
            given = waiting[number]
            given[name] = weight
            if len(given) < layer_size:
                continue
            layer = self._layer(given, number)
            given.clear()
            if number < len(self.layers):
                self.layers[number] = layer
            else:
                self.layers.append(layer)

    def _take_end(self, name: str, weight: Tensor) -> None:
        """Lay out the last norm, the embedding or the head, which may be one."""
        if name == "model.norm.weight":
            self.norm = self._own("norm", weight, dtype=self.dtype)
            return
        is_embedding = name == "model.embed_tokens.weight"
        if is_embedding:
            self.embedding = self._own("embedding", weight)
        if is_embedding != self.config.tie_word_embeddings:
            return  # this is not the head
        head = self.embedding
        if not is_embedding or head.dtype != self.products:
            head = self._own("head", weight, dtype=self.products)
        self.head = Matrix(head, pack=not self.shared)

    def _layer(self, given: dict[str, Tensor], number: int) -> Layer:
        prefix = f"{LAYERS}{number}."

        def norm(name: str) -> Tensor:
            full = f"{prefix}{name}.weight"
            return self._own(full, given[full], dtype=self.dtype)

        def matrix(names: tuple[str, ...]) -> Matrix:
            full = [prefix + name for name in names]
            weights = [given[f"{name}.weight"] for name in full]
            biases = [given[f"{name}.bias"] for name in full if f"{name}.bias" in given]
            weight = self._own(f"{full[0]}.weight", *weights, dtype=self.products)
            bias = None
            if biases:
                bias = self._own(f"{full[0]}.bias", *biases, dtype=self.products)
            return Matrix(weight, bias, pack=not self.shared)

        qkv, output, gate, up, down = (matrix(names) for names in PROJECTIONS)
        return Layer(
            norm("input_layernorm"),
            qkv,
            self._head_norm(given, number),
            output,
            norm("post_attention_layernorm"),
            gate,
            up,
            down,
        )

    def _head_norm(self, given: dict[str, Tensor], number: int) -> Tensor | None:
        if not self.config.qk_norm:
            return None
        name = f"{LAYERS}{number}.self_attn"
        queries = given[f"{name}.q_norm.weight"].expand(self.config.num_attention_heads, -1)
        keys = given[f"{name}.k_norm.weight"].expand(self.config.num_key_value_heads, -1)
        return self._own(f"{name}.head_norm", queries, keys, dtype=self.dtype)

    def _own(self, name: str, *parts: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A copy of one tensor, or of several end to end, on the device.

        On a GPU it is always at the same address, by which graphs know it. Shared weights of one
        type are not copied.
        """
        dtype = dtype or parts[0].dtype
        if self.shared and parts[0].dtype == dtype:
            together = _one_view(parts)
            if together is not None:
                return together
        weight = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.device.type == "cpu":
            return weight.to(self.device, dtype, copy=len(parts) == 1)
        if name not in self._places:
            self._places[name] = torch.empty_like(weight, dtype=dtype, device=self.device)
        return self._places[name].copy_(weight)

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        attend: Attend,
        adapters: Tensor | None = None,
    ) -> Tensor:
        """See `Qwen2.forward`; `adapters` (tokens,) are numbers in the bank, None: the base."""
        x = F.embedding(token_ids, self.embedding).to(self.dtype)
        scale = attention_scale(self.config.rope_scaling)
        cos, sin = rotation(position_ids, self.frequencies, scale)
        mask = None if adapters is None else self.adapters.mask(adapters)
        for number, layer in enumerate(self.layers):
            x = self._mixed(number, x, cos, sin, attend, mask)
            x = self._fed_forward(number, layer, x, mask)
        return self._normed(x, self.norm)

    def _mixed(
        self,
        number: int,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        attend: Attend,
        mask: Tensor | None,
    ) -> Tensor:
        """The residual stream (tokens, hidden) after a layer's attention."""
        layer = self.layers[number]
        heads = self.config.num_attention_heads
        kv_heads = self.config.num_key_value_heads
        normed = self._normed(x, layer.input_norm)
        projected = layer.qkv.product(normed).to(self.dtype)
        self._adapt(number, 0, projected, normed, mask)
        projected = projected.view(-1, heads + 2 * kv_heads, self.config.head_dim)

        turned = projected[:, : heads + kv_heads]
        if layer.head_norm is not None:
            turned = self._normed(turned, layer.head_norm)
        turned = rotate(turned, cos, sin)

        queries = turned[:, :heads]
        keys = turned[:, heads:]
        values = projected[:, -kv_heads:]
        attended = attend(number, queries, keys, values).flatten(1)
        x = layer.output.combined(attended, x, "add")
        self._adapt(number, 1, x, attended, mask)
        return x

    def _fed_forward(
        self, number: int, layer: Layer, x: Tensor, mask: Tensor | None
    ) -> Tensor:
        """The residual stream (tokens, hidden) after a layer's SwiGLU."""
        normed = self._normed(x, layer.post_norm)
        if mask is None:
            narrow = normed.to(layer.gate.weight.dtype)
            gated = layer.up.combined(narrow, layer.gate.product(narrow, "swish"), "mul")
            return layer.down.combined(gated, x, "add")

        gate = layer.gate.product(normed).to(self.dtype)
        self._adapt(number, 2, gate, normed, mask)
        up = layer.up.product(normed).to(self.dtype)
        self._adapt(number, 3, up, normed, mask)
        gated = F.silu(gate, inplace=True).mul_(up)
        x = layer.down.combined(gated, x, "add")
        self._adapt(number, 4, x, gated, mask)
        return x

    def _adapt(
        self, number: int, matrix: int, output: Tensor, x: Tensor, mask: Tensor | None
    ) -> None:
        """Add to a matrix's output what the adapters do to its input."""
        stack = self.adapters.stacks[len(PROJECTIONS) * number + matrix]
        if mask is not None and stack is not None:
            stack.add_to(output, x, mask)

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
        rms: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        rms.div_(math.sqrt(size)).hypot_(self.least)
        return (wide / rms).to(x.dtype) * weight


def _projections(model: Qwen2) -> list[dict[str, torch.Size]]:
    """What each matrix of each layer holds, by name, with its shape (outputs, inputs)."""
    matrices = []
    for number in range(model.config.num_hidden_layers):
        for names in PROJECTIONS:
            shapes = {}
            for name in names:
                full = f"{LAYERS}{number}.{name}"
                shapes[full] = model.get_parameter(f"{full}.weight").shape
            matrices.append(shapes)
    return matrices


def _lay_end_to_end(model: Qwen2) -> None:
    """Move what one product multiplies together into one tensor; the model's are views of it."""
    for block in model.model.layers:
        attention = block.get_submodule("self_attn")
        projections = [attention.get_submodule(f"{name}_proj") for name in "qkv"]
        for attribute in ("weight", "bias"):
            parts = [getattr(projection, attribute) for projection in projections]
            if parts[0] is None:
                continue
            sizes = [len(part) for part in parts]
            together = torch.cat([part.detach() for part in parts])
            views = torch.split(together, sizes)
            for part, view in zip(parts, views, strict=True):
                part.data = view


def _one_view(parts: Sequence[Tensor]) -> Tensor | None:
    """The tensor whose consecutive rows the parts are; None where they lie apart."""
    first = parts[0]
    end = first.storage_offset()
    for part in parts:
        same = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or part.storage_offset() != end or not part.is_contiguous():
            return None
        end += part.numel()
    rows = sum(len(part) for part in parts)
    return first.as_strided((rows, *first.shape[1:]), first.stride())


def all_of(
    names: Set[str], named_params: Iterable[tuple[str, Tensor]], config: ModelConfig
) -> dict[str, Tensor]:
    """The parameters by name; raises OpenQwQError where one is missing or unknown."""
    given = dict(named_params)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    wrong = (names ^ given.keys()) - tied
    if wrong:
        raise OpenQwQError(
            f"the weights do not match the model in {', '.join(sorted(wrong)[:3])}: push every "
            "parameter, and no other"
        )
    return given
