"""Byte-level BPE on `tokenizers`: text that a user wrote never becomes an added token."""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import tokenizers
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from openqwq.text.rendering import ChatTemplate, split_markers
from openqwq.types import OpenQwQError

Parsed = TypeVar("Parsed")
QWQ_TEMPLATE = Path(__file__).with_name("qwq.jinja").read_text(encoding="utf-8")

# Qwen2's pre-tokeniser: contractions, words, single digits, punctuation, line ends, spaces.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# QwQ's added tokens that text needs, in QwQ's order. Its vision, fill-in-the-middle and repository
# tokens are left out: nothing here would ever train their rows.
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOOL_TOKENS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
THINK_TOKENS = ["<think>", "</think>"]
TEXT_TOKENS = [*TOOL_TOKENS, *THINK_TOKENS]
CHANNEL_ENDS = ("<|return|>", "<|call|>")  # of a reply
CHANNEL_TOKENS = {"<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>"}
CHANNEL_TOKENS |= set(CHANNEL_ENDS)


class Tokenizer:
    """Token ids of text and back, with the ids that the rest of OpenQwQ must know by name.

    `added_tokens` maps text to id; `special_ids` are those among them that readers never see, and
    `silent_ids` are these and `eos_ids`. `eos_ids` end a reply: first the one that the chat
    template writes behind an assistant's turn (a base model's own eos may be another), then the
    tokenizer's own. `pad_id` falls back to the first, as padding is always masked. The think and
    tool ids are None where a checkpoint has no such token.
    `vocab_size` is the highest id + 1. `chat_template` is the checkpoint's own Jinja, or None;
    `chat_templates` has all of them by name, where there are several.
    Raises OpenQwQError where text and markers cannot be kept apart or nothing ends a reply.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        config: dict[str, Any],
        eos_ids: list[int],
        source: str,
    ) -> None:
        """`config` holds the fields of tokenizer_config.json; errors name `source`."""
        by_text: dict[str, int] = {}
        special: set[int] = set()
        trims: list[str] = []  # added tokens that take from the text around them
        for token_id, token in backend.get_added_tokens_decoder().items():
            by_text[token.content] = token_id
            if token.special:
                special.add(token_id)
            if token.lstrip or token.rstrip or token.single_word:
                trims.append(token.content)
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self._describe(config, by_text, frozenset(special), vocabulary, eos_ids, source)

        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        # the same model without added tokens
        self._plain = tokenizers.Tokenizer(backend.model)
        self._plain.normalizer = backend.normalizer
        self._plain.pre_tokenizer = backend.pre_tokenizer
        mixes: list[str] = []  # those that plain text can become
        for text, token_id in by_text.items():
            if token_id in self._plain.encode(text).ids:
                mixes.append(text)
        if trims or mixes or not isinstance(backend.decoder, decoders.ByteLevel):
            raise OpenQwQError(
                f"{source} is not a byte-level BPE whose added tokens stand apart from text"
                f" {trims + mixes}: only tokenizers of Qwen2's and GPT-2's kind are supported"
            )

    def _describe(
        self,
        config: dict[str, Any],
        added_tokens: dict[str, int],
        special_ids: frozenset[int],
        vocabulary: Mapping[str, int],
        eos_ids: list[int],
        source: str,
    ) -> None:
        """Set what is known of the tokens, however text is encoded."""
        self.source = source
        self.config = config
        self.adds_a_space = False  # before a text that does not go on from another
        self.chat_templates = _named_templates(config.get("chat_template"), source)
        self.chat_template = self.chat_templates.get("default")
        self.added_tokens = added_tokens
        self.added_ids = frozenset(added_tokens.values())
        self.special_ids = special_ids
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        self.think_open_id = added_tokens.get("<think>")
        self.think_close_id = added_tokens.get("</think>")
        self.tool_call_open_id = added_tokens.get("<tool_call>")
        self.tool_call_close_id = added_tokens.get("</tool_call>")

        named: dict[str, str] = {}
        for key, value in config.items():
            text = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(text, str):
                named[key] = text
        self.named_tokens = named
        ends = [self._end_of_turn(), named.get("eos_token")]
        if self.writes_channels:
            ends = [*CHANNEL_ENDS, *ends]
        own = [vocabulary[text] for text in ends if text is not None and text in vocabulary]
        found = dict.fromkeys([*own, *eos_ids])
        if self.writes_channels:
            # it ends a message, of which a reply has several
            found.pop(vocabulary["<|end|>"], None)
        self.eos_ids = tuple(found)
        if not self.eos_ids or not set(self.eos_ids) <= self.added_ids:
            raise OpenQwQError(
                f"{source} has no added tokens to end replies {list(self.eos_ids)}: set eos_token"
                " in tokenizer_config.json and eos_token_id in generation_config.json"
            )
        self.silent_ids = special_ids.union(self.eos_ids)
        self.pad_id = vocabulary.get(named.get("pad_token", ""), self.eos_ids[0])

    def template(self, with_tools: bool = False) -> ChatTemplate:
        """The chat template; of several, the one named tool_use where there are tools.

        QwQ's stands in where the checkpoint has QwQ's tokens. Raises OpenQwQError if it has not.
        """
        source = self.chat_template
        if with_tools:
            source = self.chat_templates.get("tool_use", source)
        if source is None:
            source = QWQ_TEMPLATE
            if not self.has_template():
                raise OpenQwQError(
                    f"{self.source} has neither a chat template nor QwQ's tokens: add a"
                    " chat_template to tokenizer_config.json, or use an instruction-tuned"
                    " checkpoint"
                )
        return ChatTemplate(
            source, tuple(self.added_tokens), tuple(self.named_tokens.items())
        )

    def split_markers(self, text: str) -> list[str]:
        """Plain text, added token, plain text, and so on."""
        return split_markers(text, tuple(self.added_tokens))

    def has_template(self) -> bool:
        """Whether there is a chat template, or QwQ's tokens for QwQ's template."""
        tokens = {"<|im_start|>", "<|im_end|>", "<think>"}
        return self.chat_template is not None or tokens <= self.added_tokens.keys()

    @cached_property
    def leaves_thinking_open(self) -> bool:
        """Whether a model opens its thinking itself, as its chat template does not do it."""
        return self.has_template() and not self.template().opens_thinking()

    @cached_property
    def writes_channels(self) -> bool:
        """Whether replies are messages in channels, as gpt-oss writes them (see `channels`)."""
        mentioned = any("<|channel|>" in text for text in self.chat_templates.values())
        return mentioned and self.added_tokens.keys() >= CHANNEL_TOKENS

    def _end_of_turn(self) -> str | None:
        return self.template().end_of_turn() if self.chat_template else None

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn a vocabulary in Qwen2's manner: 256 bytes, merges, then the added tokens.

        The same texts give the same tokenizer. Fewer than `vocab_size` ids result where the texts
        hold too few pairs seen twice. Raises OpenQwQError if not even bytes and markers fit.
        """
        learned = vocab_size - len(SPECIAL_TOKENS + TEXT_TOKENS)
        if learned < 256:
            raise OpenQwQError(
                f"vocab_size is {vocab_size}: make it at least {vocab_size - learned + 256}"
            )
        backend = tokenizers.Tokenizer(models.BPE())
        backend.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=learned,
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        backend.add_special_tokens(SPECIAL_TOKENS)
        backend.add_tokens([AddedToken(text, normalized=False) for text in TEXT_TOKENS])
        config = {
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
            "clean_up_tokenization_spaces": False,
            "chat_template": QWQ_TEMPLATE,
        }
        return cls(
            backend, config, [backend.get_vocab()["<|endoftext|>"]], "the new tokenizer"
        )

    @classmethod
    def load(cls, directory: Path | str) -> "Tokenizer":
        """Read a Hugging Face checkpoint directory; raises OpenQwQError naming a bad file."""
        folder = Path(directory)
        backend = _read(folder / "tokenizer.json", tokenizers.Tokenizer.from_str)
        config = _read(folder / "tokenizer_config.json", _json_object)
        if (folder / "chat_template.jinja").exists():
            config["chat_template"] = _read(folder / "chat_template.jinja", str)
        more = sorted(folder.glob("additional_chat_templates/*.jinja"))
        if more:
            named = _named_templates(config.get("chat_template"), str(folder))
            for path in more:
                named[path.stem] = _read(path, str)
            config["chat_template"] = [{"name": k, "template": v} for k, v in named.items()]
        return cls(backend, config, _declared_ends(folder), str(folder))

    def with_think_tokens(self) -> "Tokenizer":
        """A tokenizer of the same text to which `<think>` and `</think>` are tokens, too."""
        backend = tokenizers.Tokenizer.from_str(self.backend_json())
        backend.add_tokens([AddedToken(text, normalized=False) for text in THINK_TOKENS])
        return Tokenizer(backend, self.config, list(self.eos_ids), self.source)

    def save(self, directory: Path | str) -> None:
        """Write what transformers' AutoTokenizer loads; an old generation config keeps its rest."""
        folder = Path(directory)
        path = folder / "generation_config.json"
        generation = _read(path, _json_object) if path.exists() else {}
        generation |= {"eos_token_id": list(self.eos_ids), "pad_token_id": self.pad_id}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(generation, indent=2))
            (folder / "tokenizer_config.json").write_text(json.dumps(self.config, indent=2))
            (folder / "tokenizer.json").write_text(self.backend_json(), "utf-8")
        except OSError as error:
            raise OpenQwQError(
                f"cannot save to {folder} ({error}): choose another"
            ) from error

    def backend_json(self) -> str:
        """The content of tokenizer.json."""
        return str(self._backend.to_str(pretty=True))

    def require_fits(self, model_vocab_size: int) -> None:
        """Raise OpenQwQError if an id has no row in a model's embedding."""
        if self.vocab_size > model_vocab_size:
            raise OpenQwQError(
                f"{self.source} has ids up to {self.vocab_size - 1} but the model's vocab_size is"
                f" {model_vocab_size}: use the tokenizer that came with the model"
            )

    def encode(
        self, text: str, allow_special: bool = False, goes_on: bool = False
    ) -> list[int]:
        """Token ids of `text`; text like `<think>` becomes a marker only if `allow_special`.

        Text that `goes_on` stands behind other text, which some tokenizers of others tell apart.
        Ids equal transformers'; as there, a checkpoint that lacks a byte (SmolLM2 does) omits it.
        Raises OpenQwQError for a lone surrogate, which no UTF-8 text can hold.
        """
        require_utf8(text)
        encoder = self._backend if allow_special else self._plain
        return encoder.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        if skip_special:
            ids = [token_id for token_id in ids if token_id not in self.special_ids]
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; none for the padding rows that models have past the last id."""
        return bytes_of(self._backend.id_to_token(token_id) or "")


# GPT-2's byte alphabet: printable Latin-1 stands for itself, U+0100 on for the others in order.
_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
_OWN = [ord(character) for character in _ALPHABET if ord(character) < 256]
_BYTE_OF = dict(zip(_ALPHABET, _OWN + sorted(set(range(256)) - set(_OWN)), strict=True))


def require_utf8(text: str) -> None:
    """Raise OpenQwQError for a lone surrogate, which no UTF-8 text can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise OpenQwQError(
            f"text has a lone surrogate at {error.start}: remove it"
        ) from error


@cache
def bytes_of(token: str) -> bytes:
    """The bytes that a token of a byte-level vocabulary stands for."""
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:  # an added token is stored as text, not in the byte alphabet
        return token.encode()


def _named_templates(given: Any, source: str) -> dict[str, str]:
    """Chat templates by name: one text is the default one, a list names each of its own."""
    match given:
        case None:
            return {}
        case str():
            return {"default": given}
        case [*entries] if all(isinstance(entry, dict) for entry in entries):
            texts = {str(entry.get("name")): entry.get("template") for entry in entries}
            if all(isinstance(text, str) for text in texts.values()):
                return texts
    raise OpenQwQError(
        f"{source} has a chat_template that is neither text nor a list of named templates"
        f" ({given!s:.60}): copy tokenizer_config.json from the checkpoint"
    )


def _declared_ends(folder: Path) -> list[int]:
    """The ids that a checkpoint's configs name to end a reply; the generation config wins."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        ids = _read(path, _json_object).get("eos_token_id") if path.exists() else None
        if ids is not None:
            return ids if isinstance(ids, list) else [ids]
    return []


def _read(path: Path, parse: Callable[[str], Parsed]) -> Parsed:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except Exception as error:  # `tokenizers` raises bare Exception for any bad file
        raise OpenQwQError(
            f"cannot read {path} ({error}): copy it from the checkpoint"
        ) from error


def _json_object(text: str) -> dict[str, Any]:
    return dict(json.loads(text))
