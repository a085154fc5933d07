"""Checkpoint directories: what transformers writes we load, and the other way round."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from openqwq.model import gguf
from openqwq.model.checkpoint import config_json, load, parse_config, save
from openqwq.model.qwen2 import Qwen2
from openqwq.model.rope import YarnScaling
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import OpenQwQError

WEIGHTS = "model.safetensors"


def same_weights(first: Qwen2, second: Qwen2) -> bool:
    pairs = zip(first.named_parameters(), second.named_parameters(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def change_weights(
    directory: Path, change: Callable[[dict[str, torch.Tensor]], Any]
) -> None:
    tensors = load_file(directory / WEIGHTS)
    change(tensors)
    save_file(tensors, directory / WEIGHTS)


def change_config(directory: Path, **fields: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture
def saved(qwen2: Qwen2, tmp_path: Path) -> Path:
    save(qwen2, tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_model_loads_unchanged(model: Qwen2, tmp_path: Path) -> None:
    save(model, tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.config == model.config and same_weights(loaded, model)
    assert model.config.tie_word_embeddings == (
        loaded.lm_head.weight is loaded.model.embed_tokens.weight
    )


def test_weights_are_as_readable_as_the_files_beside_them(saved: Path) -> None:
    assert len({path.stat().st_mode for path in saved.iterdir()}) == 1


def test_transformers_loads_what_we_save(
    model: Qwen2, tmp_path: Path, logit_gap: Callable[..., float]
) -> None:
    save(model, tmp_path / "model")
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not any(report.values())
    assert theirs.config.bos_token_id is None and theirs.config.eos_token_id is None
    with safe_open(tmp_path / "model" / WEIGHTS, "pt") as file:
        assert file.metadata() == {"format": "pt"}  # older transformers insist on it
    assert logit_gap(model, theirs) <= 1e-4


@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
def test_we_load_what_transformers_saves(
    model: Qwen2, shard_size: str, tmp_path: Path, logit_gap: Callable[..., float]
) -> None:
    settings = transformers.AutoConfig.for_model(
        **config_json(model.config, torch.float32, None)
    )
    theirs = transformers.AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    theirs.load_state_dict(model.state_dict())
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / WEIGHTS).exists() == (shard_size == "1GB")
    loaded = load(tmp_path)
    assert loaded.config == model.config and same_weights(loaded, model)
    assert logit_gap(loaded, theirs) <= 1e-4


def test_weights_are_cast_on_loading_and_keep_their_type_on_saving(
    saved: Path, tmp_path: Path
) -> None:
    half = load(saved, torch.bfloat16)
    save(half, tmp_path / "half")
    assert {t.dtype for t in load_file(tmp_path / "half" / WEIGHTS).values()} == {
        torch.bfloat16
    }
    assert (
        json.loads((tmp_path / "half/config.json").read_text())["torch_dtype"] == "bfloat16"
    )
    assert same_weights(load(tmp_path / "half"), half.float())


def test_a_loaded_model_survives_the_loss_of_its_files(saved: Path, qwen2: Qwen2) -> None:
    loaded = load(saved)
    with (saved / WEIGHTS).open("r+b") as file:
        file.truncate(0)
    assert same_weights(loaded, qwen2)


def test_a_tokenizer_is_saved_beside_the_weights(qwen2: Qwen2, tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["some text to learn from"], 300)
    save(qwen2, tmp_path / "model", tokenizer)
    assert Tokenizer.load(tmp_path / "model").eos_ids == tokenizer.eos_ids
    written = json.loads((tmp_path / "model/config.json").read_text())
    assert (written["eos_token_id"], written["pad_token_id"]) == (
        tokenizer.eos_ids[0],
        tokenizer.pad_id,
    )


def test_saving_never_overwrites(saved: Path, qwen2: Qwen2) -> None:
    with pytest.raises(OpenQwQError, match=f"{saved} exists already"):
        save(qwen2, saved)
    with pytest.raises(OpenQwQError, match="exists already"):
        save(qwen2, saved / "config.json")


def test_saving_makes_parents_fills_an_empty_directory_and_replaces_a_killed_attempt(
    qwen2: Qwen2, tmp_path: Path
) -> None:
    target = tmp_path / "new" / "model"
    target.mkdir(parents=True)
    (tmp_path / "new" / ".model.partial").mkdir()
    (tmp_path / "new" / ".model.partial" / "junk").touch()
    save(qwen2, target)
    assert {p.name for p in target.iterdir()} == {"config.json", WEIGHTS}
    assert list((tmp_path / "new").iterdir()) == [target]


def test_a_full_disk_is_reported_and_leaves_nothing(qwen2: Qwen2, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # the weights need 80,000 bytes
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OpenQwQError, match=r"cannot write .*/model: .*; free space"):
            save(qwen2, tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_an_impossible_place_is_reported(qwen2: Qwen2, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OpenQwQError, match="Not a directory"):
        save(qwen2, tmp_path / "file" / "model")


MEASURE = """
import sys, torch
from openqwq.model import checkpoint, gguf
def memory(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
for path in sys.argv[1:]:
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from the present
    before = memory("VmRSS")
    model = (gguf if path.endswith(".gguf") else checkpoint).load(path)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    print((memory("VmHWM") - before) / weights, weights)
    del model
assert "torch._dynamo" not in sys.modules  # the compiler takes seconds and 70 MB
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures through /proc/self")
def test_loading_needs_at_most_a_tenth_more_memory_than_the_weights(
    make_model: Callable[..., Qwen2], tmp_path: Path
) -> None:
    large = make_model(
        vocab_size=12288,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=4,
        head_dim=128,
    )
    gguf.save(large, tmp_path / "F32.gguf", "F32", {})
    gguf.save(large, tmp_path / "Q8_0.gguf", "Q8_0", {})
    save(large, tmp_path / "float32")
    save(large.bfloat16(), tmp_path / "bfloat16")
    save(make_model(), tmp_path / "warm-up")
    names = ["warm-up", "float32", "bfloat16", "F32.gguf", "Q8_0.gguf"]
    output = subprocess.run(
        [sys.executable, "-c", MEASURE, *(str(tmp_path / name) for name in names)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ
        | {"MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed goes back at once
    ).stdout
    for line in output.splitlines()[1:]:
        ratio, weights = map(float, line.split())
        assert weights > 90e6 and 0.95 < ratio <= 1.1


OLD = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "vocab_size": 10,
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {},
            {
                "num_key_value_heads": 4,
                "head_dim": 16,
                "rope_theta": 1e4,
                "rope_scaling": None,
            },
        ),
        ({"rope_theta": 1e6, "rope_scaling": None}, {"rope_theta": 1e6}),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
            {"rope_theta": 5e5},
        ),
        ({"rope_theta": 1e6, "rope_scaling": YARN}, {"rope_scaling": YarnScaling(4, 32)}),
        ({"rope_scaling": YARN | {"factor": None}}, {"rope_scaling": YarnScaling(4, 32)}),
        (
            {
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 2,
                    "beta_fast": 8,
                    "beta_slow": 2,
                }
            },
            {"rope_scaling": YarnScaling(2, 128, 8, 2)},
        ),
        (
            {
                "rope_parameters": YARN
                | {"rope_theta": 2.0, "attention_factor": 1.138629436111989}
            },
            {"rope_theta": 2.0, "rope_scaling": YarnScaling(4, 32)},
        ),
        ({"use_sliding_window": False, "sliding_window": 9}, {"attention_bias": True}),
        ({"architectures": ["LlamaForCausalLM"]}, {"attention_bias": False}),
    ],
)
def test_config_json_of_every_age_parses(
    fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    parsed = parse_config(OLD | fields)
    assert {name: getattr(parsed, name) for name in expected} == expected


LLAMA = {"architectures": ["LlamaForCausalLM"]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"architectures": ["MistralForCausalLM"]},
            "supported are Qwen2ForCausalLM, Qwen3ForC",
        ),
        ({"architectures": None}, "architectures = None"),
        (
            {"hidden_size": None},
            "x.json has hidden_size = None: it must be a positive integer",
        ),
        ({"vocab_size": "10"}, "vocab_size = '10': it must be a positive integer"),
        ({"num_hidden_layers": True}, "num_hidden_layers = True"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps = 'small': it must be a positive number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps = nan"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings = 1: it must be true or false"),
        ({"num_key_value_heads": 3}, "4 attention heads, 3 key-value heads"),
        ({"head_dim": 5}, "head_dim 5"),
        (
            {"hidden_act": "gelu"},
            "hidden_act = 'gelu': it must be 'silu', all that is supported",
        ),
        ({"use_sliding_window": True}, "use_sliding_window = True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        (LLAMA | {"attention_bias": True}, "attention_bias = True"),
        (LLAMA | {"mlp_bias": True}, "mlp_bias = True"),
        ({"rope_scaling": "yarn"}, "rope scaling 'yarn': it must be an object"),
        (
            {"rope_scaling": {"type": "linear"}},
            "type 'linear': supported are default, yarn, llama3",
        ),
        ({"rope_scaling": YARN | {"mscale": 0.7}}, "mscale = 0.7: it must be None"),
        ({"rope_scaling": YARN | {"truncate": False}}, "truncate = False"),
        ({"rope_scaling": YARN | {"attention_factor": 1.0}}, "attention_factor = 1.0"),
        (
            {"rope_scaling": YARN | {"factor": -1}},
            "factor = -1: it must be a positive number",
        ),
        (
            {"rope_parameters": {"partial_rotary_factor": 0.5}},
            "partial_rotary_factor = 0.5",
        ),
    ],
)
def test_a_config_that_we_cannot_honour_is_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(OpenQwQError) as refusal:
        parse_config(OLD | fields, "x.json")
    assert message in str(refusal.value)


def test_an_untied_looking_head_must_equal_the_tied_embedding(
    make_model: Callable[..., Qwen2], tmp_path: Path
) -> None:
    model = make_model(tie_word_embeddings=True)
    save(model, tmp_path / "model")
    embedding = model.model.embed_tokens.weight.detach()
    change_weights(
        tmp_path / "model", lambda t: t.update({"lm_head.weight": embedding.clone()})
    )
    assert same_weights(load(tmp_path / "model"), model)
    change_weights(tmp_path / "model", lambda t: t["lm_head.weight"].add_(1))
    with pytest.raises(OpenQwQError, match="set tie_word_embeddings to false"):
        load(tmp_path / "model")


def test_rotation_buffers_of_old_llama_files_are_ignored(saved: Path, qwen2: Qwen2) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_weights(saved, lambda tensors: tensors.update({name: torch.ones(4)}))
    assert same_weights(load(saved), qwen2)


def corrupt(directory: Path, offset: int, data: bytes) -> None:
    with (directory / WEIGHTS).open("r+b") as file:
        file.seek(offset)
        file.write(data)


NORM = "model.norm.weight"
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), "cannot read .*config.json"),
    "config cut short": (
        lambda d: (d / "config.json").write_text('{"hidden_size"'),
        "cannot read .*config.json",
    ),
    "config a list": (
        lambda d: (d / "config.json").write_text("[]"),
        "config.json holds no JSON",
    ),
    "other shape": (
        lambda d: change_config(d, intermediate_size=40),
        r"model.safetensors has model.layers.0.mlp.gate_proj.weight as .*\[48, 32\].*\[40, 32\]",
    ),
    "more layers": (
        lambda d: change_config(d, num_hidden_layers=3),
        r"lacks tensor\(s\) model.layers.2.input_layernorm.weight, .*, \.\.\. \(12 in all\)",
    ),
    "fewer layers": (
        lambda d: change_config(d, num_hidden_layers=1),
        r"has the unexpected tensor\(s\) model.layers.1",
    ),
    "no weights": (lambda d: (d / WEIGHTS).unlink(), "model.safetensors is missing"),
    "weights cut short": (
        lambda d: (d / WEIGHTS).write_bytes((d / WEIGHTS).read_bytes()[:-100]),
        "cannot read .*model.safetensors",
    ),
    "empty weights": (
        lambda d: (d / WEIGHTS).write_bytes(b""),
        "cannot read .*model.safetensors",
    ),
    "corrupt header": (
        lambda d: corrupt(d, 8, b"\xff" * 9),
        "cannot read .*model.safetensors",
    ),
    "huge header": (
        lambda d: corrupt(d, 0, b"\xff" * 8),
        "cannot read .*model.safetensors",
    ),
    "tensor missing": (
        lambda d: change_weights(d, lambda tensors: tensors.pop(NORM)),
        r"lacks tensor\(s\) model.norm.weight \(1 in all\)",
    ),
    "integers": (
        lambda d: change_weights(
            d, lambda tensors: tensors.update({NORM: torch.ones(32).int()})
        ),
        "model.norm.weight as torch.int32",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_with_its_file(damage: str, saved: Path) -> None:
    change, message = DAMAGE[damage]
    change(saved)
    with pytest.raises(OpenQwQError, match=message):
        load(saved)


def test_a_missing_shard_or_a_bad_index_is_named(saved: Path) -> None:
    (saved / WEIGHTS).rename(saved / "model-00001-of-00002.safetensors")
    shards = {
        "lm_head.weight": "model-00001-of-00002.safetensors",
        NORM: "second.safetensors",
    }
    index = saved / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(OpenQwQError, match=r"second.safetensors is missing"):
        load(saved)
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": 1}}))
    with pytest.raises(OpenQwQError, match=r"index.json has no weight_map"):
        load(saved)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(OpenQwQError, match=r"nowhere is not a directory"):
        load(tmp_path / "nowhere")
