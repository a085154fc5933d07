"""Adapters in llama.cpp's format: a GGUF file that holds A and B of each adapted matrix."""

from pathlib import Path

import numpy as np
from gguf.gguf_writer import GGUFWriter

from openqwq.model import lora
from openqwq.model.checkpoint import empty_model
from openqwq.model.gguf import gguf_name, reordered
from openqwq.model.gguf_header import GgufFile, model_config


def write_adapter(directory: Path, base: GgufFile, path: Path) -> None:
    """Write the adapter in a PEFT directory, for the model in a GGUF file, as llama.cpp reads it.

    Only names and shapes are compared with the base, whose quantised numbers are not those that
    the adapter was trained on. Raises OpenQwQError as `lora.load` does.
    """
    config = model_config(base)
    adapter = lora.load(directory, empty_model(config))
    layers = adapter.layers
    rank = adapter.shape.rank
    scale = next(iter(layers.values())).scale
    writer = GGUFWriter(path, config.family)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", scale * rank)  # it divides by the rank
    for name, layer in layers.items():
        weight = f"{name}.weight"
        b = reordered(weight, layer.b.detach(), config, 2)
        writer.add_tensor(
            f"{gguf_name(weight)}.lora_a", np.ascontiguousarray(layer.a.detach())
        )
        writer.add_tensor(f"{gguf_name(weight)}.lora_b", np.ascontiguousarray(b))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
