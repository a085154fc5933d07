"""Tokenizers in GGUF files: transformers' ids and llama.cpp's, chats included, both ways."""

import json
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tokenizers.pre_tokenizers import Digits, Sequence
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from openqwq.model import gguf as gguf_weights
from openqwq.model.gguf_header import read_header
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.text.gguf import from_metadata, to_metadata
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import OpenQwQError

ROWS = 520  # eight more than the tokenizer's 512 ids, as real checkpoints have
CALL = {"name": "add", "arguments": {"x": 1, "note": 'é "<'}}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "sums <b>é</b>"}}]
HI = {"role": "user", "content": "Hi 😀"}
CHATS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "one turn": ([HI], []),
    "system": ([{"role": "system", "content": "Be kind."}, HI], []),
    "tools": ([HI], TOOLS),
    "parallel calls": (
        [HI, {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}],
        TOOLS,
    ),
    "tool results": (
        [
            HI,
            {"role": "assistant", "content": "ok", "tool_calls": [CALL, CALL]},
            {"role": "tool", "content": "3"},
            {"role": "tool", "content": '{"a": [1]}'},
        ],
        TOOLS,
    ),
    "history loses its thinking": (
        [HI, {"role": "assistant", "content": "hm\n</think>\n\nHello"}, HI],
        [],
    ),
}


@pytest.fixture(scope="module")
def file(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 with the tokenizer and template in its metadata."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    model = Qwen2(ModelConfig(ROWS, 32, 48, 1, 4, 2, 8))
    gguf_weights.save(model, path, "F32", to_metadata(tokenizer, ROWS))
    return path


@pytest.fixture(scope="module")
def ours(file: Path) -> Tokenizer:
    return from_metadata(read_header(file).metadata, str(file))


@pytest.fixture(scope="module")
def theirs(file: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def test_ids_equal_transformers_of_the_file_and_of_the_directory(
    ours: Tokenizer, theirs: PreTrainedTokenizerBase, saved: Path, many_strings: list[str]
) -> None:
    assert len(many_strings) >= 10_000
    directory = AutoTokenizer.from_pretrained(saved)
    expected = directory(many_strings, add_special_tokens=False)["input_ids"]
    # transformers forgets Qwen2's normaliser where the tokenizer comes from a GGUF file.
    normalised = [unicodedata.normalize("NFC", text) for text in many_strings]
    from_file = theirs(normalised, add_special_tokens=False)["input_ids"]
    for text, one, other in zip(many_strings, expected, from_file, strict=True):
        assert ours.encode(text, allow_special=True) == one == other, repr(text)
        assert not set(ours.encode(text)) & set(ours.added_tokens.values()), repr(text)


@pytest.fixture(scope="module")
def their_smollm2(smollm2: Path) -> PreTrainedTokenizerBase:
    """transformers', with what it forgets where the tokenizer comes from a GGUF file."""
    theirs = AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    steps = [Digits(individual_digits=True), theirs.backend_tokenizer.pre_tokenizer]
    theirs.backend_tokenizer.pre_tokenizer = Sequence(steps)
    return theirs


def test_a_real_files_ids_equal_transformers(
    smollm2: Path, their_smollm2: PreTrainedTokenizerBase, many_strings: list[str]
) -> None:
    ours, theirs = from_metadata(read_header(smollm2).metadata, str(smollm2)), their_smollm2
    marked = theirs(many_strings, add_special_tokens=False)["input_ids"]
    plain = theirs(many_strings, add_special_tokens=False, split_special_tokens=True)[
        "input_ids"
    ]
    for text, with_markers, without in zip(many_strings, marked, plain, strict=True):
        assert ours.encode(text, allow_special=True) == with_markers, repr(text)
        assert ours.encode(text) == without, repr(text)


@pytest.mark.parametrize("which", ["file", "smollm2"])
def test_ids_equal_llama_cpps(
    which: str, many_strings: list[str], request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(which)
    ours = from_metadata(read_header(path).metadata, str(path))
    compared = 0
    with llama_cpp(path) as tokenize:
        for text in many_strings[::12]:
            # It does not normalise, and does not merge across a byte that SmolLM2 lacks.
            normal = unicodedata.normalize("NFC", text) if which == "file" else text
            ids = ours.encode(text, allow_special=True)
            if ours.decode(ids) == normal:
                compared += 1
                assert ids == tokenize(normal), repr(text)
    assert compared > 900


@contextmanager
def llama_cpp(path: Path) -> Iterator[Callable[[str], list[int]]]:
    """llama.cpp's own tokenizer, through the server that the wheel runs on the loopback."""
    xllamacpp = pytest.importorskip(
        "xllamacpp", reason="needs llama.cpp: pip install xllamacpp"
    )
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.verbosity = str(path), 256, -1
    params.warmup, params.cpuparams.n_threads = False, 1
    server = xllamacpp.Server(params)
    with httpx.Client(base_url=server.listening_address) as client:

        def tokenize(text: str) -> list[int]:
            body = {"content": text, "add_special": False, "parse_special": True}
            return client.post("/tokenize", json=body).json()["tokens"]

        yield tokenize


@pytest.mark.parametrize("name", CHATS)
def test_chats_equal_transformers(
    ours: Tokenizer, theirs: PreTrainedTokenizerBase, name: str
) -> None:
    messages, tools = CHATS[name]
    expected = theirs.apply_chat_template(
        messages, tools=tools or None, add_generation_prompt=True, tokenize=True
    )["input_ids"]
    assert encode_chat(ours, messages, tools) == expected  # type: ignore[arg-type]


def test_a_real_files_template_equals_transformers(
    smollm2: Path, their_smollm2: PreTrainedTokenizerBase
) -> None:
    ours = from_metadata(read_header(smollm2).metadata, str(smollm2))
    for name in ("one turn", "system"):
        messages, _ = CHATS[name]
        expected = their_smollm2.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True
        )
        assert encode_chat(ours, messages) == expected["input_ids"]  # type: ignore[arg-type]


def test_metadata_come_back_as_they_were(
    smollm2: Path, ours: Tokenizer, file: Path
) -> None:
    for path in (smollm2, file):
        metadata = read_header(path).metadata
        tokenizer = from_metadata(metadata, str(path))
        written = to_metadata(tokenizer, len(metadata["tokenizer.ggml.tokens"]))
        assert written.items() <= metadata.items()
        assert from_metadata(written, "again").backend_json() == tokenizer.backend_json()


def test_ends_and_padding_come_from_the_metadata(
    ours: Tokenizer, tokenizer: Tokenizer
) -> None:
    assert ours.eos_ids == tokenizer.eos_ids and ours.pad_id == tokenizer.pad_id
    assert ours.special_ids == tokenizer.special_ids and ours.vocab_size == 512
    assert ours.chat_template == tokenizer.chat_template
    assert ours.token_bytes(515) == b""  # a row of the embedding without a token


def test_llama_3s_kind_is_read_and_written(tokenizer: Tokenizer) -> None:
    metadata = to_metadata(tokenizer, ROWS) | {"tokenizer.ggml.pre": "llama-bpe"}
    ours = from_metadata(metadata, "llama")
    assert to_metadata(ours, ROWS)["tokenizer.ggml.pre"] == "llama-bpe"
    # no NFC, three digits
    assert ours.encode("e\u0301 1234") != tokenizer.encode("e\u0301 1234")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "llama"},
            "x has a tokenizer of model 'llama' and pre 'qwen2': ours reads",
        ),
        ({"pre": "tekken"}, "pre 'tekken': ours reads gpt2 with qwen2"),
        ({"tokens": None}, "x has no tokenizer.ggml.tokens: convert it with its tokenizer"),
        ({"merges": [1]}, "x has no tokenizer.ggml.merges"),
        ({"merges": ["zz qq"]}, "x has unusable merges"),
        ({"token_type": [1]}, "x has 520 tokens but 1 token types"),
        (
            {"eos_token_id": 99999, "token_type": [1] * ROWS},
            "x has no added tokens to end replies",
        ),
    ],
)
def test_metadata_that_we_cannot_honour_are_refused(
    changes: dict[str, Any], message: str, tokenizer: Tokenizer
) -> None:
    changed = {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    with pytest.raises(OpenQwQError) as refusal:
        from_metadata(to_metadata(tokenizer, ROWS) | changed, "x")
    assert message in str(refusal.value)


def test_a_tokenizer_that_llama_cpp_cannot_name_is_refused(
    tokenizer: Tokenizer, saved: Path, tmp_path: Path
) -> None:
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    backend = json.loads((tmp_path / "tokenizer.json").read_text())
    backend["pre_tokenizer"] = {"type": "Whitespace"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(backend))
    with pytest.raises(OpenQwQError, match=r"splits text as .*Whitespace.*llama.cpp"):
        to_metadata(Tokenizer.load(tmp_path), ROWS)
    with pytest.raises(
        OpenQwQError, match="ids up to 511 but the model's vocab_size is 500"
    ):
        to_metadata(tokenizer, 500)
