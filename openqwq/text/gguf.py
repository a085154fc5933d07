"""Tokenizers in GGUF metadata: byte-level BPE as llama.cpp names it, read and written."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from openqwq.text.tokenizer import QWEN2_PATTERN, Tokenizer
from openqwq.types import OpenQwQError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's token types
# llama.cpp's names of pre-tokenizers, the first one of each kind is the one that is written.
QWEN2 = ("qwen2", "deepseek-r1-qwen")
LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
SMOLLM, GPT2 = ("smollm",), ("gpt-2",)
ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>")  # llama.cpp's, too
NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "pad_token": "padding_token_id",
    "unk_token": "unknown_token_id",
}


def from_metadata(metadata: Mapping[str, Any], source: str) -> Tokenizer:
    """The tokenizer that a GGUF file's metadata hold, chat template included.

    Qwen2's text is normalised to NFC as its tokenizer.json says, though llama.cpp does not.
    Raises OpenQwQError naming `source` and the entry that is missing, damaged or not supported.
    """
    kind, pre = (metadata.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind != "gpt2" or pre not in (*QWEN2, *LLAMA3, *SMOLLM, *GPT2):
        raise OpenQwQError(
            f"{source} has a tokenizer of model {kind!r} and pre {pre!r}: supported is gpt2 with"
            f" {', '.join((*QWEN2, *LLAMA3, *SMOLLM, *GPT2))}"
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
    config: dict[str, Any] = {
        field: tokens[i] if 0 <= i < len(tokens) else None
        for field, name in NAMED.items()
        if isinstance(i := metadata.get(f"tokenizer.ggml.{name}"), int)
    }
    config |= {
        "tokenizer_class": "Qwen2Tokenizer" if pre in QWEN2 else "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "chat_template": metadata.get("tokenizer.chat_template"),
    }
    control = {token for token, type_ in zip(tokens, types, strict=True) if type_ == CONTROL}
    ends = [vocabulary[token] for token in ENDS if token in control]
    eot = metadata.get("tokenizer.ggml.eot_token_id")
    return Tokenizer(backend, config, [*([eot] if eot is not None else []), *ends], source)


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
