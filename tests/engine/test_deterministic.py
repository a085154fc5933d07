"""In deterministic mode a request's answer is the same, bit by bit, whatever the engine does."""

import asyncio
import random
from collections.abc import Callable, Iterator

import pytest
import torch

from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.model.qwen2 import Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Completion, OpenQwQError, SamplingParams

Request = tuple[list[int], SamplingParams, int]
Exact = Callable[..., Engine]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def exact(build: Callable[..., Qwen2], tokenizer: Tokenizer) -> Iterator[Exact]:
    engines: list[Engine] = []

    def exact(*limits: int, seed: int = 0, deterministic: bool = True) -> Engine:
        model = build(seed)
        if deterministic:
            model.make_invariant()
        engines.append(Engine(model, tokenizer, EngineLimits(*limits)))
        return engines[-1]

    yield exact
    for engine in engines:
        engine.close()


def draws(request: Request, answers: list[Completion]) -> list[tuple[object, ...]]:
    return [(c.token_ids, c.log_probs, c.finish_reason) for c in answers]


def together(engine: Engine, requests: list[Request]) -> list[list[tuple[object, ...]]]:
    async def ask() -> list[list[Completion]]:
        return await asyncio.gather(*(engine.generate(*request) for request in requests))

    return [draws(*pair) for pair in zip(requests, asyncio.run(ask()), strict=True)]


def requests(seed: int, plain: Callable[..., SamplingParams]) -> list[Request]:
    """Prompts with and without a common beginning, groups, and every kind of filter."""
    rng = random.Random(seed)
    common = rng.choices(range(256), k=40)
    filters = [
        {},
        {"top_k": 5},
        {"top_k": 40, "top_p": 0.9},
        {"top_p": 0.8},
        {"min_p": 0.05},
    ]
    return [
        (
            common * rng.randint(0, 1) + rng.choices(range(256), k=rng.randint(1, 60)),
            plain(rng.randint(1, 24), rng.randrange(10**6), **rng.choice(filters)),
            rng.choice([1, 1, 3]),
        )
        for _ in range(6)
    ]


@pytest.mark.parametrize("seed", [1, 2])
def test_an_answer_is_the_same_alone_in_company_chunked_and_from_the_cache(
    exact: Exact, plain: Callable[..., SamplingParams], seed: int
) -> None:
    asked = requests(seed, plain)
    one = exact(3, 160, 1000, 1)
    alone = []
    for request in asked:
        one.scheduler.cache.outdate()
        alone += together(one, [request])
    assert one.statistics().reused_prompt_tokens == 0
    # all at once; few slots, short chunks
    for limits in [(32, 160, 4096, 8), (5, 160, 7, 3)]:
        assert together(exact(*limits), asked) == alone
    crowd = exact(32, 160, 64, 2)
    together(crowd, [(ids, params, 2) for ids, params, _ in asked])
    assert together(crowd, asked) == alone
    assert crowd.statistics().reused_prompt_tokens > 100


def test_threads_change_nothing(exact: Exact, plain: Callable[..., SamplingParams]) -> None:
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(together(exact(32, 160, 64, 2), requests(3, plain)[:3]))
    assert found[0] == found[1]


def test_the_ordinary_mode_draws_the_same_tokens_but_rounds_by_its_company(
    exact: Exact, plain: Callable[..., SamplingParams]
) -> None:
    asked = requests(1, plain)
    crowd = together(exact(32, 160, 4096, 8, deterministic=False), asked)
    alone = [
        together(exact(3, 160, 4096, 1, deterministic=False), [one])[0] for one in asked
    ]
    assert [[ids for ids, *_ in group] for group in crowd] == [
        [ids for ids, *_ in group] for group in alone
    ]
    assert crowd != alone


def test_pushed_weights_answer_as_a_fresh_engine_with_them_does(
    exact: Exact, build: Callable[..., Qwen2], plain: Callable[..., SamplingParams]
) -> None:
    asked, engine = requests(4, plain)[:2], exact(8, 160, 64, 2)
    engine.push(build(9).named_parameters(), 1)
    assert together(engine, asked) == together(exact(8, 160, 64, 2, seed=9), asked)
    with pytest.raises(
        OpenQwQError, match=r"do not match the model in model\.norm\.weight"
    ):
        rest = [
            pair for pair in build(9).named_parameters() if pair[0] != "model.norm.weight"
        ]
        engine.push(rest, 2)
