"""Tokenizers in GGUF metadata: byte-level BPE as llama.cpp names it, read and written."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from openqwq.text.tokenizer import QWEN2_PATTERN, Tokenizer, bytes_of, require_utf8
from openqwq.types import OpenQwQError

NORMAL, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6  # llama.cpp's token types
Encode = Callable[[str], list[int]]
# llama.cpp's names of pre-tokenizers, the first one of each kind is the one that is written.
QWEN2 = ("qwen2", "deepseek-r1-qwen")
LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
SMOLLM, GPT2 = ("smollm",), ("gpt-2",)
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
    pre = metadata.get("tokenizer.ggml.pre")
    return kind == "gpt2" and pre in (*QWEN2, *LLAMA3, *SMOLLM, *GPT2)


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
            f" {', '.join((*QWEN2, *LLAMA3, *SMOLLM, *GPT2))}; any other needs the engine llamacpp"
        )
    tokens = _strings(metadata, "tokens", source)
    parts = [merge.partition(" ") for merge in _strings(metadata, "merges", source)]
    merges = [(left, right) for left, _, right in parts]
    types = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise OpenQwQError(
            f"{source} has {len(tokens)} tokens but {len(types)} token types: convert it again"
        )
    vocabulary = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    try:
        backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre in LLAMA3))
    except Exception as error:  # `tokenizers` raises bare Exception
        raise OpenQwQError(f"{source} has unusable merges ({error}): convert it again") from error
    backend.normalizer = normalizers.NFC() if pre in QWEN2 else None
    backend.pre_tokenizer = _pre_tokenizer(pre)
    backend.decoder = decoders.ByteLevel()
    for token, type_ in zip(tokens, types, strict=True):
        if type_ == CONTROL:
            backend.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif type_ == USER_DEFINED:
            backend.add_tokens([AddedToken(token, normalized=False)])
    config = _config(metadata, tokens)
    config |= {"tokenizer_class": "Qwen2Tokenizer" if pre in QWEN2 else "PreTrainedTokenizerFast"}
    return Tokenizer(backend, config, _ends(metadata, tokens, types), source)


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
        added = {t: i for i, t in enumerate(tokens) if types[i] in (CONTROL, USER_DEFINED)}
        special = frozenset(i for i, kind in enumerate(types) if kind == CONTROL)
        vocabulary = {text: i for i, text in enumerate(tokens)}
        ends = _ends(metadata, tokens, types)
        self._describe(_config(metadata, tokens), added, special, vocabulary, ends, source)

    def backend_json(self) -> str:
        """There is none; raises OpenQwQError."""
        raise OpenQwQError(f"the tokenizer of {self.source} is llama.cpp's: it cannot be saved")

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Token ids of `text`; text like `<think>` becomes a marker only if `allow_special`."""
        require_utf8(text)
        ids: list[int] = []
        for place, part in enumerate(self.split_markers(text)):
            if place % 2 == 0:
                ids += self._encode(part) if part else []
            elif allow_special:
                ids.append(self.added_tokens[part])
            else:  # in two halves: llama.cpp takes some markers out of any text
                ids += self._encode(part[:1]) + self._encode(part[1:])
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token."""
        if not 0 <= token_id < len(self._tokens) or self._types[token_id] == UNUSED:
            return b""
        token = self._tokens[token_id]
        if token_id in self.added_ids:
            return token.encode()
        if self._types[token_id] == BYTE:
            return bytes([int(token[3:5], 16)])  # <0x0A>
        return bytes_of(token) if self._is_byte_level else token.replace("▁", " ").encode()


def _config(metadata: Mapping[str, Any], tokens: list[str]) -> dict[str, Any]:
    """The fields of tokenizer_config.json that the metadata know."""
    config: dict[str, Any] = {"clean_up_tokenization_spaces": False}
    for field, name in NAMED.items():
        token_id = metadata.get(f"tokenizer.ggml.{name}")
        if isinstance(token_id, int):
            config[field] = tokens[token_id] if 0 <= token_id < len(tokens) else None
    template = metadata.get("tokenizer.chat_template")
    prefix = "tokenizer.chat_template."
    more = {k.removeprefix(prefix): v for k, v in metadata.items() if k.startswith(prefix)}
    if more:
        named = {"default": template} | more if template else more
        template = [{"name": name, "template": text} for name, text in named.items()]
    config["chat_template"] = template
    return config


def _ends(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> list[int]:
    """Ids that end a reply, other than the named eos."""
    ends: list[int] = []
    for name in ("eot", "eom"):
        token_id = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(token_id, int):
            ends.append(token_id)
    ends += [i for i, token in enumerate(tokens) if token in ENDS and types[i] == CONTROL]
    return sorted(ends, key=lambda i: ENDS.index(tokens[i]) if tokens[i] in ENDS else -1)


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
        tokens[i], types[i] = token, NORMAL
    for token, i in tokenizer.added_tokens.items():
        tokens[i] = token
        types[i] = CONTROL if i in tokenizer.special_ids else USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in description["model"]["merges"]]
    named = {
        f"tokenizer.ggml.{name}": tokenizer.added_tokens[text]
        for field, name in NAMED.items()
        if (text := tokenizer.named_tokens.get(field)) in tokenizer.added_tokens
    }
    template = tokenizer.chat_template
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _name_of(description["pre_tokenizer"], tokenizer.source),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_ids[0],
        "tokenizer.ggml.add_bos_token": False,
        **named,
        **({"tokenizer.chat_template": template} if template else {}),
    }


def _strings(metadata: Mapping[str, Any], name: str, source: str) -> list[str]:
    value = metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise OpenQwQError(f"{source} has no tokenizer.ggml.{name}: convert it with its tokenizer")
    return value


def _pre_tokenizer(pre: str) -> pre_tokenizers.PreTokenizer:
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre in SMOLLM + GPT2)
    if pre in GPT2:
        return to_bytes
    if pre in SMOLLM:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), to_bytes])
    pattern = QWEN2_PATTERN if pre in QWEN2 else QWEN2_PATTERN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), to_bytes])


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
        f" we know are {', '.join((QWEN2[0], LLAMA3[0], SMOLLM[0], GPT2[0]))}"
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
            yield {name: pre_tokenizer[name] for name in ("type", "add_prefix_space", "use_regex")}
        case _:
            yield dict(pre_tokenizer)
