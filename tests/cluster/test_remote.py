"""The driver's side with fake actors: what is lost, abandoned, or counted."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small import small_config

from openqwq.cluster import remote
from openqwq.cluster.remote import RemoteLearner, RemoteSampler
from openqwq.types import OpenQwQError, SamplingParams

pytest.importorskip("ray", reason="needs Ray: pip install 'ray>=2.50'")


@pytest.fixture(autouse=True)
def killed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Ray as far as these tests need it: objects are themselves; who was killed."""
    gone: list[Any] = []
    monkeypatch.setattr(remote.ray, "kill", gone.append)
    monkeypatch.setattr(remote.ray, "put", lambda value: value)
    monkeypatch.setattr(remote.ray, "get", lambda value, timeout: value)
    return gone


def method(function: Callable[..., Any]) -> Any:
    return SimpleNamespace(remote=function)


async def lost(*_: Any) -> None:
    raise TimeoutError("gone")


async def test_a_sampler_that_cannot_be_replaced_fails_its_requests_and_hangs_nobody() -> None:
    made: list[int] = []

    def create(index: int) -> Any:
        if made:
            raise OpenQwQError("no place for another actor")
        made.append(index)
        return SimpleNamespace(generate=method(lost))

    sampler = RemoteSampler(create, 1, 5.0)
    with pytest.raises(OpenQwQError, match="no place"):
        async with asyncio.timeout(5):
            await sampler.generate([1], SamplingParams())


async def test_nobody_is_replaced_for_requests_that_were_given_up(killed: list[Any]) -> None:
    dies = asyncio.Event()

    async def dying(*_: Any) -> None:
        await dies.wait()
        raise TimeoutError("gone")

    made: list[int] = []

    def create(index: int) -> Any:
        made.append(index)
        return SimpleNamespace(generate=method(dying))

    sampler = RemoteSampler(create, 1, 60.0)
    request = asyncio.create_task(sampler.generate([1], SamplingParams()))
    await asyncio.sleep(0.01)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    dies.set()
    await asyncio.sleep(0.05)
    assert (made, killed) == ([0], [])


def test_a_push_replaces_the_sampler_that_failed_it_and_no_later_one(
    monkeypatch: pytest.MonkeyPatch, killed: list[Any]
) -> None:
    made: list[Any] = []

    def create(index: int) -> Any:
        number = len(made)
        made.append(SimpleNamespace(push=method(lambda *_: f"push {number}"), number=number))
        return made[-1]

    def get(call: str, timeout: float) -> None:
        if call == "push 0":
            raise TimeoutError("gone")

    monkeypatch.setattr(remote.ray, "get", get)
    sampler = RemoteSampler(create, 1, 5.0)
    sampler.push([], 1)
    assert killed == [made[0]]
    assert sampler.actors == [made[1]]
    assert sampler.restarts == 1


def test_ranks_are_told_the_step_also_after_steps_without_a_batch(tmp_path: Path) -> None:
    told: list[int] = []

    def train_step(done: int, *_: Any) -> dict[str, float]:
        told.append(done)
        return {}

    learner = RemoteLearner(lambda: [SimpleNamespace(train_step=method(train_step))], tmp_path, 5.0)
    learner.train_step([], lambda *_: None)  # type: ignore[arg-type,return-value]
    learner.done += 1  # a step with nothing to learn from
    learner.train_step([], lambda *_: None)  # type: ignore[arg-type,return-value]
    assert told == [0, 2]


def test_actors_that_never_answer_are_an_error_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.exceptions import GetTimeoutError

    from openqwq.cluster import placement

    monkeypatch.setattr(placement.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(placement, "_reserve", lambda cluster: None)
    monkeypatch.setattr(placement, "remove_placement_group", lambda group: None)
    with pytest.raises(OpenQwQError, match=r"within cluster\.timeout, .* more time"):
        with placement.ray_placement(small_config()):
            raise GetTimeoutError("no answer")
