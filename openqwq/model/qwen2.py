"""The transformer of Qwen2 (arXiv 2407.10671), Qwen3 (arXiv 2505.09388) and Llama 3.

RMSNorm, RoPE, grouped queries and SwiGLU; Qwen2 has biases on q, k and v, and Qwen3 normalises
every head of q and k.

It works on a flat run of tokens that may belong to many sequences. Attention alone must know which
token sees which, so it is passed in (`attention.py` for training, the engine's cache for decoding).
Parameter names are those of Hugging Face checkpoints.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openqwq.model.invariant import elementwise, require_exact_kernels
from openqwq.model.linear import Linear
from openqwq.model.rope import (
    RopeScaling,
    attention_scale,
    inverse_frequencies,
    rotate,
    rotation,
)
from openqwq.types import OpenQwQError

# (layer, queries (tokens, heads, head_dim), keys and values (tokens, kv_heads, head_dim))
# -> mixed values (tokens, heads, head_dim)
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


Family = Literal["qwen2", "qwen3", "llama"]


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model, as its config.json states it."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    max_position_embeddings: int = 32768
    tie_word_embeddings: bool = False
    attention_bias: bool = True  # on q, k and v: for Qwen2 only
    qk_norm: bool = False  # of each head's queries and keys: for Qwen3 only
    rope_scaling: RopeScaling | None = None

    @property
    def family(self) -> Family:
        """The architecture that has these parts, by Hugging Face's `model_type`."""
        if self.qk_norm:
            return "qwen3"
        return "qwen2" if self.attention_bias else "llama"


class Attention(nn.Module):
    """Causal self-attention in which several query heads share one key-value head (GQA)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        query_size = config.num_attention_heads * config.head_dim
        key_size = config.num_key_value_heads * config.head_dim
        bias = config.attention_bias
        self.q_proj = Linear(config.hidden_size, query_size, bias=bias)
        self.k_proj = Linear(config.hidden_size, key_size, bias=bias)
        self.v_proj = Linear(config.hidden_size, key_size, bias=bias)
        self.o_proj = Linear(query_size, config.hidden_size, bias=False)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """Mix `x` (tokens, hidden) over the tokens that `attend` lets each one see."""
        # Queries become (tokens, heads, head_dim), keys and values (tokens, kv_heads, head_dim).
        queries = self.q_proj(x).unflatten(-1, (-1, self.head_dim))
        keys = self.k_proj(x).unflatten(-1, (-1, self.head_dim))
        values = self.v_proj(x).unflatten(-1, (-1, self.head_dim))

        queries = rotate(self.q_norm(queries), cos, sin)
        keys = rotate(self.k_norm(keys), cos, sin)

        if x.is_cuda and self.q_proj.product_dtype:  # the kernel that needs little memory
            dtype = self.q_proj.product_dtype
            queries = queries.to(dtype)
            keys = keys.to(dtype)
            values = values.to(dtype)

        mixed = attend(self.layer, queries, keys, values).to(x.dtype)
        output: Tensor = self.o_proj(mixed.flatten(1))
        return output


class MLP(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    invariant = False  # see `Qwen2.make_invariant`

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(tokens, hidden) to (tokens, hidden)."""
        gate = self.gate_proj(x)
        up = self.up_proj(x)
        if self.invariant:
            product = elementwise(F.silu, gate) * up
        else:
            product = gated(gate, up)
        output: Tensor = self.down_proj(product)
        return output


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up, each (tokens, intermediate), with their gradients.

    Autograd would keep silu(gate) too, one of a layer's largest tensors; it is computed again.
    """
    output: Tensor = _Gated.apply(gate, up)  # type: ignore[no-untyped-call]
    return output


class _Gated(torch.autograd.Function):
    """See `gated`."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        (gradient,) = gradients
        to_up = F.silu(gate).mul_(gradient)
        to_silu = gradient * up
        return torch.ops.aten.silu_backward(to_silu, gate), to_up


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (arXiv 1910.07467), computed in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) to (..., size)."""
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(x.dtype)


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """(tokens, hidden) to (tokens, hidden)."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, attend)
        output: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return output


class Decoder(nn.Module):
    """The trunk: embedding, layers, final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Block(config, i) for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Qwen2(nn.Module):
    """A causal language model; `forward` gives hidden states, `logits` the last projection."""

    invariant = False
    # keep only each layer's input, and compute its activations again in the backward pass
    recompute = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.frequencies = inverse_frequencies(
            config.head_dim, config.rope_theta, config.rope_scaling
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    def forward(self, token_ids: Tensor, position_ids: Tensor, attend: Attend) -> Tensor:
        """Final hidden states (tokens, hidden); `token_ids` and `position_ids` are (tokens,)."""
        x = self.model.embed_tokens(token_ids).to(self.model.norm.weight.dtype)
        scale = attention_scale(self.config.rope_scaling)
        cos, sin = rotation(position_ids, self.frequencies.to(x.device), scale)

        recomputes = self.recompute and torch.is_grad_enabled()
        for block in self.model.layers:
            if recomputes:
                x = checkpoint(block, x, cos, sin, attend, use_reentrant=False)
            else:
                x = block(x, cos, sin, attend)
        output: Tensor = self.model.norm(x)
        return output

    def logits(self, hidden: Tensor) -> Tensor:
        """(tokens, hidden) to fp32 logits (tokens, vocab)."""
        output: Tensor = self.lm_head(hidden)
        return output.float()

    def make_invariant(self) -> None:
        """From now on no token's values depend on what else is in the batch (`invariant.py`).

        Attention must not either: `RaggedAttention` and the engine's cache have the same switch.
        Raises OpenQwQError for weights that are not fp32 on the CPU, and on a CPU whose kernels
        are not exact.
        """
        weight = self.lm_head.weight
        if weight.dtype != torch.float32 or weight.device.type != "cpu":
            raise OpenQwQError(
                f"deterministic mode with {weight.dtype} on {weight.device}: it needs "
                "torch.float32 on the CPU"
            )

        products = [
            module.weight for module in self.modules() if isinstance(module, Linear)
        ]
        require_exact_kernels(products, self.config.head_dim)
        self.invariant = True
        for module in self.modules():
            if isinstance(module, Linear | MLP):
                module.invariant = True

    def initialise(self, generator: torch.Generator, std: float = 0.02) -> None:
        """Fresh weights: normal(0, std), residual outputs scaled by 1/sqrt(2 layers) (GPT-2)."""
        residual = std / (2 * self.config.num_hidden_layers) ** 0.5
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                is_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, 0.0, residual if is_residual else std, generator)
