"""Adapters: PEFT's values, files and refusals; the base stays as it is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from openqwq.model import checkpoint, lora
from openqwq.model.attention import RaggedAttention, positions
from openqwq.model.lora import Adapter, AdapterShape
from openqwq.model.qwen2 import Qwen2
from openqwq.types import OpenQwQError

IDS = torch.arange(20) % 7
PEFTS_OWN = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
NEEDS_PEFT = "needs PEFT: pip install peft"


def filled(model: Qwen2, shape: AdapterShape | None = None, seed: int = 0) -> Adapter:
    """An adapter whose B is not zero, so that it changes what the model says."""
    generator = torch.Generator().manual_seed(seed)
    adapter = lora.fresh(
        model, shape or AdapterShape(3, 5.0), generator, "org/small", "main"
    )
    with torch.no_grad():
        for layer in adapter.layers.values():
            layer.b.normal_(0, 0.1, generator=generator)
    return adapter


def logits(model: Qwen2) -> Tensor:
    return model.logits(model(IDS, positions([20]), RaggedAttention([20])))


def test_a_fresh_adapter_adds_nothing_and_a_filled_one_does(qwen2: Qwen2) -> None:
    before = logits(qwen2).detach()
    lora.attach(qwen2, lora.fresh(qwen2, AdapterShape(4), torch.Generator().manual_seed(0)))
    assert torch.equal(logits(qwen2), before)
    adapter = filled(qwen2)
    lora.attach(qwen2, adapter)
    assert (logits(qwen2) - before).abs().max() > 0.01
    with adapter.off():
        assert torch.equal(logits(qwen2), before)
    lora.detach(qwen2)
    assert torch.equal(logits(qwen2), before)


def test_only_the_adapter_gets_gradients(qwen2: Qwen2) -> None:
    adapter = filled(qwen2)
    lora.attach(qwen2, adapter)
    logits(qwen2).square().mean().backward()
    assert all(p.grad is None for p in qwen2.parameters())
    assert all(p.grad is not None and p.grad.any() for p in adapter.parameters())
    assert [name for name, _ in qwen2.named_parameters() if "lora" in name] == []


def test_merged_weights_say_what_base_and_adapter_say(qwen2: Qwen2) -> None:
    adapter = filled(qwen2)
    lora.attach(qwen2, adapter)
    apart = logits(qwen2).detach()
    lora.detach(qwen2)
    lora.merge(qwen2, adapter)
    torch.testing.assert_close(logits(qwen2), apart, rtol=0, atol=1e-5)


@pytest.mark.parametrize("targets", [lora.TARGETS, ("q_proj", "down_proj")])
def test_a_saved_adapter_is_read_back_bit_for_bit(
    targets: tuple[str, ...], qwen2: Qwen2, tmp_path: Path
) -> None:
    adapter = filled(qwen2, AdapterShape(3, 5.0, targets))
    lora.save(adapter, tmp_path / "adapter")
    found = lora.load(tmp_path / "adapter", qwen2)
    assert found.base == adapter.base and found.base.sha256
    assert found.shape.scale == adapter.shape.scale
    assert set(found.shape.targets) == set(targets)
    saved = dict(adapter.named_parameters())
    for name, parameter in found.named_parameters():
        assert torch.equal(parameter, saved[name])


@pytest.mark.filterwarnings(PEFTS_OWN)
def test_values_gradients_and_files_are_pefts(qwen2: Qwen2, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason=NEEDS_PEFT)
    transformers = pytest.importorskip("transformers")
    checkpoint.save(qwen2, tmp_path / "base")
    adapter = filled(qwen2)
    lora.save(adapter, tmp_path / "adapter")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(
        base, tmp_path / "adapter", is_trainable=True
    ).eval()
    expected = theirs(IDS[None]).logits[0]
    expected.square().mean().backward()

    lora.attach(qwen2, adapter)
    found = logits(qwen2)
    found.square().mean().backward()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    theirs_of = {
        name.replace(".default", "").removeprefix(lora.PREFIX): parameter.grad
        for name, parameter in theirs.named_parameters()
        if parameter.requires_grad
    }
    ours = dict(adapter.named_parameters())
    assert theirs_of.keys() == ours.keys()
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter.grad, theirs_of[name], rtol=1e-3, atol=1e-5)

    merged = theirs.merge_and_unload()(IDS[None]).logits[0]
    lora.detach(qwen2)
    lora.merge(qwen2, adapter)
    torch.testing.assert_close(logits(qwen2), merged, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings(PEFTS_OWN)
def test_an_adapter_that_peft_wrote_gives_pefts_logits(
    qwen2: Qwen2, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft", reason=NEEDS_PEFT)
    transformers = pytest.importorskip("transformers")
    checkpoint.save(qwen2, tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    settings = peft.LoraConfig(
        r=4,
        lora_alpha=7,
        use_rslora=True,
        target_modules=["q_proj", "up_proj"],
        init_lora_weights=False,
    )
    theirs = peft.get_peft_model(base, settings)
    theirs.save_pretrained(tmp_path / "adapter")
    expected = theirs.eval()(IDS[None]).logits[0]
    lora.attach(qwen2, lora.load(tmp_path / "adapter", qwen2))
    torch.testing.assert_close(logits(qwen2), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"rank": 0}, "lora.rank is 0: it must be at least 1"),
        ({"alpha": 0.0}, "lora.alpha is 0.0: it must be above 0"),
        (
            {"targets": ("q_proj", "lm_head")},
            "lora.targets names lm_head: choose from q_proj,",
        ),
        ({"targets": ()}, "lora.targets names none"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(shape: dict[str, object], message: str) -> None:
    with pytest.raises(OpenQwQError, match=message):
        AdapterShape(**shape)  # type: ignore[arg-type]


def test_an_adapter_of_another_base_is_refused(
    qwen2: Qwen2, make_model: Callable[..., Qwen2], tmp_path: Path
) -> None:
    lora.save(filled(qwen2), tmp_path / "adapter")
    same_shape = make_model()
    with torch.no_grad():
        same_shape.model.layers[1].get_parameter("mlp.up_proj.weight").add_(0.1)
    with pytest.raises(OpenQwQError, match="trained on org/small, whose weights"):
        lora.load(tmp_path / "adapter", same_shape)
    with pytest.raises(OpenQwQError, match=r"has model.layers.0.\S+ for a matrix"):
        lora.load(tmp_path / "adapter", make_model(hidden_size=64))
    with pytest.raises(
        OpenQwQError, match=r"model.layers.1.\S+ without a place in this model"
    ):
        lora.load(tmp_path / "adapter", make_model(num_hidden_layers=1))


def test_the_same_base_in_bf16_is_accepted(qwen2: Qwen2, tmp_path: Path) -> None:
    lora.save(filled(qwen2), tmp_path / "adapter")
    lora.load(tmp_path / "adapter", qwen2.bfloat16())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type = 'IA3': it must be 'LORA'"),
        ({"use_dora": True}, "use_dora = True: it must be False"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": None}, "r = None: it must be a number"),
        ({"r": 0}, "lora.rank is 0"),
    ],
)
def test_a_file_that_we_cannot_honour_is_refused(
    changes: dict[str, object], message: str, qwen2: Qwen2, tmp_path: Path
) -> None:
    lora.save(filled(qwen2), tmp_path / "adapter")
    path = tmp_path / "adapter" / lora.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(OpenQwQError, match=message):
        lora.load(tmp_path / "adapter", qwen2)


def test_a_missing_or_damaged_adapter_is_named(qwen2: Qwen2, tmp_path: Path) -> None:
    with pytest.raises(OpenQwQError, match=r"cannot read .*adapter_config.json"):
        lora.load(tmp_path / "nothing", qwen2)
    lora.save(filled(qwen2), tmp_path / "adapter")
    (tmp_path / "adapter" / lora.WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(OpenQwQError, match=r"cannot read .*adapter_model.safetensors"):
        lora.load(tmp_path / "adapter", qwen2)
    with pytest.raises(OpenQwQError, match="exists already"):
        lora.save(filled(qwen2), tmp_path / "adapter")


def test_values_of_another_shape_are_refused_and_change_nothing(qwen2: Qwen2) -> None:
    adapter = filled(qwen2)
    before = [p.clone() for p in adapter.parameters()]
    other = filled(qwen2, AdapterShape(4))
    with pytest.raises(OpenQwQError, match=r"weights do not match it in model\.layers\.0"):
        adapter.load(dict(other.named_parameters()))
    assert all(torch.equal(a, b) for a, b in zip(before, adapter.parameters(), strict=True))
