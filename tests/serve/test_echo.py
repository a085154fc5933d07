"""/v1/completions with echo and log-probs, read as lm-eval's loglikelihood reads them."""

from typing import Any

import httpx
import pytest
import torch

from openqwq.model.attention import RaggedAttention, positions

PATH = "/v1/completions"


def complete(server: Any, **more: Any) -> dict[str, Any]:
    body = {"model": server.model.name, "max_tokens": 1, "temperature": 0, **more}
    answer = httpx.post(server.url + PATH, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def log_likelihood(choice: dict[str, Any], context: int) -> tuple[float, bool]:
    """What lm-eval makes of a choice: the tokens between the context and the one drawn token."""
    found = choice["logprobs"]
    values = found["token_logprobs"][context:-1]
    greedy = True
    for token, best in zip(
        found["tokens"][context:-1], found["top_logprobs"][context:-1], strict=True
    ):
        greedy = greedy and max(best, key=best.get) == token
    return sum(values), greedy


def test_the_likelihood_of_a_continuation_is_the_models_own(tiny: Any, saved: Any) -> None:
    ids = tiny.model.tokenizer.encode("the quick brown fox jumps over")
    (choice,) = complete(tiny, prompt=ids, echo=True, logprobs=1)["choices"]
    assert len(choice["logprobs"]["tokens"]) == len(ids) + 1
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert choice["logprobs"]["top_logprobs"][0] is None
    from openqwq.model import checkpoint

    model = checkpoint.load(saved)
    with torch.inference_mode():
        hidden = model(
            torch.tensor(ids), positions([len(ids)]), RaggedAttention([len(ids)])
        )
        own = model.logits(hidden).log_softmax(-1)
    wanted = sum(float(own[place - 1, ids[place]]) for place in range(4, len(ids)))
    got, greedy = log_likelihood(choice, 4)
    assert got == pytest.approx(wanted, abs=1e-3)
    assert greedy == all(int(own[i - 1].argmax()) == ids[i] for i in range(4, len(ids)))


def test_many_prompts_are_scored_in_one_request(tiny: Any) -> None:
    prompts = [
        tiny.model.tokenizer.encode(text)
        for text in ("the fox", "lazy dog", "the lazy fox")
    ]
    many = complete(tiny, prompt=prompts, echo=True, logprobs=1)["choices"]
    for prompt, choice in zip(prompts, many, strict=True):
        (alone,) = complete(tiny, prompt=prompt, echo=True, logprobs=1)["choices"]
        together = choice["logprobs"]["token_logprobs"][1:]
        assert together == pytest.approx(alone["logprobs"]["token_logprobs"][1:], abs=1e-4)


def test_without_tokens_to_draw_only_the_prompt_is_scored(tiny: Any) -> None:
    got = complete(tiny, prompt="the fox", echo=True, logprobs=2, max_tokens=0)
    (choice,) = got["choices"]
    assert choice["text"] == "the fox" and got["usage"]["completion_tokens"] == 0
    assert len(choice["logprobs"]["tokens"]) == got["usage"]["prompt_tokens"]
    assert "".join(choice["logprobs"]["tokens"]) == "the fox"


def test_an_echo_without_log_probs_is_the_prompt_and_its_continuation(tiny: Any) -> None:
    (plain,) = complete(tiny, prompt="the fox", max_tokens=9, seed=1)["choices"]
    (echoed,) = complete(tiny, prompt="the fox", max_tokens=9, seed=1, echo=True)["choices"]
    assert echoed["text"] == "the fox" + plain["text"]


def test_a_streamed_echo_is_the_whole_one(tiny: Any) -> None:
    body = {"model": "tiny", "prompt": "the fox", "echo": True, "logprobs": 1, "seed": 3}
    whole = httpx.post(tiny.url + PATH, json=body, timeout=60).json()["choices"][0]
    lines = httpx.post(
        tiny.url + PATH, json={**body, "stream": True}, timeout=60
    ).text.splitlines()
    chunks = [
        httpx.Response(200, content=line[6:]).json() for line in lines if line[6:7] == "{"
    ]
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    values: list[Any] = []
    for chunk in chunks:
        values += (chunk["choices"][0]["logprobs"] or {"token_logprobs": []})[
            "token_logprobs"
        ]
    assert text == whole["text"] and values == whole["logprobs"]["token_logprobs"]


def test_nothing_to_draw_and_nothing_to_repeat_is_refused(tiny: Any) -> None:
    body = {"model": "tiny", "prompt": "the fox", "max_tokens": 0}
    refused = httpx.post(tiny.url + PATH, json=body)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "max_tokens"
