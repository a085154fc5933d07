"""The driver's side with fake actors: what is lost, abandoned, or counted."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small import small_config

from openqwq.cluster import push
from openqwq.cluster.push import WeightStream
from openqwq.cluster.remote import RemoteSampler
from openqwq.cluster.remote_learner import RankWeights, RemoteLearner
from openqwq.train.packing import pack_examples
from openqwq.types import OpenQwQError, SamplingParams

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'ray>=2.50'")


@pytest.fixture(autouse=True)
def killed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Ray as far as these tests need it: answers are at hand; who was killed or sent home."""
    gone: list[Any] = []

    def get(calls: Any, timeout: float) -> Any:
        if isinstance(calls, list):
            return [get(call, timeout) for call in calls]
        if isinstance(calls, Exception):
            raise calls
        return calls

    monkeypatch.setattr(push, "end_meeting", lambda *_: gone.append("meeting"))
    monkeypatch.setattr(ray, "kill", gone.append)
    monkeypatch.setattr(ray, "get", get)
    return gone


def method(function: Callable[..., Any]) -> Any:
    return SimpleNamespace(remote=function)


async def lost(*_: Any) -> None:
    raise TimeoutError("gone")


def stream() -> WeightStream:
    return WeightStream("gloo", 1, 5.0)


def actor(role: str, calls: list[str], **answers: Any) -> Any:
    """A fake whose methods note that they were called and answer None, or as told."""

    def answer(method: str) -> Any:
        def ask(*_: Any) -> Any:
            calls.append(f"{role}.{method}")
            found = answers.get(method)
            return found.pop(0) if isinstance(found, list) else found

        return SimpleNamespace(remote=ask)

    names = (
        "software",
        "open_store",
        "meet",
        "manifest",
        "begin",
        "send",
        "receive",
        "finish",
    )
    methods = {name: answer(name) for name in (*names, "commit", "train_share", "restore")}
    return SimpleNamespace(**methods)


async def test_a_sampler_that_cannot_be_replaced_fails_its_requests_and_hangs_nobody() -> (
    None
):
    made: list[int] = []

    def create(index: int) -> Any:
        if made:
            raise OpenQwQError("no place for another actor")
        made.append(index)
        return SimpleNamespace(generate=method(lost))

    sampler = RemoteSampler(create, 1, 5.0, stream)
    with pytest.raises(OpenQwQError, match="no place"):
        async with asyncio.timeout(5):
            await sampler.generate([1], SamplingParams())


async def test_nobody_is_replaced_for_requests_that_were_given_up(
    killed: list[Any],
) -> None:
    dies = asyncio.Event()

    async def dying(*_: Any) -> None:
        await dies.wait()
        raise TimeoutError("gone")

    made: list[int] = []

    def create(index: int) -> Any:
        made.append(index)
        return SimpleNamespace(generate=method(dying))

    sampler = RemoteSampler(create, 1, 60.0, stream)
    request = asyncio.create_task(sampler.generate([1], SamplingParams()))
    await asyncio.sleep(0.01)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    dies.set()
    await asyncio.sleep(0.05)
    assert (made, killed) == ([0], [])


PHASES = ["manifest", "begin", "send", "receive", "finish", "commit"]


def test_a_push_replaces_the_sampler_that_was_lost_in_it_and_begins_again(
    tmp_path: Path, killed: list[Any]
) -> None:
    calls: list[str] = []
    gone = TimeoutError("gone")
    first = actor("first", calls, receive=gone, software=[None, gone])
    second = actor("second", calls)
    made = [first, second]
    rank = actor("rank", calls, open_store=("here", 1))
    learner = RemoteLearner(lambda: [rank], tmp_path, 5.0)
    sampler = RemoteSampler(lambda _: made.pop(0), 1, 5.0, stream)
    sampler.push(learner.named_params(), 0)
    assert killed == ["meeting", first]
    assert sampler.actors == [second]
    assert (sampler.restarts, learner.restarts) == (1, 0)
    assert "first.finish" not in calls
    phases = [call for call in calls if call.partition(".")[2] in PHASES]
    assert [phase.partition(".")[2] for phase in phases[-6:]] == PHASES
    before = len(calls)
    sampler.push(learner.named_params(), 0)
    assert len(calls) == before + len(PHASES)  # who has met once stays joined


def test_a_push_that_loses_a_rank_is_repeated_from_ranks_brought_to_the_same_step(
    tmp_path: Path, killed: list[Any]
) -> None:
    calls: list[str] = []
    gone = TimeoutError("gone")
    first = actor("first", calls, open_store=("here", 1), send=gone, software=[gone])
    second = actor("second", calls, open_store=("here", 1))
    ranks = [first, second]
    learner = RemoteLearner(lambda: [ranks.pop(0)], tmp_path, 5.0)
    learner.done = learner._saved = 3
    sampler = RemoteSampler(lambda _: actor("sampler", calls), 1, 5.0, stream)
    sampler.push(learner.named_params(), 3)
    assert killed == ["meeting", first]
    assert (sampler.restarts, learner.restarts) == (0, 1)
    assert calls.index("second.restore") < calls.index("second.send")
    assert calls[-1] == "sampler.commit"


def test_a_push_is_refused_where_it_cannot_become_right(
    tmp_path: Path, killed: list[Any]
) -> None:
    calls: list[str] = []
    refusal = OpenQwQError("the sampler holds another model")
    rank = actor("rank", calls, open_store=("here", 1))
    learner = RemoteLearner(lambda: [rank], tmp_path, 5.0)
    sampler = RemoteSampler(
        lambda _: actor("sampler", calls, begin=refusal), 1, 5.0, stream
    )
    with pytest.raises(OpenQwQError, match="another model"):
        sampler.push(learner.named_params(), 0)
    with pytest.raises(OpenQwQError, match=r"version 7 .* done 0 steps"):
        sampler.push(RankWeights(learner), 7)
    assert killed == ["meeting"]
    assert calls.count("sampler.begin") == 1


def test_ranks_are_told_the_step_also_after_steps_without_a_batch(tmp_path: Path) -> None:
    told: list[int] = []

    def train_share(done: int, *_: Any) -> dict[str, float]:
        told.append(done)
        return {}

    rank = SimpleNamespace(train_share=method(train_share))
    learner = RemoteLearner(lambda: [rank], tmp_path, 5.0)
    batch = pack_examples([([1, 2], [False, True])], 8)
    learner.train_step(batch, lambda *_: None)  # type: ignore[arg-type,return-value]
    learner.done += 1  # a step with nothing to learn from
    learner.train_step(batch, lambda *_: None)  # type: ignore[arg-type,return-value]
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
