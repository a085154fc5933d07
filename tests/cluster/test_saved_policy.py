"""What ranks and samplers start from: a checkpoint where it lies, or one that is written first."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import rl_stage, small_config

pytest.importorskip("ray", reason="needs Ray: pip install 'ray>=2.50'")

from openqwq.cluster.saved_policy import Errand, SavedPolicy
from openqwq.config import Config, LoraConfig, RlStage
from openqwq.data.hub import DataLock
from openqwq.engine.packed import PackedModel
from openqwq.model import checkpoint, lora, precision
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.prepare import START, prepare
from openqwq.train.run import Run
from openqwq.train.run_policies import Policies
from openqwq.types import OpenQwQError

TOKENIZER = Tokenizer.train([], 270)
SHAPE = ModelConfig(270, 32, 64, 2, 2, 1, 16, tie_word_embeddings=True)
CONFIG = small_config()
ADAPTED = replace(rl_stage(CONFIG), lora=LoraConfig(2))
WHOLE = rl_stage(CONFIG)


def random_model() -> Qwen2:
    made = Qwen2(SHAPE)
    made.initialise(torch.Generator().manual_seed(3), std=0.2)
    return made


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A checkpoint in bf16, as most are published."""
    directory = tmp_path / "stored"
    checkpoint.save(random_model().bfloat16(), directory, TOKENIZER)
    return directory


def errand(folder: Path, name: str, stage: RlStage, config: Config = CONFIG) -> Errand:
    target = folder / f"{stage.name}.start"
    return Errand(folder, config, Path.cwd(), name, stage, TOKENIZER, "fp32", target)


def as_local(folder: Path, name: str, stage: RlStage) -> Qwen2:
    """The model of a policy as a local stage trains it."""
    run = Run(folder, CONFIG, resume=False)
    policies = Policies(run, prepare(CONFIG, DataLock()), TOKENIZER)
    return policies.trained(stage, name).model


def same(found: Qwen2, expected: Qwen2) -> None:
    wanted = dict(expected.named_parameters())
    for name, value in found.named_parameters():
        assert torch.equal(value.float(), wanted[name]), name


def test_a_checkpoint_is_used_where_it_lies_and_an_adapter_alone_is_written(
    stored: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    found = errand(folder, str(stored), WHOLE).run()
    assert (found.weights, found.adapter) == (stored, None)
    assert list(folder.iterdir()) == []
    model, _ = found.load()
    assert model.lm_head.weight.dtype == torch.bfloat16  # still that of the file
    same(model, as_local(tmp_path / "local", str(stored), WHOLE))

    found = errand(folder, str(stored), ADAPTED).run()
    assert found.weights == stored
    assert [path.name for path in folder.iterdir()] == ["stage1.start.adapter"]
    _, adapter = found.load()
    assert adapter is not None
    local = lora.attached(as_local(tmp_path / "other", str(stored), ADAPTED))
    for name, layer in adapter.layers.items():
        assert torch.equal(layer.a, local[name].a), name


def test_what_is_in_no_directory_is_written_as_a_local_stage_begins(
    stored: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    fresh = errand(folder, START, WHOLE).run()
    assert fresh.weights == folder / "stage1.start"
    same(fresh.load()[0], as_local(tmp_path / "local", START, WHOLE))

    model = checkpoint.load(stored)
    adapter = lora.fresh(
        model, lora.AdapterShape(2), torch.Generator().manual_seed(0), str(stored)
    )
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, 0, 0.1, torch.Generator().manual_seed(1))
    lora.save(adapter, tmp_path / "adapter")
    merged = errand(folder, str(tmp_path / "adapter"), replace(WHOLE, name="next")).run()
    assert (merged.weights, merged.adapter) == (folder / "next.start", None)
    same(merged.load()[0], as_local(tmp_path / "other", str(tmp_path / "adapter"), WHOLE))


@pytest.mark.parametrize("with_adapter", [False, True])
def test_a_sampler_draws_from_a_mapped_checkpoint_as_from_a_loaded_one(
    stored: Path, tmp_path: Path, with_adapter: bool
) -> None:
    local = checkpoint.load(stored)
    adapter: Path | None = None
    if with_adapter:
        made = lora.fresh(local, lora.AdapterShape(2), torch.Generator().manual_seed(0))
        adapter = tmp_path / "adapter"
        lora.save(made, adapter)
        lora.attach(local, made)
    precision.prepare(local, "fp32", trained=not with_adapter)
    mapped = SavedPolicy(stored, adapter, TOKENIZER, "fp32").load_to_sample()
    expected = PackedModel(local, packs=True)
    found = PackedModel(mapped, packs=True)
    hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    assert found.products == expected.products == torch.float32
    assert torch.equal(found.logits(hidden), expected.logits(hidden))
    assert torch.equal(found.embedding, expected.embedding)
    for ours, theirs in zip(found.layers, expected.layers, strict=True):
        assert torch.equal(ours.up.product(hidden), theirs.up.product(hidden))
        assert torch.equal(ours.input_norm, theirs.input_norm)


def test_a_node_that_does_not_see_a_checkpoint_says_where_to_put_it(tmp_path: Path) -> None:
    policy = SavedPolicy(tmp_path / "elsewhere", None, TOKENIZER, "fp32")
    with pytest.raises(OpenQwQError, match=r"does not see .*elsewhere: put the run"):
        policy.load()
