import random

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from openqwq.engine import sampler
from openqwq.engine.sampler import (
    draw_plainly,
    log_distribution,
    penalised,
    sample,
    uniforms,
)
from openqwq.types import OpenQwQError, SamplingParams


def filters(
    temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0
) -> SamplingParams:
    return SamplingParams(temperature, top_p, top_k, min_p)


def transformers_log_probs(logits: Tensor, params: SamplingParams) -> Tensor:
    warpers = LogitsProcessorList([TemperatureLogitsWarper(params.temperature)])
    if params.top_k:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        warpers.append(MinPLogitsWarper(params.min_p))
    ids = torch.zeros(len(logits), 1, dtype=torch.long)
    scores: Tensor = warpers(ids, logits)  # type: ignore[arg-type]
    return scores.double().log_softmax(-1)


def assert_same_distribution(ours: Tensor, theirs: Tensor) -> None:
    assert torch.equal(ours.isneginf(), theirs.isneginf())
    torch.testing.assert_close(ours.double(), theirs, atol=2e-6, rtol=0)


def chi_square(observed: Tensor, expected: Tensor) -> float:
    """Pearson's statistic in standard deviations above its mean."""
    freedom = int((expected > 0).sum()) - 1
    assert observed[expected == 0].sum() == 0
    kept = expected > 0
    statistic = ((observed - expected)[kept] ** 2 / expected[kept]).sum()
    return float((statistic - freedom) / (2 * freedom) ** 0.5)


def test_every_combination_of_filters_in_one_batch_equals_transformers() -> None:
    chooser = random.Random(0)
    params = [
        filters(
            chooser.choice([0.3, 0.6, 1.0, 1.7]),
            chooser.choice([1.0, 0.95, 0.7, 0.3, 0.01]),
            chooser.choice([0, 1, 2, 10, 40, 1000]),
            chooser.choice([0.0, 0.02, 0.2, 0.9]),
        )
        for _ in range(400)
    ]
    logits = 3 * torch.randn(len(params), 101, generator=torch.Generator().manual_seed(0))
    ours = log_distribution(logits, params)
    theirs = [
        transformers_log_probs(row[None], p) for row, p in zip(logits, params, strict=True)
    ]
    assert_same_distribution(ours, torch.cat(theirs))


@pytest.mark.parametrize(
    "params",
    [
        filters(),
        filters(temperature=2.0),
        filters(top_k=2),
        filters(top_k=4),
        filters(top_p=0.7),
        filters(top_p=0.9, top_k=4),
        filters(min_p=0.3),
        filters(min_p=0.4),
    ],
    ids=str,
)
def test_ties_away_from_a_boundary_are_treated_as_in_transformers(
    params: SamplingParams,
) -> None:
    logits = torch.tensor([[1.0, 2.0, 1.0, 2.0, -50.0, -50.0]])
    assert_same_distribution(
        log_distribution(logits, [params]), transformers_log_probs(logits, params)
    )


def test_a_tie_at_the_kth_place_keeps_exactly_k_tokens_the_lowest_ids_first() -> None:
    kept = log_distribution(torch.zeros(1, 50), [filters(top_k=3)])
    assert kept.isfinite().nonzero()[:, 1].tolist() == [0, 1, 2]


def test_a_nucleus_of_a_wide_vocabulary_equals_transformers_however_many_it_holds() -> None:
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(6, 4096, generator=generator)
    logits[::2] *= 4  # these keep few tokens, the others thousands
    for own in (filters(top_p=0.9), filters(min_p=0.02), filters(0.7, 0.95, 0, 0.001)):
        params = [own] * len(logits)
        expected = transformers_log_probs(logits, own)
        assert_same_distribution(log_distribution(logits, params), expected)
        token_ids, log_probs = sample(logits, params, range(6), [0] * 6)
        drawn = expected.gather(1, token_ids[:, None]).squeeze(1)
        torch.testing.assert_close(log_probs.double(), drawn, atol=2e-6, rtol=0)


def test_ties_of_a_wide_vocabulary_are_kept_as_a_stable_sort_keeps_them() -> None:
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(9, 4096, generator=generator).bfloat16().float()
    logits[0] = 0  # more equals than are looked at
    logits[1, 40:] = -torch.inf
    kept = log_distribution(logits, [filters(top_k=40)] * 9)
    expected = logits.argsort(descending=True, stable=True)[:, :40].sort().values
    isolated = torch.stack([row.isfinite().nonzero()[:, 0] for row in kept])
    assert torch.equal(isolated, expected)


def test_log_probs_are_those_of_the_renormalised_distribution() -> None:
    logits = 2 * torch.randn(500, 20, generator=torch.Generator().manual_seed(1))
    params = [filters(0.8, 0.9, 8, 0.05)] * 500
    token_ids, log_probs = sample(logits, params, range(500), [3] * 500)
    expected = transformers_log_probs(logits, params[0])
    drawn = expected.gather(1, token_ids[:, None]).squeeze(1)
    torch.testing.assert_close(log_probs.double(), drawn, atol=2e-6, rtol=0)
    torch.testing.assert_close(
        log_distribution(logits, params).double().exp().sum(-1), torch.ones(500).double()
    )


@pytest.mark.parametrize("along", ["seeds", "steps"])
@pytest.mark.parametrize(
    "params", [filters(), filters(0.7, 0.9, 8, 0.02)], ids=["all", "filtered"]
)
def test_frequencies_match_the_distribution(along: str, params: SamplingParams) -> None:
    draws = 40_000
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(2))
    changing, fixed = range(draws), [7] * draws
    seeds, steps = (changing, fixed) if along == "seeds" else (fixed, changing)
    token_ids, _ = sample(logits.expand(draws, -1), [params] * draws, seeds, steps)
    expected = draws * transformers_log_probs(logits, params).exp()[0]
    assert chi_square(torch.bincount(token_ids, minlength=12), expected) < 4


def test_temperature_zero_takes_the_likeliest_token_and_reports_its_unfiltered_log_prob() -> (
    None
):
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(3))
    greedy, other = filters(0.0, 0.1, 1, 0.9), filters(0.5, 0.9, 5)
    token_ids, log_probs = sample(logits, [greedy, other] * 25, range(50), range(50))
    expected = logits.double().log_softmax(-1).max(-1)
    assert torch.equal(token_ids[::2], expected.indices[::2])
    torch.testing.assert_close(
        log_probs[::2].double(), expected.values[::2], atol=1e-6, rtol=0
    )
    assert not torch.equal(token_ids[1::2], expected.indices[1::2])


def test_a_draw_depends_on_its_own_row_seed_and_step_alone() -> None:
    chooser, rows = random.Random(4), 60
    logits = torch.randn(rows, 40, generator=torch.Generator().manual_seed(4))
    choices = [filters(), filters(0.0), filters(0.6, 0.95, 40), filters(1.3, min_p=0.1)]
    params = [chooser.choice(choices) for _ in range(rows)]
    seeds, steps = range(100, 100 + rows), [chooser.randrange(50) for _ in range(rows)]
    together, _ = sample(logits, params, seeds, steps)
    order = chooser.sample(range(rows), 17)
    rows_of = [[params[i], seeds[i], steps[i]] for i in order]
    some, _ = sample(logits[order], *map(list, zip(*rows_of, strict=True)))
    assert torch.equal(some, together[order])


def test_seeds_and_steps_each_change_the_draw() -> None:
    """Not least swapped ones: members of a group have neighbouring seeds."""
    seeds, steps = np.meshgrid(np.arange(300), np.arange(300))
    drawn = uniforms(seeds.ravel().tolist(), steps.ravel().tolist())
    assert len(set(drawn.tolist())) == 300 * 300
    assert uniforms([-1], [0]) == uniforms([2**64 - 1], [0])


def test_uniforms_are_uniform_and_independent_between_neighbours() -> None:
    seeds, steps = np.meshgrid(np.arange(200), np.arange(200))
    u = uniforms(seeds.ravel().tolist(), steps.ravel().tolist()).view(200, 200)
    assert u.min() >= 0 and u.max() <= 1 - 2**-53
    assert torch.equal(u * 2**53, (u * 2**53).round())
    bins = torch.bincount((u.flatten() * 64).long(), minlength=64)
    assert chi_square(bins, torch.full((64,), u.numel() / 64)) < 4
    neighbours = [(u[1:], u[:-1]), (u[:, 1:], u[:, :-1]), (u[1:, 1:], u[:-1, :-1]),
                  (u, u.T.roll(1, 0))]  # fmt: skip
    for first, second in neighbours:
        pairs = (first * 16).long() * 16 + (second * 16).long()
        counts = torch.bincount(pairs.flatten(), minlength=256)
        assert chi_square(counts, torch.full((256,), pairs.numel() / 256)) < 4


def test_the_draws_of_a_seed_are_the_same_on_every_machine() -> None:
    # SplitMix64 by hand in Python's integers: hash the seed, then its xor with the step.
    def mix(z: int) -> int:
        z = (z + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    cases = [(0, 0), (0, 1), (1, 0), (123456789, 4000), (2**63, 7)]
    expected = [(mix(mix(seed) ^ step) >> 11) / 2**53 for seed, step in cases]
    assert uniforms(*map(list, zip(*cases, strict=True))).tolist() == expected


@pytest.mark.parametrize(("draw", "token_id"), [(0.0, 1), (0.5, 3), (1 - 2**-53, 3)])
def test_forbidden_tokens_are_never_drawn_even_at_the_ends(
    draw: float, token_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sampler, "uniforms", lambda *_: torch.tensor([draw], dtype=torch.float64)
    )
    minus = float("-inf")
    for logits in ([minus, 0, minus, 0, minus], [-1, 0, -1, 0, -1]):
        row, params = torch.tensor([logits]).float(), [filters(top_k=2)]
        drawn, log_prob = sample(row, params, [0], [0])
        assert drawn.tolist() == [token_id]
        assert log_prob.item() == pytest.approx(np.log(0.5))


def test_qwq_s_whole_vocabulary_is_drawn_from_without_rounding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, vocab = 40, 152_064
    wanted = torch.arange(rows) * 3800 + 3000
    # close to either side of a token's share of the unit interval
    for offset in (0.001, 0.999):
        draws = (wanted.double() + offset) / vocab
        monkeypatch.setattr(sampler, "uniforms", lambda *_, draws=draws: draws)
        drawn, log_probs = sample(
            torch.zeros(rows, vocab), [filters()] * rows, range(rows), [0] * rows
        )
        assert torch.equal(drawn, wanted)
        assert log_probs.tolist() == pytest.approx([-np.log(vocab)] * rows, abs=1e-5)


def test_a_temperature_that_would_leave_no_number_is_refused() -> None:
    for temperature in (0.0, 0.0001):
        SamplingParams(temperature)
    for temperature in (1e-40, 0.00009, -1.0, float("nan")):
        with pytest.raises(
            OpenQwQError, match=r"it must be 0 \(greedy\) or at least 0\.0001"
        ):
            SamplingParams(temperature)
    logits = torch.tensor([[3.0, -2.0, 1e4]])
    assert sample(logits, [SamplingParams(0.0001)], [0], [0])[0].tolist() == [2]


def test_a_repetition_penalty_equals_transformers_and_the_others_openais_formula() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    prompts, replies = [[1, 2, 2], [3], [4]], [[5, 1], [6, 6, 7], [8]]
    repeated = SamplingParams(repetition_penalty=1.3)
    openai = SamplingParams(
        presence_penalty=0.5, frequency_penalty=0.25, logit_bias=((9, -100.0),)
    )
    before = logits.clone()
    got = penalised(logits, [repeated, openai, SamplingParams()], prompts, replies)
    ids = torch.tensor([prompts[0] + replies[0]])
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(ids, logits[:1])  # type: ignore[arg-type]
    torch.testing.assert_close(got[:1], theirs)
    # the prompt's 3 is left alone
    changes = {6: -0.5 - 2 * 0.25, 7: -0.5 - 0.25, 9: -100.0}
    for token_id in range(50):
        expected = logits[1, token_id] + changes.get(token_id, 0.0)
        torch.testing.assert_close(got[1, token_id], expected)
    assert torch.equal(got[2], logits[2]) and torch.equal(logits, before)


def test_a_repetition_penalty_of_nothing_is_refused() -> None:
    with pytest.raises(OpenQwQError, match="repetition_penalty"):
        SamplingParams(repetition_penalty=0)


def test_log_probs_read_from_the_probabilities_are_those_of_a_second_softmax() -> None:
    logits = 4 * torch.randn(50, 1000, generator=torch.Generator().manual_seed(0))
    draws = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    ids, exact = draw_plainly(logits, draws)
    same_ids, read = draw_plainly(logits, draws, exact=False)
    assert torch.equal(ids, same_ids)
    torch.testing.assert_close(read, exact, rtol=1e-5, atol=2e-6)
