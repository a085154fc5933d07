"""`qwq fit`, `qwq convert` and `qwq merge`: what can be known or made of a checkpoint, unrun.

Imported for every `qwq --help`: what is heavy is imported where it runs.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from openqwq.engine.llamacpp import LlamaOptions


def add_model_options(
    parser: argparse.ArgumentParser,
    name: str = "model",
    help: str = "a directory, GGUF file, hub id, or server's URL",
    context: str = "--context",
    precisions: Sequence[str] = ("auto", "fp32", "bf16"),
) -> None:
    """What names a model to run, and how and where it runs; `context` is that option's name.

    The first of `precisions` is the default.
    """
    parser.add_argument(name, nargs=None if name.startswith("-") else "?", help=help)
    parser.add_argument(
        "--engine", default="auto", choices=["auto", "torch", "llamacpp", "remote"]
    )
    parser.add_argument(
        "--precision", default=precisions[0], choices=precisions, help="of our own engine"
    )
    parser.add_argument(
        "--device",
        default="auto",
        choices=["auto", "cpu", "cuda"],
        help="of our own engine",
    )
    parser.add_argument(context, type=int, help="most tokens of prompt and reply together")
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="NAME=DIR",
        help="a LoRA adapter as PEFT writes it; with several, the last one answers",
    )  # fmt: skip
    llama = parser.add_argument_group("llama.cpp")
    llama.add_argument(
        "--gpu-layers", type=int, help="layers to keep on the GPU (default: all that fit)"
    )
    llama.add_argument(
        "--cache-type",
        default="f16",
        choices=["f16", "bf16", "q8_0", "q4_0"],
        help="type of keys and values; q8_0 and q4_0 may change answers",
    )
    llama.add_argument("--flash-attention", default="auto", choices=["auto", "on", "off"])
    llama.add_argument("--threads", type=int, help="threads to compute with")
    llama.add_argument(
        "--draft", metavar="FILE", help="GGUF file of a small model that guesses ahead"
    )
    llama.add_argument(
        "--ngrams", action="store_true", help="guess ahead from the text so far"
    )


def llama_options(options: argparse.Namespace) -> "LlamaOptions":
    """llama.cpp's options among a verb's."""
    from openqwq.engine.llamacpp import LlamaOptions

    return LlamaOptions(
        options.gpu_layers,
        options.cache_type,
        options.flash_attention,
        options.threads,
        options.draft,
        options.ngrams,
    )


def adapters_named(texts: Sequence[str]) -> dict[str, Path]:
    """The adapters of `--adapter NAME=DIR`; raises OpenQwQError for one without name or place."""
    from openqwq.types import OpenQwQError

    adapters: dict[str, Path] = {}
    for text in texts:
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise OpenQwQError(
                f"--adapter is {text!r}: write NAME=DIR, e.g. maths=runs/rl/adapter"
            )
        if name in adapters:
            raise OpenQwQError(f"--adapter names {name!r} twice: give each its own name")
        adapters[name] = Path(folder).expanduser()
    return adapters


class ChosenAdapter(TypedDict):
    """What `open_model` is told of adapters."""

    adapters: dict[str, Path]
    default_adapter: str


def chosen_adapter(texts: Sequence[str]) -> ChosenAdapter:
    """The adapters of `--adapter NAME=DIR`, of which the last answers."""
    adapters = adapters_named(texts)
    return ChosenAdapter(
        adapters=adapters, default_adapter=list(adapters)[-1] if adapters else ""
    )


def add_merge_verb(parser: argparse.ArgumentParser) -> None:
    """The arguments of `qwq merge`."""
    parser.add_argument(
        "base", help="what the adapter was trained on: a directory, GGUF file or hub id"
    )
    parser.add_argument(
        "adapter", type=Path, help="adapter directory that PEFT or qwq train wrote"
    )
    parser.add_argument("out", type=Path, help="directory to create")
    parser.set_defaults(verb=merge_verb)


def merge_verb(options: argparse.Namespace) -> None:
    """Write a checkpoint whose weights contain an adapter."""
    from openqwq.engine.open import load_tokenizer, locate
    from openqwq.model import checkpoint, gguf, lora

    path = locate(options.base)
    model = gguf.load(path, None) if path.is_file() else checkpoint.load(path, None)
    lora.merge(model, lora.load(options.adapter, model))
    checkpoint.save(model, options.out, load_tokenizer(path))
    print(f"{options.out}: {options.base} with {options.adapter} merged in")


def add_fit_verb(parser: argparse.ArgumentParser) -> None:
    """The arguments of `qwq fit`."""
    parser.add_argument(
        "model", help="a directory, a GGUF file, or a hub id (only its config is fetched)"
    )
    parser.add_argument(
        "--memory", help="memory to fit into, e.g. 24GiB (default: what is free here)"
    )
    parser.add_argument(
        "--context", type=int, help="most tokens of prompt and reply together"
    )
    parser.add_argument(
        "--slots", type=int, default=1, help="replies generated at the same time"
    )
    parser.add_argument("--engine", default="auto", choices=["auto", "torch", "llamacpp"])
    parser.add_argument(
        "--precision", default="fp32", choices=["fp32", "bf16"], help="of our own engine"
    )
    parser.set_defaults(verb=fit_verb)


def add_convert_verb(parser: argparse.ArgumentParser) -> None:
    """The arguments of `qwq convert`."""
    parser.add_argument("source", help="a checkpoint directory, a GGUF file, or a hub id")
    parser.add_argument("target", type=Path, help="FILE.gguf, or a directory to create")
    parser.add_argument(
        "--type",
        help="f32, f16, bf16 or q8_0, which rounds (default: the numbers as stored)",
    )
    parser.set_defaults(verb=convert_verb)


def require_counts(options: argparse.Namespace, *names: str) -> None:
    """Raise OpenQwQError for the first of these options that is given and below 1."""
    from openqwq.types import OpenQwQError

    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            flag = name.replace("_", "-")
            raise OpenQwQError(f"--{flag} is {value}: it must be at least 1")


def fit_verb(options: argparse.Namespace) -> None:
    """Say what a model needs and which quantisations fit."""
    from openqwq.engine.open import (
        choose_engine,
        load_tokenizer,
        locate,
        require_own_engine,
    )
    from openqwq.engine.relay import fitting_context
    from openqwq.model import fit
    from openqwq.model.gguf_header import read_header
    from openqwq.types import OpenQwQError

    require_counts(options, "context", "slots")
    memory = fit.parse_memory(options.memory) if options.memory else fit.available_memory()
    if ":" in options.model and not Path(options.model).exists():
        raise OpenQwQError(
            f"{options.model}: name the repository that holds its config.json"
        )
    path = locate(options.model, weights=False)
    engine: fit.EngineKind = "torch" if options.engine == "auto" else options.engine
    if path.is_file():
        engine, _ = choose_engine(read_header(path), options.engine)
        if engine == "torch":
            load_tokenizer(path)  # refused here as it would be on opening
    require_own_engine(engine, options.precision)
    subject = fit.read_subject(path)
    trained = subject.config.max_position_embeddings
    context = fitting_context(options.context, trained)
    process = fit.memory_in_use()
    bandwidth = fit.read_bandwidth()
    print(
        fit.report(
            options.model, subject, engine, memory, context, options.slots, process, bandwidth,
            options.precision,
        )
    )  # fmt: skip


def convert_verb(options: argparse.Namespace) -> None:
    """Write a checkpoint in the other format."""
    from openqwq.engine.open import locate
    from openqwq.model.convert import convert

    done = convert(locate(options.source), options.target, options.type)
    print(f"{done.target}: {done.parameters} parameters in {done.type}, {done.note}")
