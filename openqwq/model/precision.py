"""In which numbers a model multiplies here: fp32, or bf16 where this machine is faster in it.

On an AMD Zen 4 products in bf16 take a fifth to a half of the time, on an Intel Xeon with AMX even
less; on one with AVX-512 BF16 but no AMX they take longer at 32 rows and above. So "auto" measures
the products of the model's own shapes, about a second, and remembers the answer for the machine.
"""

import hashlib
import json
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from openqwq.data.files import write_atomically
from openqwq.model.linear import Linear, product
from openqwq.model.qwen2 import ModelConfig
from openqwq.types import OpenQwQError, Precision, Products

DTYPES: dict[Products, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
WORTH_MEASURING = 2**18  # numbers in the largest matrix; below that nothing is to be won
WORTH_CHANGING = 1.1  # times as fast as fp32 must bf16 be, as it rounds
SECONDS = 0.08  # for each shape and type
LEAST_CALLS = 4  # where other programs take the processor for longer than that


def has_bf16() -> bool:
    """Whether this CPU multiplies in bf16 (AVX-512 BF16 or AMX), and oneDNN may."""
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return False
    one = torch.ones(1, 1, dtype=torch.bfloat16)
    try:
        torch.ops.mkldnn._linear_pointwise(one, one, None, "none", [], "")
    except RuntimeError:  # ONEDNN_MAX_CPU_ISA names an older CPU
        return False
    return True


def chosen_products(
    asked: Precision, config: ModelConfig, device: torch.device, rows: int = 64
) -> Products:
    """What to multiply in; "auto" is what is faster here at `rows` tokens a step.

    Raises OpenQwQError for "bf16" where the machine does not multiply in it.
    """
    supported = torch.cuda.is_bf16_supported() if device.type == "cuda" else has_bf16()
    if asked == "fp32":
        return "fp32"
    if asked == "bf16":
        if not supported:
            needed = (
                "compute capability 8.0" if device.type == "cuda" else "AVX-512 BF16 or AMX"
            )
            raise OpenQwQError(
                f"the precision is bf16, but this machine does not multiply in it ({needed}), so "
                "bf16 would be slower than fp32: choose auto or fp32"
            )
        return "bf16"
    if not supported:
        return "fp32"
    if device.type == "cuda":
        return "bf16"
    return _measured(config, rows)


def prepare(model: nn.Module, products: Products, trained: bool) -> None:
    """Make products of a model, or of a part, run in `products`; in bf16 the rest stays fp32.

    Weights that are `trained` stay fp32 and are rounded for each product (master weights). Those
    that are frozen are stored in bf16: half the memory; vectors become fp32.
    """
    dtype = DTYPES[products]
    for module in model.modules():
        if isinstance(module, Linear):
            module.product_dtype = dtype if products == "bf16" else None
    if trained or products == "fp32":
        model.float()
        return
    for parameter in model.parameters():  # a tied head is the embedding, and comes once
        parameter.data = parameter.data.to(dtype if parameter.dim() > 1 else torch.float32)


def _measured(config: ModelConfig, rows: int) -> Products:
    """The faster of the two for the shapes of `config`; from the cache if it was measured here."""
    shapes = _shapes(config)
    if max(outputs * inputs for outputs, inputs in shapes) < WORTH_MEASURING:
        return "fp32"
    path = cache_folder() / "precision.json"
    key = _machine(shapes, rows)
    known = _read(path)
    if known.get(key) in ("fp32", "bf16"):
        remembered: Products = known[key]
        return remembered
    seconds = {name: _seconds(shapes, rows, dtype) for name, dtype in DTYPES.items()}
    faster: Products = "bf16"
    if seconds["fp32"] < WORTH_CHANGING * seconds["bf16"]:
        faster = "fp32"
    # where the home cannot be written, it is measured each time
    with suppress(OpenQwQError):
        write_atomically(path, json.dumps({**known, key: faster}, indent=2).encode())
    return faster


def product_rate(config: ModelConfig, rows: int, dtype: torch.dtype) -> float:
    """Operations a second of this machine's products at `rows` tokens, measured now."""
    shapes = _shapes(config)
    operations = 2 * rows * sum(outputs * inputs for outputs, inputs in shapes)
    return operations / _seconds(shapes, rows, dtype)


def cache_folder() -> Path:
    """Where what was measured on this machine is kept: `$XDG_CACHE_HOME/openqwq`."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "openqwq"


def _shapes(config: ModelConfig) -> list[tuple[int, int]]:
    """(outputs, inputs) of a layer's three kinds of matrix; the head is like the widest."""
    hidden = config.hidden_size
    inner = config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    return [(inner, hidden), (hidden, inner), (queries, hidden)]


def _machine(shapes: list[tuple[int, int]], rows: int) -> str:
    described = [
        platform.processor(),
        _cpu_name(),
        torch.__version__,
        torch.get_num_threads(),
    ]
    text = json.dumps([*described, shapes, rows])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("model name")), "")


def _read(path: Path) -> dict[str, Products]:
    try:
        found: dict[str, Products] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _seconds(shapes: list[tuple[int, int]], rows: int, dtype: torch.dtype) -> float:
    """The sum over the shapes of the least time that a product takes."""
    total = 0.0
    with torch.no_grad():
        for outputs, inputs in shapes:
            weight = torch.ones(outputs, inputs, dtype=dtype)
            x = torch.ones(rows, inputs)
            best = float("inf")
            end = time.perf_counter() + SECONDS
            calls = 0
            while calls < LEAST_CALLS or time.perf_counter() < end:
                started = time.perf_counter()
                product(x, weight, None, dtype)
                best = min(best, time.perf_counter() - started)
                calls += 1
            total += best
    return total
