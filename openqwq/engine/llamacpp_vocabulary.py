"""A model whose vocabulary llama.cpp may remember for as long as the process runs.

llama.cpp keeps the vocabulary that it last read a grammar with, and knows it by its address alone
(`llama_sampler_llg_new_tokenizer` in its common/llguidance.cpp). A model loaded where a freed one
lay would follow grammars in the freed one's tokens: wrong ids, or an abort of the process. So the
last thing asked of llama.cpp before such a model is freed is a grammar of this tiny one.
"""

import json
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from openqwq.model import gguf
from openqwq.model.gguf_header import GgufFile, read_header
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.text.gguf import BYTE, CONTROL

OpenServer = Callable[[GgufFile], Any]  # a `xllamacpp.Server` of a file

SPECIAL = ("<unk>", "<s>", "</s>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
REQUEST = {
    "prompt": [1],
    "n_predict": 1,
    "grammar": '%llguidance {}\nstart: "a"',
}
_lock = threading.Lock()


def forget_vocabularies(open_server: OpenServer) -> None:
    """Make llama.cpp remember the tiny model's vocabulary in place of any other."""
    request = json.dumps(REQUEST).encode()
    with _lock:
        _tiny_server(open_server).handle_completions(request, lambda event: False)


@lru_cache(maxsize=1)
def _tiny_server(open_server: OpenServer) -> Any:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        _write(path)
        return open_server(read_header(path))


def _write(path: Path) -> None:
    tokens = [*SPECIAL, *BYTES]
    config = ModelConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=32,
    )
    vocabulary = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL] * len(SPECIAL) + [BYTE] * len(BYTES),
        "tokenizer.ggml.scores": [0.0] * len(tokens),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": False,
    }
    model = Qwen2(config)
    model = Qwen2(config)
    model.initialise(torch.Generator().manual_seed(0))
    gguf.save(model, path, "F32", vocabulary)
