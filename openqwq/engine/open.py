"""From what a user names (directory, GGUF file, hub id, URL) to something that generates."""

import ctypes
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import torch

from openqwq.engine import hub, llamacpp
from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.engine.relay import fitting_context
from openqwq.engine.threads import on_a_thread
from openqwq.model import checkpoint, gguf, lora
from openqwq.model.device import chosen_device, without_memory
from openqwq.model.fit import available_memory, read_subject
from openqwq.model.gguf_header import (
    ARCHITECTURES,
    SPLIT_NAME,
    GgufFile,
    cache_shape,
    is_later_part,
    read_header,
)
from openqwq.model.precision import DTYPES, chosen_products
from openqwq.model.qwen2 import Qwen2
from openqwq.text.gguf import from_metadata, is_known
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Device, Generate, OpenQwQError, Precision, Products

EngineName = Literal["auto", "torch", "llamacpp", "remote"]
# of a step that reads prompts: what a client that left keeps others waiting
STEP_SECONDS = 1.0
CACHE_SHARE = 0.25  # of the free memory, for llama.cpp's cache beyond one full context


class Closable(Generate, Protocol):
    """A back end that holds memory, threads or connections until it is closed."""

    def close(self) -> None:
        """Free them; requests that still wait get a RuntimeError."""
        ...


@dataclass(frozen=True)
class OpenedModel:
    """A model ready to generate, whatever runs it; `why` says which engine was chosen and why."""

    name: str
    generate: Closable
    tokenizer: Tokenizer
    context_length: int  # prompt and completion together, tokens
    engine: EngineName
    why: str
    adapters: tuple[str, ...] = ()  # the names that `SamplingParams.adapter` may have

    def close(self) -> None:
        """Free what the engine holds."""
        self.generate.close()


def open_model(
    model: str,
    engine: EngineName = "auto",
    slots: int = 8,
    context_length: int | None = None,
    tokenizer: str | None = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    adapters: Mapping[str, Path] | None = None,
    default_adapter: str = "",
    llama: llamacpp.LlamaOptions = llamacpp.USUAL_OPTIONS,
) -> OpenedModel:
    """Load `model` for up to `slots` sequences at once of at most `context_length` tokens.

    `model` is a checkpoint directory, a GGUF file, a hub id (owner/name or owner/name:PART) or the
    URL of a server, whose tokenizer is then `tokenizer` (directory, GGUF file or hub id) or, if
    that is None, the one of the model that the server names. `precision` is that of our own
    engine's weights and products, `device` where it computes; the others have their own.
    `adapters` are PEFT directories by the names that `SamplingParams.adapter` may have; requests
    that name none use `default_adapter`, or the model alone. `llama` holds llama.cpp's own options.
    Raises OpenQwQError naming what is
    missing, broken or does not fit the engine.
    """
    adapters = adapters or {}
    if engine != "auto":
        require_llamacpp(engine, llama)
    if model.startswith(("http://", "https://")):
        _require(engine, "remote", model, "a URL is asked through the engine remote")
        require_own_engine("remote", precision, device, adapters)
        try:
            from openqwq.engine.remote import open_remote
        except ImportError as error:
            raise OpenQwQError(
                f"the engine remote needs httpx ({error}): pip install 'openqwq[remote]'"
            ) from error
        server, relay = open_remote(
            model, slots, context_length, lambda name: _tokenizer(tokenizer or name)
        )
        why = f"remote: {model} is a URL, and {server.kind} answers there"
        return OpenedModel(
            server.model, relay, relay.tokenizer, relay.context_length, "remote", why
        )
    if engine == "remote":
        raise OpenQwQError(
            f"{model} is not a URL: the engine remote needs one, http://HOST:PORT"
        )
    path = locate(model)
    setup = EngineSetup(device, precision, adapters, default_adapter, llama)
    opened = (_open_gguf if path.is_file() else _open_directory)(
        path, engine, slots, context_length, setup
    )
    on_gpu = isinstance(opened.generate, Engine) and opened.generate.graphs
    why = f"{opened.why}, on {torch.cuda.get_device_name()}" if on_gpu else opened.why
    name = opened.name if Path(model).exists() else model
    return replace(opened, name=name, why=why, adapters=tuple(adapters))


def locate(model: str, weights: bool = True) -> Path:
    """The directory with a config.json, or the GGUF file, that `model` names.

    What is not here but has the form of a hub id is downloaded (without `weights`: only what
    describes it). Raises OpenQwQError if nothing is to be found.
    """
    path = Path(model).expanduser()
    if not path.exists():
        if hub.is_hub_id(model):
            return hub.download(model, weights)
        raise OpenQwQError(
            f"{model} does not exist: name a checkpoint directory, a GGUF file, a hub id such as"
            " Qwen/QwQ-32B, or the URL of a server"
        )
    if path.is_file() or (path / "config.json").exists():
        return path
    if (path / lora.CONFIG).exists():
        raise OpenQwQError(
            f"{path} is an adapter: name its base as the model, and --adapter NAME={path}; or make"
            f" one checkpoint of both with qwq merge BASE {path} OUT"
        )
    files = [file for file in sorted(path.glob("*.gguf")) if not is_later_part(file)]
    if len(files) != 1:
        raise OpenQwQError(
            f"{path} holds no config.json and {len(files)} GGUF files: name a checkpoint directory"
            " or one GGUF file"
        )
    return files[0]


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a checkpoint directory or GGUF file."""
    if path.is_file():
        return from_metadata(read_header(path).metadata, str(path))
    return Tokenizer.load(path)


def _tokenizer(model: str) -> Tokenizer:
    try:
        return load_tokenizer(locate(model, weights=False))
    except OpenQwQError as error:
        raise OpenQwQError(f"no tokenizer for the server's model: {error}") from error


def _require(engine: EngineName, possible: EngineName, model: str, remedy: str) -> None:
    if engine not in ("auto", possible):
        raise OpenQwQError(f"the engine {engine} cannot run {model}: {remedy}")


def require_own_engine(
    engine: EngineName,
    precision: Precision,
    device: Device = "auto",
    adapters: Iterable[str] = (),
) -> None:
    """Raise OpenQwQError where an `engine` that is not ours is told what only ours can do."""
    if engine != "torch" and (names := ", ".join(adapters)):
        raise OpenQwQError(
            f"the adapter {names} is for the engine torch: the engine {engine} cannot load it; "
            "merge it into the model first (qwq merge)"
        )
    asked = {"precision": precision, "device": device}
    for name, value in asked.items():
        if value not in ("auto", "fp32") and engine != "torch":
            raise OpenQwQError(
                f"the {name} {value} is for the engine torch: the engine {engine} has its own, so "
                "leave it out"
            )


def require_llamacpp(engine: EngineName, llama: llamacpp.LlamaOptions) -> None:
    """Raise OpenQwQError where another engine is given llama.cpp's options."""
    if engine != "llamacpp" and llama != llamacpp.USUAL_OPTIONS:
        raise OpenQwQError(
            f"{llama} are for the engine llamacpp: the engine {engine} has none of them, so leave"
            " them out"
        )


class EngineSetup(NamedTuple):
    """Where and in what our engine computes, and with which adapters."""

    device: Device
    precision: Precision
    adapters: Mapping[str, Path]
    default_adapter: str
    llama: llamacpp.LlamaOptions

    def chosen(self, path: Path) -> tuple[torch.device, Products]:
        """Where and in what the model at `path` computes.

        Raises OpenQwQError where the machine has no such thing.
        """
        device = chosen_device(self.device)
        return device, chosen_products(self.precision, read_subject(path).config, device)


@contextmanager
def _memory_returned() -> Iterator[None]:
    """Freed blocks of 64 KiB and more go back to the system at once, where the C library is glibc.

    Else a third of the weights that loading frees would stay with the process.
    """
    mmap_threshold, usual = -3, 32 * 2**20  # glibc's M_MMAP_THRESHOLD and what it grows to
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(mmap_threshold, 2**16)
    try:
        yield
    finally:
        if mallopt:
            mallopt(mmap_threshold, usual)


def _open_directory(
    path: Path, engine: EngineName, slots: int, length: int | None, setup: EngineSetup
) -> OpenedModel:
    require_llamacpp("torch", setup.llama)
    remedy = f"make a GGUF file of it first (qwq convert {path} FILE.gguf)"
    _require(engine, "torch", str(path), remedy)
    tokenizer = Tokenizer.load(path)
    load = partial(checkpoint.load, path)
    generate, length = _torch_engine(path, load, setup, tokenizer, slots, length)
    why = f"torch: {path} is a checkpoint directory"
    return OpenedModel(path.resolve().name, generate, tokenizer, length, "torch", why)


def _torch_engine(
    path: Path,
    load: Callable[[torch.dtype], Qwen2],
    setup: EngineSetup,
    tokenizer: Tokenizer,
    slots: int,
    length: int | None,
) -> tuple[Engine, int]:
    device, products = setup.chosen(path)

    def loaded() -> tuple[Engine, int]:
        weights = load(DTYPES[products])
        context = fitting_context(length, weights.config.max_position_embeddings)
        limits = EngineLimits(slots, context, 2048, min(slots, 16), STEP_SECONDS)
        adapters = {
            name: lora.load(folder, weights) for name, folder in setup.adapters.items()
        }
        engine = Engine(weights, tokenizer, limits, device=device)
        for name, adapter in adapters.items():
            engine.add_adapter(name, adapter, default=name == setup.default_adapter)
        return engine, context

    try:
        with _memory_returned():
            return on_a_thread(loaded)
    except torch.OutOfMemoryError as error:
        raise without_memory(error) from error


def _open_gguf(
    path: Path, engine: EngineName, slots: int, length: int | None, setup: EngineSetup
) -> OpenedModel:
    file = read_header(path)
    path = file.path
    engine, why = choose_engine(file, engine)

    has_tokenizer = "tokenizer.ggml.model" in file.metadata
    is_own = engine == "torch" or is_known(file.metadata) or not has_tokenizer
    own = _fitting_tokenizer(file, None) if is_own else None
    require_llamacpp(engine, setup.llama)
    generate: Closable
    if own is not None and engine == "torch":
        tokenizer = own
        load = partial(gguf.load, path)
        generate, length = _torch_engine(path, load, setup, tokenizer, slots, length)
    else:
        require_own_engine("llamacpp", setup.precision, setup.device)
        shape = cache_shape(file)
        length = fitting_context(length, shape.context_length)
        tokens = _cache_tokens(shape.bytes_per_token, slots, length)
        generate = relay = llamacpp.open_llamacpp(
            file,
            lambda foreign: own or _fitting_tokenizer(file, foreign),
            slots,
            length,
            tokens,
            setup.llama,
            llamacpp.Adapters(file, setup.adapters, setup.default_adapter),
        )
        tokenizer = relay.tokenizer
    name = SPLIT_NAME.fullmatch(path.name)
    title = name[1] if name else path.stem
    return OpenedModel(title, generate, tokenizer, length, engine, why)


def _fitting_tokenizer(
    file: GgufFile, foreign: Callable[[str], list[int]] | None
) -> Tokenizer:
    """The tokenizer of a GGUF file; raises OpenQwQError where it has more ids than the model."""
    tokenizer = from_metadata(file.metadata, str(file.path), foreign)
    if embedding := file.tensors.get("token_embd.weight"):
        tokenizer.require_fits(embedding.shape[0])
    return tokenizer


def choose_engine(
    file: GgufFile, engine: EngineName
) -> tuple[Literal["torch", "llamacpp"], str]:
    """Which engine runs a GGUF file, and why."""
    if engine in ("torch", "llamacpp"):
        return engine, f"{engine}: asked for"
    kinds = sorted({t.kind.name for t in file.tensors.values()} - {"F32", "F16", "BF16"})
    name = file.metadata.get("general.architecture")
    known = is_known(file.metadata)
    if not kinds and name in ARCHITECTURES and known:
        return "torch", f"torch: the weights of {file.path.name} are not quantised"
    what = f"weights in {', '.join(kinds)}" if kinds else f"the architecture {name}"
    if not known and llamacpp.installed():
        pre = file.metadata.get("tokenizer.ggml.pre")
        return "llamacpp", f"llamacpp: it knows the tokenizer of {file.path.name} ({pre})"
    if llamacpp.installed():
        return "llamacpp", f"llamacpp: it runs {what} as they are"
    return "torch", (
        f"torch: {what} are unpacked, since xllamacpp is not installed"
        " (pip install 'openqwq[llamacpp]')"
    )


def _cache_tokens(bytes_per_token: int, slots: int, length: int) -> int:
    """Every slot's full context if that is little, else what a share of the memory holds."""
    share = int(available_memory() * CACHE_SHARE)
    return max(length, min(slots * length, share // bytes_per_token))
