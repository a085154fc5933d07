"""How much a request lets the model think, in every spelling that clients have for it."""

from collections.abc import Iterator, Mapping
from typing import Any

from openqwq.serve.protocol import ApiError
from openqwq.text.tokenizer import Tokenizer

# Both in tokens. MOST is as much as leaves room for the answer.
MOST = 2**31
EFFORTS = {
    "none": 0,
    "minimal": 256,
    "low": 1024,
    "medium": 8192,
    "high": MOST,
    "xhigh": MOST,
    "max": MOST,
}
_WORDS = {"none": "low", "minimal": "low", "xhigh": "high", "max": "high"}  # of gpt-oss
_OURS = {"messages", "tools", "add_generation_prompt"}  # variables of every chat template
LEAST_ANSWER = 8  # tokens to close the thinking and to say something
# kept for the answer next to a thinking budget, or a quarter of a small limit
ANSWER_TOKENS = 1024


def thinking_budget(body: Mapping[str, Any], max_tokens: int) -> int | None:
    """Thinking tokens after which the thinking is closed; None where the request sets no limit.

    None, too, where it forbids the thinking and leaves no room to close one. Raises ApiError where
    two spellings disagree, or a budget leaves no room for an answer.
    """
    wanted = dict(_spelled(body))
    if len(set(wanted.values())) > 1:
        fields = " and ".join(wanted)
        raise ApiError(
            400, f"{fields} ask for different amounts of thinking: give one", fields
        )
    if not wanted:
        return None
    (budget,) = set(wanted.values())
    if max_tokens <= LEAST_ANSWER:
        if budget == 0:
            return None
        text = (
            f"max_tokens is {max_tokens}: a thinking budget needs more than {LEAST_ANSWER}"
        )
        raise ApiError(400, text, "max_tokens")
    reserved = max(LEAST_ANSWER, min(ANSWER_TOKENS, max_tokens // 4))
    return min(budget, max_tokens - reserved)


def forbids_thinking(body: Mapping[str, Any]) -> bool:
    """Whether the request wants no thinking at all."""
    return {tokens for _, tokens in _spelled(body)} == {0}


def hides_thinking(body: Mapping[str, Any]) -> bool:
    """Whether the thinking is to be left out of the reply."""
    if body.get("include_reasoning") is False:
        return True
    return bool((body.get("reasoning") or {}).get("exclude"))


def template_options(tokenizer: Tokenizer, body: Mapping[str, Any]) -> dict[str, Any]:
    """The variables that the request sets for the chat template, `enable_thinking` above all.

    Raises ApiError for one that the server itself sets.
    """
    options = dict(body.get("chat_template_kwargs") or {})
    for name in _OURS & options.keys():
        where = f"chat_template_kwargs.{name}"
        raise ApiError(400, f"{where} is set by the server: leave it out", where)
    if forbids_thinking(body):
        options.setdefault("enable_thinking", False)
    elif body.get("enable_thinking"):
        options.setdefault("enable_thinking", True)
    if tokenizer.writes_channels:
        return {**_channel_effort(body), **options}
    return options


def _channel_effort(body: Mapping[str, Any]) -> dict[str, Any]:
    """The effort as gpt-oss' template asks for it in words, which goes with the budget."""
    effort = body.get("reasoning_effort") or (body.get("reasoning") or {}).get("effort")
    if forbids_thinking(body):
        effort = "none"
    if effort is None:
        return {}
    return {"reasoning_effort": _WORDS.get(effort, effort)}


def _spelled(body: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Each (field, thinking tokens) that the request gives."""
    if (effort := body.get("reasoning_effort")) is not None:
        yield "reasoning_effort", EFFORTS[effort]
    if (budget := body.get("thinking_budget")) is not None:
        yield "thinking_budget", budget
    reasoning = body.get("reasoning") or {}
    if reasoning.get("effort") is not None:
        yield "reasoning.effort", EFFORTS[reasoning["effort"]]
    if reasoning.get("max_tokens") is not None:
        yield "reasoning.max_tokens", reasoning["max_tokens"]
    if reasoning.get("enabled") is False:
        yield "reasoning.enabled", 0
    thinking = body.get("thinking") or {}
    if thinking.get("type") == "disabled":
        yield "thinking.type", 0
    elif thinking.get("budget_tokens") is not None:
        yield "thinking.budget_tokens", thinking["budget_tokens"]
    if body.get("enable_thinking") is False:
        yield "enable_thinking", 0
    options = body.get("chat_template_kwargs") or {}
    for name in ("enable_thinking", "thinking"):
        if options.get(name) is False:
            yield f"chat_template_kwargs.{name}", 0
