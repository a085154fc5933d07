"""On a GPU the engine says what it says on the CPU. Skipped without one."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
import torch

from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.model.attention import RaggedAttention, positions
from openqwq.model.qwen2 import Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Completion, SamplingParams

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
PROMPTS = [[10 + (7 * i + 13 * row) % 200 for i in range(3 + 11 * row)] for row in range(7)]
Start = Callable[..., Engine]


@pytest.fixture
def start(build: Callable[..., Qwen2], tokenizer: Tokenizer) -> Iterator[Start]:
    engines: list[Engine] = []

    def start(device: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Engine:
        limits = EngineLimits(8, 300, 64, 2)
        model = build(seed).to(dtype)
        engines.append(Engine(model, tokenizer, limits, device=torch.device(device)))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


def ask(engine: Engine, temperature: float, tokens: int = 200) -> list[Completion]:
    async def run() -> list[Completion]:
        params = SamplingParams(temperature, 1.0, 0, max_tokens=tokens, stop_loops=False)
        groups = await asyncio.gather(*(engine.generate(ids, params) for ids in PROMPTS))
        return [completion for (completion,) in groups]

    return asyncio.run(run())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_and_log_probs_are_those_of_the_cpu(
    start: Start, temperature: float
) -> None:
    """Over 200 tokens: the cache grows twice, and 7 rows run as 8."""
    ours, theirs = (ask(start(device), temperature) for device in ("cuda", "cpu"))
    for one, other in zip(ours, theirs, strict=True):
        assert one.token_ids == other.token_ids
        gap = torch.tensor(one.log_probs) - torch.tensor(other.log_probs)
        assert gap.abs().max() < 1e-4


def test_log_probs_are_those_of_a_full_forward(
    start: Start, build: Callable[..., Qwen2]
) -> None:
    model = build().cuda()
    for ids, completion in zip(PROMPTS, ask(start("cuda"), 1.0), strict=True):
        whole = torch.tensor(ids + completion.token_ids).cuda()
        with torch.inference_mode():
            attend = RaggedAttention([len(whole)], device="cuda")
            hidden = model(whole, positions([len(whole)]).cuda(), attend)
            log_probs = model.logits(hidden).log_softmax(-1)[len(ids) - 1 : -1].cpu()
        expected = log_probs.gather(1, torch.tensor(completion.token_ids)[:, None]).squeeze(
            1
        )
        torch.testing.assert_close(
            torch.tensor(completion.log_probs), expected, atol=1e-4, rtol=0
        )


def test_pushed_weights_are_used_by_the_graphs_there_are(
    start: Start, build: Callable[..., Qwen2]
) -> None:
    engine = start("cuda")
    before = ask(engine, 0.0)
    assert engine.graphs is not None
    steps = dict(engine.graphs.steps)
    engine.push(build(1).named_parameters(), 1)
    after = ask(engine, 0.0)
    assert all(engine.graphs.steps[shape] is step for shape, step in steps.items())
    assert [c.token_ids for c in after] == [c.token_ids for c in ask(start("cuda", 1), 0.0)]
    assert [c.token_ids for c in after] != [c.token_ids for c in before]


def test_in_bf16_log_probs_differ_by_rounding(
    start: Start, build: Callable[..., Qwen2]
) -> None:
    rounded = build().to(torch.bfloat16).float()
    for ids, completion in zip(
        PROMPTS, ask(start("cuda", dtype=torch.bfloat16), 1.0), strict=True
    ):
        whole = torch.tensor(ids + completion.token_ids)
        with torch.inference_mode():
            hidden = rounded(whole, positions([len(whole)]), RaggedAttention([len(whole)]))
            log_probs = rounded.logits(hidden).log_softmax(-1)[len(ids) - 1 : -1]
        expected = log_probs.gather(1, torch.tensor(completion.token_ids)[:, None]).squeeze(
            1
        )
        gap = (torch.tensor(completion.log_probs) - expected).abs()
        assert 0 < gap.mean() < 0.03
