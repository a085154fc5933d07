"""A tokenizer and a scripted model for the whole room."""

from collections.abc import Callable

import pytest
from scripted import Scripted

from openqwq.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(
        ["the user said: call a tool, then answer the user\n\n"] * 4, 300
    )


@pytest.fixture
def scripted(tokenizer: Tokenizer) -> Callable[..., Scripted]:
    """`scripted("reply", "another")`, each what follows the prompt's `<think>`."""
    return lambda *texts: Scripted(tokenizer, texts)
