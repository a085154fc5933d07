"""Tokenizers in GGUF metadata: byte-level BPE as llama.cpp names it, read and written."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from openqwq.text.tokenizer import QWEN2_PATTERN, Tokenizer, bytes_of, require_utf8
from openqwq.types import OpenQwQError

# llama.cpp's token types
NORMAL = 1
CONTROL = 3
USER_DEFINED = 4
UNUSED = 5
BYTE = 6
Encode = Callable[[str], list[int]]
# llama.cpp's names of pre-tokenizers, the first one of each kind is the one that is written.
QWEN2 = ("qwen2", "deepseek-r1-qwen")
LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
SMOLLM = ("smollm",)
GPT2 = ("gpt-2",)
KNOWN = (*QWEN2, *LLAMA3, *SMOLLM, *GPT2)
ENDS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
)  # as llama.cpp has them, too; fmt: skip
NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "pad_token": "padding_token_id",
    "unk_token": "unknown_token_id",
}


def is_known(metadata: Mapping[str, Any]) -> bool:
    """Whether our own tokenizer reads what a GGUF file's metadata describe."""
    kind = metadata.get("tokenizer.ggml.model")
    return kind == "gpt2" and metadata.get("tokenizer.ggml.pre") in KNOWN


def from_metadata(
    metadata: Mapping[str, Any], source: str, foreign: Encode | None = None
) -> Tokenizer:
    """The tokenizer that a GGUF file's metadata hold, chat template included.

    Qwen2's text is normalised to NFC as its tokenizer.json says, though llama.cpp does not. Text of
    kinds that we do not know is encoded by `foreign`, llama.cpp's own tokenizer. Raises
    OpenQwQError naming `source` and the entry that is missing, damaged or not supported.
    """
    if not is_known(metadata) and foreign:
        return ForeignTokenizer(metadata, source, foreign)
    pre: Any = metadata.get("tokenizer.ggml.pre")
    if not is_known(metadata):
        kind = metadata.get("tokenizer.ggml.model")
        raise OpenQwQError(
            f"{source} has a tokenizer of model {kind!r} and pre {pre!r}: ours reads gpt2 with"
            f" {', '.join(KNOWN)}; any other needs the engine llamacpp"
        )
    tokens = _strings(metadata, "tokens", source)
    types = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise OpenQwQError(
            f"{source} has {len(tokens)} tokens but {len(types)} token types: convert it again"
        )

    config = _config(metadata, tokens)
    backend = tokenizers.Tokenizer(_bpe(metadata, tokens, types, source))
    if pre in QWEN2:
        backend.normalizer = normalizers.NFC()
        config["tokenizer_class"] = "Qwen2Tokenizer"
    else:
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    backend.pre_tokenizer = _pre_tokenizer(pre)
    backend.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, types, strict=True):
        if kind == CONTROL:
            backend.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == USER_DEFINED:
            backend.add_tokens([AddedToken(token, normalized=False)])
    return Tokenizer(backend, config, _ends(metadata, tokens, types), source)


def _bpe(
    metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int], source: str
) -> models.BPE:
    merges: list[tuple[str, str]] = []
    for merge in _strings(metadata, "merges", source):
        left, _, right = merge.partition(" ")
        merges.append((left, right))
    vocabulary = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    whole_words = metadata.get("tokenizer.ggml.pre") in LLAMA3
    try:
        return models.BPE(vocabulary, merges, ignore_merges=whole_words)
    except Exception as error:  # `tokenizers` raises bare Exception
        raise OpenQwQError(
            f"{source} has unusable merges ({error}): convert it again"
        ) from error


class ForeignTokenizer(Tokenizer):
    """A tokenizer of any kind, by its vocabulary in a GGUF file and by llama.cpp for its text."""

    def __init__(self, metadata: Mapping[str, Any], source: str, encode: Encode) -> None:
        """`encode` gives the ids of a text without control tokens in it."""
        tokens = _strings(metadata, "tokens", source)
        types = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
        self._tokens = tokens
        self._types = types
        self._encode = encode
        self._is_byte_level = metadata.get("tokenizer.ggml.model") == "gpt2"
        vocabulary: dict[str, int] = {}
        added: dict[str, int] = {}
        special: set[int] = set()
        for token_id, (token, kind) in enumerate(zip(tokens, types, strict=True)):
            vocabulary[token] = token_id
            if kind in (CONTROL, USER_DEFINED):
                added[token] = token_id
            if kind == CONTROL:
                special.add(token_id)
        config = _config(metadata, tokens)
        ends = _ends(metadata, tokens, types)
        self._describe(config, added, frozenset(special), vocabulary, ends, source)
        self.adds_a_space = encode("a") != self._encode_on("a")

    def backend_json(self) -> str:
        """There is none; raises OpenQwQError."""
        raise OpenQwQError(
            f"the tokenizer of {self.source} is llama.cpp's: it cannot be saved"
        )

    def encode(
        self, text: str, allow_special: bool = False, goes_on: bool = False
    ) -> list[int]:
        """Token ids of `text`; text like `<think>` becomes a marker only if `allow_special`."""
        require_utf8(text)
        ids: list[int] = []
        for place, part in enumerate(self.split_markers(text)):
            is_marker = place % 2 == 1
            if is_marker and allow_special:
                ids.append(self.added_tokens[part])
                goes_on = False
                continue
            # a marker in two halves: llama.cpp takes some markers out of any text
            for half in (part[:1], part[1:]) if is_marker else (part,):
                if half:
                    ids += self._encode_on(half) if goes_on else self._encode(half)
                    goes_on = True
        return ids

    def _encode_on(self, text: str) -> list[int]:
        """The ids of text behind other text: SentencePiece begins any other one with a space."""
        for before in ("\n", "\x00"):
            first = self._encode(before)
            both = self._encode(before + text)
            if both[: len(first)] == first:
                return both[len(first) :]
        return self._encode(text)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token."""
        if not 0 <= token_id < len(self._tokens) or self._types[token_id] == UNUSED:
            return b""
        token = self._tokens[token_id]
        if token_id in self.added_ids:
            return token.encode()
        if self._types[token_id] == BYTE:
            return bytes([int(token[3:5], 16)])  # <0x0A>
        if self._is_byte_level:
            return bytes_of(token)
        return token.replace("▁", " ").encode()


def _config(metadata: Mapping[str, Any], tokens: list[str]) -> dict[str, Any]:
    """The fields of tokenizer_config.json that the metadata know."""
    config: dict[str, Any] = {"clean_up_tokenization_spaces": False}
    for field, name in NAMED.items():
        token_id = metadata.get(f"tokenizer.ggml.{name}")
        if isinstance(token_id, int):
            config[field] = tokens[token_id] if 0 <= token_id < len(tokens) else None
    template = metadata.get("tokenizer.chat_template")
    prefix = "tokenizer.chat_template."
    named: list[dict[str, Any]] = []
    for key, text in metadata.items():
        if key.startswith(prefix):
            named.append({"name": key.removeprefix(prefix), "template": text})
    if named and template:
        named.insert(0, {"name": "default", "template": template})
    config["chat_template"] = named or template
    return config


def _ends(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> list[int]:
    """Ids that end a reply, other than the named eos: those that the file names, then by `ENDS`."""
    known = {text: place for place, text in enumerate(ENDS)}
    ends: list[int] = []
    for name in ("eot", "eom"):
        token_id = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(token_id, int):
            ends.append(token_id)
    for token_id, token in enumerate(tokens):
        if token in known and types[token_id] == CONTROL:
            ends.append(token_id)
    return sorted(ends, key=lambda token_id: known.get(tokens[token_id], -1))


def to_metadata(tokenizer: Tokenizer, model_vocab_size: int) -> dict[str, Any]:
    """The `tokenizer.*` entries with which llama.cpp gives the same ids.

    Rows of the embedding past the last id become unused tokens. Raises OpenQwQError for a
    tokenizer that llama.cpp has no name for, and for one with more ids than the model has rows.
    """
    tokenizer.require_fits(model_vocab_size)
    description = json.loads(tokenizer.backend_json())
    tokens = [f"[PAD{i}]" for i in range(model_vocab_size)]
    types = [UNUSED] * model_vocab_size
    for token, i in description["model"]["vocab"].items():
        tokens[i] = token
        types[i] = NORMAL
    for token, i in tokenizer.added_tokens.items():
        tokens[i] = token
        types[i] = CONTROL if i in tokenizer.special_ids else USER_DEFINED
    merges: list[str] = []
    for merge in description["model"]["merges"]:
        merges.append(merge if isinstance(merge, str) else " ".join(merge))

    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _name_of(description["pre_tokenizer"], tokenizer.source),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_ids[0],
        "tokenizer.ggml.add_bos_token": False,
    }
    for field, name in NAMED.items():
        text = tokenizer.named_tokens.get(field)
        if text in tokenizer.added_tokens:
            metadata[f"tokenizer.ggml.{name}"] = tokenizer.added_tokens[text]
    if tokenizer.chat_template:
        metadata["tokenizer.chat_template"] = tokenizer.chat_template
    return metadata


def _strings(metadata: Mapping[str, Any], name: str, source: str) -> list[str]:
    value = metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise OpenQwQError(
            f"{source} has no tokenizer.ggml.{name}: convert it with its tokenizer"
        )
    return value


def _pre_tokenizer(pre: str) -> pre_tokenizers.PreTokenizer:
    to_bytes = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=pre in SMOLLM + GPT2
    )
    if pre in GPT2:
        return to_bytes
    if pre in SMOLLM:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, to_bytes])
    pattern = QWEN2_PATTERN
    if pre in LLAMA3:
        pattern = pattern.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
    words = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([words, to_bytes])


def _name_of(pre_tokenizer: Mapping[str, Any] | None, source: str) -> str:
    """llama.cpp's name of the pre-tokenizer that a tokenizer.json describes."""
    shape = list(_steps(pre_tokenizer))
    for names in (QWEN2, LLAMA3, SMOLLM, GPT2):
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = _pre_tokenizer(names[0])
        if shape == list(_steps(json.loads(backend.to_str())["pre_tokenizer"])):
            return names[0]
    raise OpenQwQError(
        f"{source} splits text as {pre_tokenizer}: llama.cpp's names for pre-tokenizers that"
        f" we know are {QWEN2[0]}, {LLAMA3[0]}, {SMOLLM[0]}, {GPT2[0]}"
    )


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The steps of a pre-tokenizer, nested sequences opened, without settings of no effect."""
    match pre_tokenizer:
        case None:
            return
        case {"type": "Sequence", "pretokenizers": steps}:
            for step in steps:
                yield from _steps(step)
        case {"type": "ByteLevel"}:
            yield {
                name: pre_tokenizer[name]
                for name in ("type", "add_prefix_space", "use_regex")
            }
        case _:
            yield dict(pre_tokenizer)
