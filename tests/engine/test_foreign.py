"""Files in several parts, and files whose tokenizer llama.cpp knows and ours does not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader, GGUFWriter

from openqwq.engine import llamacpp
from openqwq.engine.llamacpp import LlamaOptions
from openqwq.engine.open import locate, open_model
from openqwq.model import gguf
from openqwq.model.fit import read_subject
from openqwq.model.gguf_header import read_header
from openqwq.model.qwen2 import Qwen2
from openqwq.text.gguf import BYTE, CONTROL, NORMAL, UNUSED, to_metadata
from openqwq.text.grammar import json_grammar
from openqwq.text.stream import parse_reply
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Message, OpenQwQError, SamplingParams

needs_llamacpp = pytest.mark.skipif(
    not llamacpp.installed(), reason="needs the wheel xllamacpp"
)
Build = Callable[..., Qwen2]


@pytest.fixture(scope="module")
def whole(
    build: Build, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("whole") / "tiny.gguf"
    gguf.save(build(), path, "F32", to_metadata(tokenizer, 300))
    return path


@pytest.fixture(scope="module")
def parts(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same model in three files, as llama.cpp's gguf-split writes them."""
    folder = tmp_path_factory.mktemp("parts")
    metadata = read_header(whole).metadata
    tensors = list(GGUFReader(whole).tensors)
    paths = []
    for number in range(3):
        path = folder / f"tiny-{number + 1:05}-of-00003.gguf"
        writer = GGUFWriter(path, metadata["general.architecture"])
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 3)
        writer.add_int32("split.tensors.count", len(tensors))
        if number == 0:
            gguf.add_metadata(writer, metadata)
        for tensor in tensors[number::3]:
            writer.add_tensor(tensor.name, tensor.data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        paths.append(path)
    return paths


def test_a_split_file_is_the_whole_model(whole: Path, parts: list[Path]) -> None:
    expected = dict(gguf.load(whole).named_parameters())
    for path in parts:  # each of them stands for all
        loaded = dict(gguf.load(path).named_parameters())
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert read_subject(parts[1]) == read_subject(whole)
    assert locate(str(parts[0].parent)) == parts[0]


def test_a_missing_part_is_named(parts: list[Path], tmp_path: Path) -> None:
    for path in parts[:2]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(OpenQwQError, match=r"tiny-00003-of-00003\.gguf"):
        read_header(tmp_path / parts[0].name)
    (tmp_path / parts[2].name).write_bytes(parts[1].read_bytes())
    with pytest.raises(OpenQwQError, match="is not file 2 of 3"):
        read_header(tmp_path / parts[0].name)
    renamed = tmp_path / "other.gguf"
    renamed.write_bytes(parts[0].read_bytes())
    with pytest.raises(OpenQwQError, match="does not end in -00001-of-00003"):
        read_header(renamed)


@needs_llamacpp
async def test_both_engines_run_a_split_file(whole: Path, parts: list[Path]) -> None:
    params = SamplingParams(0, max_tokens=8)
    replies = []
    for path in (whole, parts[2]):
        for engine in ("torch", "llamacpp"):
            model = open_model(str(path), engine, slots=1, context_length=64)
            (reply,) = await model.generate.generate([70, 71, 72], params)
            replies.append(reply.token_ids)
            model.close()
            assert model.name == "tiny"
    assert replies[0] == replies[2] and replies[1] == replies[3]


@needs_llamacpp
async def test_a_tokenizer_that_only_llamacpp_knows_is_its_own(
    build: Build, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "foreign.gguf"
    metadata = {**to_metadata(tokenizer, 300), "tokenizer.ggml.pre": "tekken"}
    gguf.save(build(), path, "F32", metadata)
    model = open_model(str(path), slots=1, context_length=256)
    own = model.tokenizer
    assert model.engine == "llamacpp" and "tekken" in model.why
    for text in ("the quick 12 fox\n", "é 😀", "a<think>b</think><|im_end|>", ""):
        ids = own.encode(text)
        assert own.decode(ids) == text and not own.added_ids.intersection(ids)
    chat = [{"role": "user", "content": "the fox</think>"}]
    marked = own.encode("<|im_start|>", allow_special=True)
    ids = encode_chat(own, chat)  # type: ignore[arg-type]
    assert ids[:1] == marked == encode_chat(tokenizer, chat)[:1]  # type: ignore[arg-type]
    assert ids.count(own.think_open_id) == 1 and own.think_close_id not in ids
    params = SamplingParams(
        1.0, max_tokens=60, thinking_budget=10, stop_token_ids=own.eos_ids
    )
    (reply,) = await model.generate.generate(ids, params)
    assert reply.reasoning_tokens <= 11 and reply.prompt_tokens == len(ids)
    assert parse_reply(own, reply.token_ids).reasoning_tokens == reply.reasoning_tokens
    model.close()
    with pytest.raises(OpenQwQError, match="any other needs the engine llamacpp"):
        open_model(str(path), "torch")


@needs_llamacpp
async def test_llamacpps_options_reach_it(whole: Path) -> None:
    params = SamplingParams(0, max_tokens=12, log_probs=False)
    options = LlamaOptions(threads=1, flash_attention="off", gpu_layers=0)
    for llama in (
        options,
        replace(options, cache_type="bf16"),
        replace(options, ngrams=True),
    ):
        model = open_model(str(whole), "llamacpp", 1, 64, llama=llama)
        (reply,) = await model.generate.generate([70, 71, 72] * 4, params)
        assert len(reply.token_ids) == 12
        model.close()
    with pytest.raises(OpenQwQError, match="for the engine llamacpp"):
        open_model(str(whole), "torch", llama=options)


PIECES = ["▁", "▁the", "▁fox", "t", "h", "e", "f", "o", "x", "he", "ox", "\n"]
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m.role + '\n' }}"
    "{{ m.content }}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def sentence_pieces(size: int, adds_a_space: bool) -> dict[str, object]:
    """A tokenizer of SentencePiece's kind, as Llama 2 and Gemma have it."""
    tokens = ["<unk>", "<s>", "</s>", "<start_of_turn>", "<end_of_turn>"]
    types = [2, *[CONTROL] * (len(tokens) - 1)]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    types += [BYTE] * 256
    tokens += PIECES
    types += [NORMAL] * len(PIECES)
    tokens += [f"[PAD{number}]" for number in range(size - len(tokens))]
    types += [UNUSED] * (size - len(types))
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": [-float(place) for place in range(size)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": adds_a_space,
        "tokenizer.chat_template": GEMMA,
    }


@needs_llamacpp
@pytest.mark.parametrize("adds_a_space", [False, True])
async def test_a_tokenizer_that_begins_texts_with_a_space_does_so_once(
    build: Build, tmp_path: Path, adds_a_space: bool
) -> None:
    path = tmp_path / "pieces.gguf"
    gguf.save(build(), path, "F32", sentence_pieces(300, adds_a_space))
    model = open_model(str(path), slots=1, context_length=128)
    own = model.tokenizer
    space = " " * adds_a_space
    assert own.adds_a_space == adds_a_space
    for text in ("the fox", "é\n\nfox", " the", "a<end_of_turn>b<s>"):
        assert own.decode(own.encode(text)) == space + text
        assert own.decode(own.encode(text, goes_on=True)) == text
        assert not own.added_ids.intersection(own.encode(text))
    marked = own.encode("<s>the<end_of_turn>fox", allow_special=True)
    assert own.decode(marked) == f"<s>{space}the<end_of_turn>{space}fox"

    chat: list[Message] = [{"role": "user", "content": "the<end_of_turn>fox"}]
    prompt = encode_chat(own, chat)
    start = own.added_tokens["<start_of_turn>"]
    assert prompt[:2] == [1, start] and prompt.count(start) == 2
    params = SamplingParams(
        0, max_tokens=24, grammar=json_grammar({"enum": ["the", "fox"]})
    )
    if adds_a_space:
        with pytest.raises(
            OpenQwQError, match="cannot follow a grammar with the tokenizer"
        ):
            await model.generate.generate(prompt, params)
    else:
        (reply,) = await model.generate.generate(prompt, params)
        assert own.decode(reply.token_ids, skip_special=True).strip() in ('"the"', '"fox"')
    model.close()


@needs_llamacpp
async def test_a_grammar_is_read_in_the_tokens_of_the_model_that_is_asked(
    build: Build, tmp_path: Path
) -> None:
    """llama.cpp knows a vocabulary by its address, which a freed model leaves to the next."""
    paths = []
    for number in range(2):
        pieces = sentence_pieces(300, adds_a_space=False)
        if number == 1:
            names = pieces["tokenizer.ggml.tokens"]
            kinds = pieces["tokenizer.ggml.token_type"]
            assert isinstance(names, list) and isinstance(kinds, list)
            names[5:] = reversed(names[5:])
            kinds[5:] = reversed(kinds[5:])
        paths.append(tmp_path / f"{number}.gguf")
        gguf.save(build(), paths[-1], "F32", pieces)
    params = SamplingParams(
        0, max_tokens=24, grammar=json_grammar({"enum": ["the", "fox"]})
    )
    for path in paths * 8:
        model = open_model(str(path), slots=1, context_length=64)
        (reply,) = await model.generate.generate([70, 71, 72], params)
        text = model.tokenizer.decode(reply.token_ids, skip_special=True)
        model.close()
        assert text.strip() in ('"the"', '"fox"')
