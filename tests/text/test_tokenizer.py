"""The tokenizer: Qwen2's manner, transformers' ids, and text that stays text."""

import json
import random
import unicodedata
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from openqwq.text.tokenizer import Tokenizer
from openqwq.types import OpenQwQError

QWQ_ORDER = {
    "<|endoftext|>": True,
    "<|im_start|>": True,
    "<|im_end|>": True,
    "<tool_call>": False,
    "</tool_call>": False,
    "<tool_response>": False,
    "</tool_response>": False,
    "<think>": False,
    "</think>": False,
}


def test_ids_equal_transformers_on_thousands_of_strings(
    tokenizer: Tokenizer, saved: Path, strings: list[str]
) -> None:
    theirs = AutoTokenizer.from_pretrained(saved)
    batch = theirs(strings, add_special_tokens=False)["input_ids"]
    for text, ids in zip(strings, batch, strict=True):
        assert tokenizer.encode(text, allow_special=True) == ids, repr(text)
        assert tokenizer.decode(ids) == theirs.decode(ids), repr(text)


def test_ids_with_markers_equal_transformers(tokenizer: Tokenizer, saved: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(saved)
    text = "<|im_start|>user\ne\u0301 <think>\n\n</think><tool_call>{}\n</tool_call> <|im_end|>\n"
    ids = tokenizer.encode(text, allow_special=True)
    assert ids == theirs(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special=True) == theirs.decode(
        ids, skip_special_tokens=True
    )


def test_transformers_sees_the_same_added_tokens_and_ends(
    tokenizer: Tokenizer, saved: Path
) -> None:
    theirs = AutoTokenizer.from_pretrained(saved)
    flags = {i: (t.content, t.special) for i, t in theirs.added_tokens_decoder.items()}
    first = tokenizer.vocab_size - len(QWQ_ORDER)
    assert flags == dict(enumerate(QWQ_ORDER.items(), start=first))
    assert (theirs.eos_token, theirs.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert theirs.bos_token is None and theirs.unk_token is None
    assert len(theirs) == tokenizer.vocab_size
    assert type(theirs).__name__ == "Qwen2Tokenizer"
    assert not any(token.normalized for token in theirs.added_tokens_decoder.values())
    config = json.loads((saved / "tokenizer_config.json").read_text())
    assert config["clean_up_tokenization_spaces"] is False  # older releases default to True


def test_added_tokens_come_last_in_qwqs_order_with_its_flags(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 512
    assert list(tokenizer.added_tokens) == list(QWQ_ORDER)
    assert list(tokenizer.added_tokens.values()) == list(range(503, 512))
    special = {
        text for text, i in tokenizer.added_tokens.items() if i in tokenizer.special_ids
    }
    assert special == {text for text, flag in QWQ_ORDER.items() if flag}
    assert tokenizer.eos_ids == (505, 503) and tokenizer.pad_id == 503
    assert (tokenizer.think_open_id, tokenizer.think_close_id) == (510, 511)
    assert (tokenizer.tool_call_open_id, tokenizer.tool_call_close_id) == (506, 507)


def test_training_is_deterministic(corpus: list[str]) -> None:
    first, second = (Tokenizer.train(corpus, 400) for _ in range(2))
    assert first._backend.to_str() == second._backend.to_str()


def test_the_smallest_vocabulary_is_bytes_and_added_tokens(corpus: list[str]) -> None:
    smallest = Tokenizer.train(corpus, 265)
    assert smallest.vocab_size == 265
    assert smallest.decode(smallest.encode("naïve 😀")) == "naïve 😀"
    with pytest.raises(OpenQwQError, match="vocab_size is 264: make it at least 265"):
        Tokenizer.train(corpus, 264)


def test_a_pair_seen_once_is_not_learned() -> None:
    assert Tokenizer.train(["abcdef"], 300).vocab_size == 265


def test_digits_stand_alone_and_words_take_the_space_before_them() -> None:
    trained = Tokenizer.train(["12 345 345 345 the the the"] * 9, 300)
    vocabulary = trained._backend.get_vocab()
    assert not [token for token in vocabulary if sum(c.isdigit() for c in token) > 1]
    assert "Ġthe" in vocabulary


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_comes_back_normalised(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


@given(st.lists(st.sampled_from([*QWQ_ORDER, "x", " ", "<", "|>", "\n"])).map("".join))
def test_text_like_a_marker_stays_text_unless_allowed(
    tokenizer: Tokenizer, text: str
) -> None:
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.added_tokens.values())
    assert tokenizer.decode(ids, skip_special=True) == text


def test_allowed_markers_become_single_ids(tokenizer: Tokenizer) -> None:
    for text, token_id in tokenizer.added_tokens.items():
        assert tokenizer.encode(text, allow_special=True) == [token_id]
        assert len(tokenizer.encode(text)) > 1


def test_skipping_special_tokens_keeps_think_and_tool_markers(tokenizer: Tokenizer) -> None:
    text = "".join(QWQ_ORDER)
    ids = tokenizer.encode(text, allow_special=True)
    kept = "".join(text for text, special in QWQ_ORDER.items() if not special)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special=True) == kept


def test_decoding_any_ids_equals_the_library(tokenizer: Tokenizer) -> None:
    generator = random.Random(1)
    for _ in range(2000):
        # with padding
        ids = [generator.randrange(540) for _ in range(generator.randint(1, 12))]
        assert tokenizer.decode(ids) == tokenizer._backend.decode(
            ids, skip_special_tokens=False
        )


def test_load_gives_back_what_was_saved(tokenizer: Tokenizer, saved: Path) -> None:
    again = Tokenizer.load(saved)
    assert again._backend.to_str() == tokenizer._backend.to_str()
    assert again.eos_ids == tokenizer.eos_ids and again.pad_id == tokenizer.pad_id
    assert again.chat_template == tokenizer.chat_template


def test_save_makes_its_directory(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "run" / "checkpoint")
    assert Tokenizer.load(str(tmp_path / "run" / "checkpoint")).vocab_size == 512


def test_save_keeps_the_rest_of_a_generation_config(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "generation_config.json").write_text(
        '{"temperature": 0.6, "eos_token_id": 1}'
    )
    tokenizer.save(tmp_path)
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation == {
        "temperature": 0.6,
        "eos_token_id": [505, 503],
        "pad_token_id": 503,
    }


def _checkpoint(saved: Path, target: Path, **changes: str | None) -> Path:
    """A copy of the saved directory with files replaced or, where None, left out."""
    for path in saved.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    for name, text in changes.items():
        path = target / name.replace("__", ".")
        path.unlink(missing_ok=True) if text is None else path.write_text(text, "utf-8")
    return target


def test_end_ids_come_from_the_configs_with_the_tokenizers_own_first(
    saved: Path, tmp_path: Path
) -> None:
    folder = _checkpoint(saved, tmp_path, config__json='{"eos_token_id": 507}')
    assert Tokenizer.load(folder).eos_ids == (505, 503)  # generation_config.json wins
    (folder / "generation_config.json").write_text("{}")
    assert Tokenizer.load(folder).eos_ids == (505, 507)
    (folder / "generation_config.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"eos_token": {"content": "<think>"}}')
    loaded = Tokenizer.load(folder)
    assert loaded.eos_ids == (510, 507) and loaded.pad_id == 510


def test_a_template_file_takes_precedence(saved: Path, tmp_path: Path) -> None:
    folder = _checkpoint(saved, tmp_path, chat_template__jinja="own")
    assert Tokenizer.load(folder).chat_template == "own"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("tokenizer.json", None, "tokenizer.json.*No such file.*copy it"),
        ("tokenizer.json", "{}", "tokenizer.json.*copy it"),
        ("tokenizer.json", '{"model": {"type"', "tokenizer.json.*copy it"),
        ("tokenizer_config.json", None, "tokenizer_config.json.*copy it"),
        ("tokenizer_config.json", "[1]", "tokenizer_config.json.*copy it"),
        ("generation_config.json", "not JSON", "generation_config.json.*copy it"),
        (
            "generation_config.json",
            '{"eos_token_id": 512}',
            "no added tokens to end.*512",
        ),
    ],
)
def test_a_bad_file_is_named(
    saved: Path, tmp_path: Path, file: str, text: str | None, message: str
) -> None:
    folder = _checkpoint(saved, tmp_path, **{file.replace(".", "__"): text})
    with pytest.raises(OpenQwQError, match=message):
        Tokenizer.load(folder)


def test_a_tokenizer_without_an_end_is_refused(saved: Path, tmp_path: Path) -> None:
    changes = {"tokenizer_config__json": "{}", "generation_config__json": None}
    with pytest.raises(OpenQwQError, match="set eos_token"):
        Tokenizer.load(_checkpoint(saved, tmp_path, **changes))


def test_saving_where_a_file_stands_is_a_users_error(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OpenQwQError, match=r"cannot save to .*taken"):
        tokenizer.save(tmp_path / "taken")


def test_a_model_with_too_few_rows_is_refused(tokenizer: Tokenizer) -> None:
    tokenizer.require_fits(512)
    with pytest.raises(
        OpenQwQError, match="ids up to 511 but the model's vocab_size is 511"
    ):
        tokenizer.require_fits(511)


def test_a_lone_surrogate_is_a_users_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(OpenQwQError, match="lone surrogate at 2"):
        tokenizer.encode("ab\ud83d")


def _gpt2_style(corpus: list[str], **flags: bool) -> tokenizers.Tokenizer:
    """SmolLM2's kind: markers are the first entries of the model's own vocabulary."""
    backend = tokenizers.Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, to_bytes])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", AddedToken("<|im_end|>", special=True, **flags)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus, trainer)
    return backend


def test_markers_inside_the_models_vocabulary_stay_text_too(
    corpus: list[str], strings: list[str]
) -> None:
    backend = _gpt2_style(corpus)
    ours = Tokenizer(backend, {"eos_token": "<|im_end|>"}, [], "smol")
    assert ours.eos_ids == (1,) and ours.pad_id == 1 and ours.think_close_id is None
    assert not {0, 1} & set(ours.encode("<|im_end|><|endoftext|>"))
    for text in strings[:1000]:
        assert ours.encode(text) == backend.encode(text, add_special_tokens=False).ids


def test_settings_for_batches_do_not_touch_the_ids(corpus: list[str]) -> None:
    backend = _gpt2_style(corpus)
    plain = backend.encode("the fox said hello").ids
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    backend.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    ours = Tokenizer(backend, {"eos_token": "<|im_end|>"}, [], "smol")
    assert ours.encode("the fox said hello", allow_special=True) == plain
    assert ours.encode("the fox said hello") == plain


def test_an_added_token_outside_the_byte_alphabet_decodes_to_itself(
    corpus: list[str],
) -> None:
    backend = _gpt2_style(corpus)
    backend.add_special_tokens(["<｜end of▁turn｜>"])
    ours = Tokenizer(backend, {"eos_token": "<｜end of▁turn｜>"}, [], "deep")
    assert ours.decode(ours.eos_ids) == "<｜end of▁turn｜>"


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_a_tokenizer_whose_markers_swallow_text_is_refused(
    corpus: list[str], flag: str
) -> None:
    with pytest.raises(OpenQwQError, match=r"stand apart from text \['<\|im_end\|>'\]"):
        Tokenizer(
            _gpt2_style(corpus, **{flag: True}), {"eos_token": "<|im_end|>"}, [], "odd"
        )


def test_a_tokenizer_that_is_not_byte_level_is_refused(corpus: list[str]) -> None:
    backend = _gpt2_style(corpus)
    backend.decoder = decoders.Metaspace()
    with pytest.raises(OpenQwQError, match="not a byte-level BPE"):
        Tokenizer(backend, {"eos_token": "<|im_end|>"}, [], "odd")


def test_a_model_that_spells_markers_as_words_is_refused() -> None:
    vocabulary = {"<|im_end|>": 0, "a": 1}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_end|>"])
    with pytest.raises(OpenQwQError, match="stand apart"):
        Tokenizer(backend, {"eos_token": "<|im_end|>"}, [], "odd")
