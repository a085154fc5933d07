"""`truncation: "auto"`: a conversation that outgrew the context loses its beginning, no more."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwq.engine.open import OpenedModel
from openqwq.serve.history import messages
from openqwq.serve.truncation import shortened

Build = Callable[..., OpenedModel]
SYSTEM = {"role": "system", "content": "rules"}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def step(name: str) -> list[dict[str, Any]]:
    call = {"id": name, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return [
        {"role": "assistant", "content": name, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": name, "content": name},
    ]


def kept(turns: list[dict[str, Any]], most: int) -> list[str]:
    return [turn["content"] for turn in shortened(turns, lambda some: len(some) <= most)]


def test_whole_exchanges_leave_first_and_steps_of_the_last_one_then() -> None:
    turns = [SYSTEM, user("a"), said("b"), user("c"), *step("d"), *step("e")]
    assert kept(turns, 8) == ["rules", "a", "b", "c", "d", "d", "e", "e"]
    for most in (7, 6):
        assert kept(turns, most) == ["rules", "c", "d", "d", "e", "e"]
    for most in (5, 4, 3):
        assert kept(turns, most) == ["rules", "c", "e", "e"]


def test_a_conversation_without_a_user_is_left_as_it_is() -> None:
    assert kept([SYSTEM, said("a")], 1) == ["rules", "a"]
    assert kept([SYSTEM], 0) == ["rules"]


EXCHANGES = st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=6)


@given(EXCHANGES, st.integers(0, 40), st.booleans())
def test_what_is_left_is_a_conversation_that_ends_alike(
    exchanges: list[tuple[bool, int]], most: int, has_system: bool
) -> None:
    turns = [SYSTEM] if has_system else []
    for number, (is_answered, steps) in enumerate(exchanges):
        turns.append(user(f"{number}"))
        for each in range(steps):
            turns += step(f"{number}.{each}")
        if is_answered:
            turns.append(said(f"{number}!"))
    left = shortened(turns, lambda some: len(some) <= most)
    messages(left)  # calls and results match
    first = len([SYSTEM]) if has_system else 0
    assert left[:first] == turns[:first] and left[first]["role"] == "user"
    assert left[-1] == turns[-1] and f"{len(exchanges) - 1}" in [t["content"] for t in left]
    assert (
        len(left) == len(turns)
        if len(turns) <= most
        else len(left) < len(turns) or most < 9
    )


def post(server: Any, **more: Any) -> httpx.Response:
    body = {"model": "scripted", **more}
    return httpx.post(f"{server.url}/v1/responses", json=body, timeout=60)


LONG = [user("first " * 60), said("so"), user("second " * 20), said("so"), user("third")]


@pytest.mark.parametrize("stream", [False, True])
def test_too_long_an_input_loses_its_oldest_items_where_it_may(
    scripted: Build, serve: Any, stream: bool
) -> None:
    model = scripted("so</think>\n\nyes", context=400)
    with serve(model) as server:
        whole = post(server, input=LONG, stream=stream, instructions="be brief")
        assert whole.status_code == 400
        assert whole.json()["error"]["code"] == "context_length_exceeded"
        got = post(
            server,
            input=LONG,
            stream=stream,
            instructions="be brief",
            truncation="auto",
            max_output_tokens=40,
        )
        assert got.status_code == 200 and '"truncation": "auto"' in got.text
        prompt = model.tokenizer.decode(server.model.generate.prompts[-1])
        assert "first" not in prompt and "second" in prompt and "third" in prompt
        assert "be brief" in prompt
        assert len(server.model.generate.prompts[-1]) <= 400 - 40


def test_truncation_changes_nothing_that_fits_and_forgets_nothing(
    scripted: Build, serve: Any
) -> None:
    with serve(scripted("so</think>\n\nyes", context=400)) as server:
        short = {"input": "hi", "max_output_tokens": 40}
        post(server, **short)
        post(server, **short, truncation="auto")
        one, other = server.model.generate.prompts
        assert one == other
        name = post(server, input=LONG, truncation="auto").json()["id"]
        stored = httpx.get(f"{server.url}/v1/responses/{name}/input_items", timeout=60)
        assert len(stored.json()["data"]) == len(LONG)
        alone = post(server, input="word " * 300, truncation="auto")
        assert alone.status_code == 400 and "too many for a context" in alone.text
