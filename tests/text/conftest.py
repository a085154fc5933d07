"""One trained tokenizer for the whole room, and strings of every kind to try it on."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend

from openqwq.text.tokenizer import Tokenizer

CORPUS = [
    "The quick brown fox said hello to the assistant; it's the user's turn, isn't it?\n\n",
    "def add(first, second):\n    return first + second  # 12 + 345 = 357\n\n\nprint(add(1, 2))\n",
    "Größe, café, naïve, Ångström; 你好，世界。Привет, мир! こんにちは 😀🎉 नमस्ते\n",
    "Mathematicians occasionally demonstrate counterintuitive generalisations about probability.\n",
    '{"name": "search", "arguments": {"query": "weather in Paris"}}\r\n\r\n\t<b>bold</b>\n',
] * 8

PIECES = [
    *"aZ09éñß你好世яж한اשन्😀\u0301\u030a\u200d\ufe0fﬁ½²Ⅷ<>|/#$(){}[]=!-+*'\"\\.,:;",
    *" \n\t\r\u00a0\u2003\u200b\ufeff\x00\x07\x1b\x7f\x85\ufffd\U000f0000\U0010ffff",
    *[
        "  ",
        "   ",
        "\r\n",
        "\n\n\t",
        "👩‍👩‍👧",
        "🏳️‍🌈",
        "'s",
        "'LL",
        "'x",
        "the",
        " The",
        " fox",
        "def ",
        "return",
    ],
    *[
        "3.14",
        "1e-9",
        "==",
        "->",
        "/*",
        "<|",
        "|>",
        "im_start",
        "think>",
        "<thin",
        "tool_call",
    ],
]


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    return CORPUS


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CORPUS, 512)


@pytest.fixture(scope="session")
def saved(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    tokenizer.save(directory)
    return directory


@pytest.fixture(scope="session")
def strings() -> list[str]:
    """5,000 reproducible strings: words, code, scripts, emoji, white space, control characters."""
    generator = random.Random(0)
    return [
        "".join(generator.choices(PIECES, k=generator.randint(0, 12))) for _ in range(5000)
    ]


SCRIPTS = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x530), (0x590, 0x700), (0x900, 0xE00)]
SCRIPTS += [(0x1E00, 0x2100), (0x2190, 0x2C00), (0x3040, 0x3100), (0x4E00, 0x5000)]
SCRIPTS += [(0xAC00, 0xAD00), (0x1F300, 0x1F700), (0x1F900, 0x1FA00), (0x20000, 0x20100)]
CODE = [
    "def f(x):\n",
    "\treturn x**2 # ",
    "if (a[i] != b->c) {",
    "</div>",
    '{"key": [1, 2.5e-3]}',
    ";\r\n",
]
MARKERS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "<tool_call>",
]


@pytest.fixture(scope="session")
def many_strings(strings: list[str]) -> list[str]:
    """12,500 reproducible strings: those above, every script, emoji, code, broken UTF-8, markers.

    Bytes that are no UTF-8 are decoded as everywhere here, to U+FFFD.
    """
    generator = random.Random(1)

    def words() -> str:
        low, high = generator.choice(SCRIPTS)
        return "".join(
            chr(generator.randrange(low, high)) for _ in range(generator.randrange(1, 9))
        )

    def mixture(pieces: list[str]) -> str:
        count = generator.randrange(1, 7)
        return "".join(
            generator.choice(["", " ", "\n"]) + generator.choice(pieces)
            for _ in range(count)
        )

    multilingual = [
        " ".join(words() for _ in range(generator.randrange(1, 6))) for _ in range(4000)
    ]
    broken = [
        generator.randbytes(generator.randrange(1, 24)).decode(errors="replace")
        for _ in range(1000)
    ]
    cut = [text.encode()[1:-1].decode(errors="replace") for text in multilingual[:500]]
    code = [mixture([*CODE, *PIECES]) for _ in range(1000)]
    markers = [
        mixture([*MARKERS, *(m[:-1] for m in MARKERS), "a", "你", "😀"])
        for _ in range(1000)
    ]
    return [*strings, *multilingual, *broken, *cut, *code, *markers]


TEMPLATES = Path(__file__).parents[1] / "data" / "templates"
FAMILIES: dict[str, list[str]] = {
    "qwen2.5-instruct": ["<|endoftext|>", "<|im_end|>"],
    "llama3-form": ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
    "r1-distill": [
        "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>",
        "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>", "<｜tool▁outputs▁begin｜>", "<｜tool▁output▁begin｜>",
        "<｜tool▁output▁end｜>", "<｜tool▁outputs▁end｜>",
    ],
    "mistral-form": ["<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[ARGS]"],
    "pythonic-form": ["<s>", "<|eot|>", "<|python_start|>", "<|python_end|>"],
    "parameters-form": ["<|endoftext|>", "<|im_end|>"],
}  # fmt: skip


@pytest.fixture(scope="session")
def family() -> Callable[[str], Tokenizer]:
    """A small tokenizer with the markers and the chat template of a family."""

    plain = Tokenizer.train(CORPUS, 512).backend_json()

    def build(name: str) -> Tokenizer:
        backend = Backend.from_str(plain)
        backend.add_special_tokens(FAMILIES[name])
        first, end = FAMILIES[name][:2]
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": first,
            "eos_token": end,
            "clean_up_tokenization_spaces": False,
            "chat_template": (TEMPLATES / f"{name}.jinja").read_text("utf-8"),
        }
        return Tokenizer(backend, config, [], name)

    return build
