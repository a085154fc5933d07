"""One trained tokenizer for the whole room, and strings of every kind to try it on."""

import random
from pathlib import Path

import pytest

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
    *["3.14", "1e-9", "==", "->", "/*", "<|", "|>", "im_start", "think>", "<thin", "tool_call"],
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
    return ["".join(generator.choices(PIECES, k=generator.randint(0, 12))) for _ in range(5000)]
