"""llama.cpp inside our process (wheel xllamacpp): quantised GGUF files, token ids in and out.

Its server draws with our filters in our order, so log-probs are those of the distribution that is
sampled from. It holds back a token that ends inside a character until the character is whole: such
ids are the canonical tokens of that text, and their log-probs, which it never reports, are NaN.
"""

import asyncio
import json
import secrets
import threading
import time
import urllib.request
from collections.abc import AsyncGenerator, Callable, Mapping
from collections.abc import Sequence as Ids
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from openqwq.engine.llamacpp_messages import TokenReader, request
from openqwq.engine.llamacpp_vocabulary import forget_vocabularies
from openqwq.engine.relay import DrawnToken, Relay
from openqwq.engine.sequence import Sequence
from openqwq.model.gguf_header import GgufFile
from openqwq.model.gguf_lora import write_adapter
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import OpenQwQError

PROGRESS = b'"prompt_progress":'  # in the events before the first token
# Tokens that come so close share one waking of the event loop: it costs llama.cpp's threads more
# than the tokens themselves, and no reader sees the difference.
TOGETHER_SECONDS = 0.05
# Tokens read between two looks at whether the client is still there. Large batches read a prompt
# faster, and keep the next request waiting when a prompt is cancelled: for up to 1.4 s with as many
# tokens as `PROMPT_BYTES` allows, on the two cores measured.
PROMPT_BATCHES = (512, 256, 128, 64)
PROMPT_BYTES = 48e9  # of weights, once for each token of a batch

TokenizerOf = Callable[[Callable[[str], list[int]]], Tokenizer]


@dataclass(frozen=True)
class LlamaOptions:
    """What llama.cpp alone can be told; the defaults are its own.

    `draft` is a small model's GGUF file that guesses ahead, `ngrams` guesses from the text so far.
    """

    gpu_layers: int | None = None  # None: all that fit, -1: all
    cache_type: Literal["f16", "bf16", "q8_0", "q4_0"] = "f16"  # of keys and values
    flash_attention: Literal["auto", "on", "off"] = "auto"
    threads: int | None = None  # None: as many as PyTorch has
    draft: str | None = None
    ngrams: bool = False


USUAL_OPTIONS = LlamaOptions()


@dataclass(frozen=True)
class Adapters:
    """PEFT directories by name, for the model in a GGUF file; unnamed requests get `default`."""

    base: GgufFile
    folders: Mapping[str, Path]
    default: str = ""

    def scales(self, name: str) -> list[dict[str, float]]:
        """The request's field `lora`: 1 for the adapter that it names, 0 for every other."""
        wanted = name or self.default
        return [
            {"id": i, "scale": float(own == wanted)} for i, own in enumerate(self.folders)
        ]

    def write(self, folder: Path) -> list[Path]:
        """Write them in llama.cpp's format, which it reads once, when it loads the model."""
        files = []
        for number, directory in enumerate(self.folders.values()):
            files.append(folder / f"{number}.gguf")
            write_adapter(directory, self.base, files[-1])
        return files


def open_llamacpp(
    file: GgufFile,
    tokenizer_of: TokenizerOf,
    slots: int,
    context_length: int,
    cache_tokens: int,
    options: LlamaOptions = USUAL_OPTIONS,
    adapters: Adapters | None = None,
) -> Relay:
    """Load a GGUF file for `slots` sequences, each of at most `context_length` tokens.

    Together they may hold `cache_tokens`. `tokenizer_of` is given llama.cpp's own way from text to
    ids, for files of kinds that our tokenizer does not know. Raises OpenQwQError where the wheel is
    missing or cannot load the file.
    """
    engine = LlamaCpp(file, slots, context_length, cache_tokens, options, adapters)
    try:
        engine.tokenizer = tokenizer = tokenizer_of(engine.encode)
    except OpenQwQError:
        engine.close()
        raise
    names = tuple(adapters.folders) if adapters else ()
    return Relay(
        "llamacpp", engine.draw, engine.close, tokenizer, context_length, slots, True, names
    )


def prompt_batch(file: GgufFile) -> int:
    """How many tokens of a prompt are read between two looks at whether it is still wanted."""
    weights = sum(tensor.size for tensor in file.tensors.values())
    for tokens in PROMPT_BATCHES:
        if tokens * weights <= PROMPT_BYTES:
            return tokens
    return PROMPT_BATCHES[-1]


def installed() -> bool:
    """Whether the wheel is there."""
    try:
        import xllamacpp  # noqa: F401
    except ImportError:
        return False
    return True


class LlamaCpp:
    """One loaded model; `draw` is a `relay.RelayDraw`."""

    def __init__(
        self,
        file: GgufFile,
        slots: int,
        context_length: int,
        cache_tokens: int,
        options: LlamaOptions,
        adapters: Adapters | None = None,
    ) -> None:
        self._adapters = adapters
        self.tokenizer: Tokenizer | None = None
        self._key = secrets.token_hex()
        shared = cache_tokens < slots * context_length
        with TemporaryDirectory() as folder:
            files = adapters.write(Path(folder)) if adapters else []
            self._server = _server(
                file, slots, cache_tokens, shared, self._key, options, files
            )
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="llamacpp")
        self._closed = threading.Event()
        self._read_a_grammar = False

    def close(self) -> None:
        """End running requests and free the model; who still waits gets a RuntimeError."""
        self._closed.set()
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self._read_a_grammar:
            forget_vocabularies(_tiny_server)
        self._server = None

    def encode(self, text: str) -> list[int]:
        """The ids that llama.cpp's own tokenizer gives a text, control tokens left as text."""
        body = json.dumps({"content": text, "add_special": False, "parse_special": False})
        headers = {
            "Authorization": f"Bearer {self._key}",
            "Content-Type": "application/json",
        }
        url = f"{self._server.listening_address}/tokenize"
        asked = urllib.request.Request(url, body.encode(), headers)
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                ids: list[int] = json.load(answer)["tokens"]
                return ids
        except (OSError, ValueError, LookupError) as error:
            raise OpenQwQError(
                f"llama.cpp's tokenizer did not answer ({error}): open the model again"
            ) from error

    async def draw(self, sequences: Ids[Sequence]) -> AsyncGenerator[DrawnToken]:
        """See `relay.RelayDraw`; closing it ends the request at its next token or prompt batch."""
        asked = request(sequences)
        if self._adapters and self._adapters.folders:
            asked["lora"] = self._adapters.scales(sequences[0].params.adapter)
        if "grammar" in asked:
            self._read_a_grammar = True
        body = json.dumps(asked).encode()  # as bytes, events come as bytes: cheaper
        loop = asyncio.get_running_loop()
        stopped = threading.Event()
        bunches: asyncio.Queue[list[bytes | Exception | None]] = asyncio.Queue()
        bunch: list[bytes | Exception | None] = []
        woken = 0.0  # when tokens last went to the loop, seconds

        def over() -> bool:
            return stopped.is_set() or self._closed.is_set() or loop.is_closed()

        def on_event(event: bytes | Exception | None) -> bool:
            nonlocal bunch, woken
            bunch.append(event)
            now = time.monotonic()
            is_token = isinstance(event, bytes) and PROGRESS not in event
            if not is_token or now - woken >= TOGETHER_SECONDS:
                if is_token:
                    woken = now
                if not loop.is_closed():
                    loop.call_soon_threadsafe(bunches.put_nowait, bunch)
                bunch = []
            return over()

        def work() -> None:
            try:
                if not over():
                    self._server.handle_completions(body, on_event)
                on_event(None)
            except Exception as error:  # whatever it is, the caller must learn of it
                on_event(error)

        self._threads.submit(work)
        log_probs = sequences[0].params.log_probs
        assert self.tokenizer is not None
        reader = TokenReader(self.tokenizer, len(sequences), log_probs)
        try:
            event: bytes | Exception | None = b""
            while event is not None:
                for event in await bunches.get():
                    if isinstance(event, Exception):
                        raise event
                    for token in reader.tokens(json.loads(event or b"{}")):
                        yield token
            if self._closed.is_set():
                raise RuntimeError("the engine llamacpp was closed while a request ran")
        finally:
            stopped.set()


def _tiny_server(file: GgufFile) -> Any:
    """The server of a file that is asked for a token or two."""
    return _server(file, 1, 64, False, secrets.token_hex(), LlamaOptions(threads=1), ())


def _server(
    file: GgufFile,
    slots: int,
    cache_tokens: int,
    shared: bool,
    key: str,
    options: LlamaOptions,
    adapters: Ids[Path],
) -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise OpenQwQError(
            f"the engine llamacpp needs the package xllamacpp ({error}): pip install"
            " 'openqwq[llamacpp]'"
        ) from error
    import torch

    params = xllamacpp.CommonParams()
    params.model.path = str(file.path)
    infos = []
    for adapter in adapters:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path = str(adapter)
        info.scale = 0.0
        infos.append(info)
    params.lora_adapters = infos
    params.n_parallel = slots
    params.n_ctx = cache_tokens
    params.n_batch = params.n_ubatch = prompt_batch(file)
    # one pool of cache tokens: attention then walks over all slots'
    params.kv_unified = shared
    params.cache_ram_mib = 0  # keep no copies of old prompts
    params.fit_params = params.warmup = False
    params.enable_chat_template = params.use_jinja = False
    params.verbosity = -1
    threads = options.threads or torch.get_num_threads()
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    # a full context ends the reply: nothing is forgotten in silence
    params.ctx_shift = False
    params.endpoint_metrics = True
    params.api_keys = [key]  # it listens on a port of its own
    params.ui = False
    _set_options(xllamacpp, params, options)
    try:
        server = xllamacpp.Server(params)
        server.handle_metrics()  # answered by its loop: freed before that runs, it would hang
        return server
    except (RuntimeError, ValueError) as error:
        raise OpenQwQError(
            f"llama.cpp cannot load {file.path} with room for {cache_tokens} tokens ({error}): see"
            " `qwq fit`, lower the context length, or try the engine torch; it refuses files whose"
            " architecture or tokenizer it does not know, too"
        ) from error


def _set_options(xllamacpp: Any, params: Any, options: LlamaOptions) -> None:
    """Tell llama.cpp what was asked for."""
    if options.gpu_layers is not None:
        params.n_gpu_layers = options.gpu_layers
    kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{options.cache_type.upper()}")
    params.cache_type_k = params.cache_type_v = kind
    attention = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}[
        options.flash_attention
    ]
    types = xllamacpp.llama_flash_attn_type
    params.flash_attn_type = getattr(types, f"LLAMA_FLASH_ATTN_TYPE_{attention}")
    speculative = xllamacpp.common_speculative_type
    if options.draft:
        params.speculative.draft.mparams.path = options.draft
        params.speculative.types = [speculative.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
    elif options.ngrams:
        params.speculative.types = [speculative.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
