"""The reward model: it learns a preference, says how sure it is, shows its taste for length."""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from openqwq.config import OptimiserConfig, RewardModelStage
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.preference_report import judge_pairs, preference_report, report_json
from openqwq.train.preference_stage import require_better_than_chance
from openqwq.train.reward_model import RewardModel, bradley_terry_loss, train_reward_model
from openqwq.types import Message, OpenQwQError, Pair, Task

TOKENIZER = Tokenizer.train(["sun moon fish pig"] * 9, 290)
ASK = Message(role="user", content="?")
CONFIG = RewardModelStage(
    "taste",
    epochs=6,
    batch_size=16,
    optimiser=OptimiserConfig("adamw", 1e-2, 2, 1.0, weight_decay=0.0),
)


def made(tied: bool = True) -> RewardModel:
    shape = ModelConfig(TOKENIZER.vocab_size, 16, 32, 2, 2, 1, 8, tie_word_embeddings=tied)
    trunk = Qwen2(shape)
    trunk.initialise(torch.Generator().manual_seed(0), std=0.2)
    return RewardModel(trunk, TOKENIZER)


def pair(chosen: str, rejected: str) -> Pair:
    said = [Message(role="assistant", content=text) for text in (chosen, rejected)]
    return Pair((ASK, said[0]), (ASK, said[1]))


def sunny(count: int, seed: int) -> list[Pair]:
    """Pairs in which the answer that names the sun is chosen."""
    rng, pairs = random.Random(seed), []
    for _ in range(count):
        others = [
            " ".join(rng.choices(["moon", "fish", "pig"], k=rng.randint(1, 4)))
            for _ in "ab"
        ]
        pairs.append(pair(f"{others[0]} sun", others[1]))
    return pairs


def test_a_preference_is_learned_and_carries_over_to_new_pairs() -> None:
    model = made()
    assert judge_pairs(model, sunny(40, 1)).accuracy == 0.0  # all rewards are equal yet
    log = train_reward_model(model, sunny(128, 0), CONFIG, 0, lambda done, metrics: None)
    assert len(log) == 48 and log[-1]["loss"] < 0.3 < log[0]["loss"]
    report = judge_pairs(model, sunny(40, 1), batch_size=7)
    assert report.pairs == 40 and report.accuracy > 0.9 and report.brier < 0.1


def test_training_twice_gives_the_same_weights_and_another_seed_others() -> None:
    models = [made() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        train_reward_model(model, sunny(32, 0), CONFIG, seed, lambda done, metrics: None)
    one, again, other = (model.score.weight for model in models)
    assert torch.equal(one, again) and not torch.equal(one, other)


def fit(config: RewardModelStage, pairs: int = 64) -> tuple[RewardModel, list[float]]:
    """A model after a stage, and the rate of each step."""
    model = made()
    log = train_reward_model(model, sunny(pairs, 0), config, 0, lambda done, metrics: None)
    return model, [record["lr"] for record in log]


def test_the_rate_is_that_of_the_other_stages() -> None:
    optimiser = OptimiserConfig(
        lr=1.0, warmup_steps=2, decay_share=0.5, final_lr_share=0.25
    )
    _, rates = fit(replace(CONFIG, epochs=2, optimiser=optimiser))
    assert rates == [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25]


def test_a_part_of_an_epoch_is_a_part_of_the_pairs() -> None:
    assert len(fit(replace(CONFIG, epochs=0.5))[1]) == 2  # of 64 pairs, 16 at a time
    assert len(fit(replace(CONFIG, epochs=1.5))[1]) == 6
    with pytest.raises(OpenQwQError, match=r"epochs is 0\.001, which is none of the 64"):
        fit(replace(CONFIG, epochs=0.001))


def test_the_optimiser_is_the_one_that_is_named() -> None:
    muon = OptimiserConfig("muon", 1e-2, 2, weight_decay=0.0)
    models = [
        fit(replace(CONFIG, optimiser=o))[0] for o in (muon, replace(muon, name="adamw"))
    ]
    layers = [
        model.state_dict()["trunk.model.layers.0.mlp.up_proj.weight"] for model in models
    ]
    assert not torch.allclose(layers[0], layers[1], atol=1e-2)


def test_micro_batches_give_the_same_gradient_within_their_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    forward = RewardModel.forward

    def counted(self: RewardModel, chats: Sequence[Sequence[int]]) -> torch.Tensor:
        sizes.append(sum(map(len, chats)))
        return forward(self, chats)

    monkeypatch.setattr(RewardModel, "forward", counted)
    small = replace(CONFIG.optimiser, lr=1e-4, max_tokens_per_micro_batch=200)
    models = [
        fit(replace(CONFIG, epochs=1, optimiser=o))[0]
        for o in (replace(small, max_tokens_per_micro_batch=0), small)
    ]
    assert max(sizes[4:]) <= 200 < max(sizes[:4])
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(one, other, atol=2e-5)


def test_the_loss_is_bradley_terrys() -> None:
    chosen, rejected = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.0])
    expected = -torch.tensor([0.5, -3.0]).sigmoid().log().mean()
    torch.testing.assert_close(bradley_terry_loss(chosen, rejected), expected)
    centred = bradley_terry_loss(chosen, rejected, centre=0.1)
    torch.testing.assert_close(centred, expected + 0.1 * (1.5**2 + 1.0**2) / 2)


def test_rewards_do_not_depend_on_the_batch() -> None:
    model = made()
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(1))
    chats = [model.encode(chat) for p in sunny(5, 2) for chat in (p.chosen, p.rejected)]
    with torch.no_grad():
        together, alone = model(chats), torch.cat([model([chat]) for chat in chats])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert together.std() > 0.01


@pytest.mark.parametrize("tied", [True, False])
async def test_a_saved_model_is_read_back_and_rates_alike(
    tmp_path: Path, tied: bool
) -> None:
    model = made(tied)
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(1))
    model.save(tmp_path / "rm")
    read = RewardModel.load(tmp_path / "rm")
    task = Task("t", "topics", (ASK,), "preference")
    assert await read.rate(task, "sun fish") == await model.rate(task, "sun fish") != 0.0


def test_transformers_opens_it_with_the_same_rewards(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = made()
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(1))
    model.save(tmp_path / "rm")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    for chat in (sunny(1, 3)[0].chosen, sunny(1, 4)[0].rejected):
        ids = encode_chat(TOKENIZER, chat, add_generation_prompt=False)
        assert ids == model.encode(chat)
        with torch.no_grad():
            expected = theirs(torch.tensor([ids])).logits[0, 0]
            torch.testing.assert_close(model([ids])[0], expected, rtol=0, atol=1e-5)


def test_what_is_no_reward_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(OpenQwQError, match="cannot read reward model"):
        RewardModel.load(tmp_path / "none")
    made().save(tmp_path / "rm")
    path = tmp_path / "rm" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"architectures": ["Qwen2ForCausalLM"]}))
    with pytest.raises(OpenQwQError, match=r"has architectures = .*a reward model's is"):
        RewardModel.load(tmp_path / "rm")


def test_a_sure_and_right_model_is_calibrated_and_a_sure_and_wrong_one_is_not() -> None:
    right = preference_report([(20.0, 0.0)] * 10, [(3, 3)] * 10)
    assert (right.accuracy, round(right.calibration_error, 6), round(right.brier, 6)) == (
        1,
        0,
        0,
    )
    wrong = preference_report([(0.0, 20.0)] * 10, [(3, 3)] * 10)
    assert (wrong.accuracy, round(wrong.calibration_error, 6), round(wrong.brier, 6)) == (
        0,
        1,
        1,
    )


def test_calibration_is_the_gap_of_confidence_and_accuracy_by_bins() -> None:
    margin = math.log(0.75 / 0.25)  # sigmoid 0.75
    report = preference_report([(margin, 0.0)] * 3 + [(0.0, margin)], [(1, 1)] * 4)
    assert report.accuracy == 0.75 and report.calibration_error < 1e-9
    assert math.isclose(report.brier, (3 * 0.25**2 + 0.75**2) / 4)
    unsure = preference_report([(0.0, 0.0)] * 4, [(1, 1)] * 4)  # a tie is not right
    assert (unsure.accuracy, unsure.calibration_error) == (0.0, 0.5)
    assert unsure.bins == ((0.5, 0.0, 4),)


@pytest.mark.parametrize(
    ("right", "pairs", "passes"),
    [
        (25, 50, False),
        (31, 50, False),
        (34, 50, True),
        (10, 50, False),
        (4, 4, True),
        (2, 3, True),
    ],
)
def test_a_reward_model_that_may_be_a_coin_is_refused(
    right: int, pairs: int, passes: bool
) -> None:
    margins = [(1.0, 0.0)] * right + [(0.0, 1.0)] * (pairs - right)
    report = preference_report(margins, [(1, 1)] * pairs)
    if passes:
        require_better_than_chance(CONFIG, report)
        return
    with pytest.raises(
        OpenQwQError, match=rf"'taste' ranks {right} of {pairs} .* interval"
    ):
        require_better_than_chance(CONFIG, report)


def test_a_taste_for_length_shows() -> None:
    lengths = [(2, 5), (6, 1), (3, 9), (8, 4)]
    by_length = preference_report([(float(a), float(b)) for a, b in lengths], lengths)
    assert math.isclose(by_length.length_correlation, 1.0)
    assert by_length.accuracy_where_shorter_is_chosen == 0.0
    assert by_length.accuracy_where_longer_is_chosen == 1.0


def test_nothing_to_count_is_null_in_json() -> None:
    report = report_json(preference_report([], []))
    assert json.loads(json.dumps(report, allow_nan=False))["accuracy"] is None


async def test_a_reward_model_on_qwen3_is_read_back_and_rates_alike(tmp_path: Path) -> None:
    shape = ModelConfig(
        TOKENIZER.vocab_size, 16, 32, 2, 2, 1, 8, attention_bias=False, qk_norm=True
    )
    trunk = Qwen2(shape)
    trunk.initialise(torch.Generator().manual_seed(0), std=0.2)
    model = RewardModel(trunk, TOKENIZER)
    torch.nn.init.normal_(model.score.weight)
    model.save(tmp_path / "reward")
    again = RewardModel.load(tmp_path / "reward")
    task = Task("t", "k", (ASK,), "judge")
    assert await again.rate(task, "sun moon") == await model.rate(task, "sun moon")
