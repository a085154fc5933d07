"""From a checked chat request to what the model is asked: messages, tools, budgets, grammar."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema_rs

from openqwq.engine.open import OpenedModel
from openqwq.serve.history import messages
from openqwq.serve.protocol import ApiError
from openqwq.serve.reply import Ask
from openqwq.serve.schemas import require_usable
from openqwq.serve.thinking import template_options, thinking_budget
from openqwq.text.grammar import answer_grammar, json_grammar, tool_call_grammar
from openqwq.text.template import encode_chat
from openqwq.types import SamplingParams

LEAST_TEMPERATURE = 0.0001  # below it the draws are greedy
_SAME = (
    *("temperature", "top_p", "top_k", "min_p"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)  # sampling parameters that requests and engines call by the same name


def ask_chat(model: OpenedModel, body: Mapping[str, Any]) -> Ask:
    """The ask of a ChatRequest; raises ApiError or OpenQwQError for what does not fit together."""
    tools, choice, forced = _tools(body)
    turns, options = messages(body["messages"]), template_options(body)
    prompt_ids = encode_chat(model.tokenizer, turns, tools, options=options)
    older, newer = body.get("max_tokens"), body.get("max_completion_tokens")
    if older and newer and older != newer:
        raise ApiError(400, "max_tokens and max_completion_tokens differ: give one", "max_tokens")
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        raise ApiError(400, "top_logprobs needs logprobs: true", "top_logprobs")
    max_tokens = require_room(model, len(prompt_ids), newer or older)
    parallel = body.get("parallel_tool_calls", True)
    grammar = _grammar(model, body, tools, choice, forced, parallel)
    if grammar and body.get("ignore_eos"):
        raise ApiError(400, "ignore_eos: an answer of a set form ends by itself", "ignore_eos")
    if grammar:  # here, in a thread: the engine would refuse it once a stream has begun
        answer_grammar(model.tokenizer, grammar)
    params = sampling(
        model,
        body,
        max_tokens,
        thinking_budget=thinking_budget(body, max_tokens),
        grammar=grammar,
        log_probs=body.get("logprobs", False),
        top_log_probs=body.get("top_logprobs", 0),
    )
    functions = [tool["function"] for tool in tools]
    checks = {f["name"]: arguments_check(f) if f.get("strict") else None for f in functions}
    return Ask(prompt_ids, params, body.get("n", 1), stops(body), checks, not parallel)


def sampling(
    model: OpenedModel, body: Mapping[str, Any], max_tokens: int, **more: Any
) -> SamplingParams:
    """The sampling parameters that every API spells the same way."""
    given = {name: body[name] for name in _SAME if name in body}
    if given.get("temperature", 1) < LEAST_TEMPERATURE:
        given["temperature"] = 0  # clients that want greedy draws and may not say 0 ask so
    given["top_k"] = max(0, given.get("top_k", SamplingParams.top_k))  # -1 is off elsewhere
    bias = body.get("logit_bias", {})
    given["logit_bias"] = tuple((int(token_id), value) for token_id, value in bias.items())
    require_known(model, [token_id for token_id, _ in given["logit_bias"]], "logit_bias")
    seed = body.get("seed", secrets.randbits(62))
    endless = body.get("ignore_eos", False)
    loops = body.get("stop_loops", not endless)
    ends = () if endless else model.tokenizer.eos_ids
    given["adapter"] = model.name if model.name in model.adapters else ""
    return SamplingParams(
        **given, max_tokens=max_tokens, stop_token_ids=ends, seed=seed, stop_loops=loops, **more
    )


def stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The stop texts of a request."""
    stop = body.get("stop", ())
    return (stop,) if isinstance(stop, str) else tuple(stop)


def require_room(model: OpenedModel, prompt_tokens: int, max_tokens: int | None) -> int:
    """The most tokens a reply may have: as many as it asks for, or the context leaves.

    Raises ApiError where the prompt leaves none, saying how many tokens are too many.
    """
    context = model.context_length
    room = context - prompt_tokens
    if room < 1:
        raise ApiError(
            400,
            f"{1 - room} tokens too many for a context of {context}: the prompt has "
            f"{prompt_tokens} and a reply at least 1; shorten the prompt",
            "messages",
            "context_length_exceeded",
        )
    return room if max_tokens is None else min(max_tokens, room)


def require_known(model: OpenedModel, ids: Sequence[int], param: str) -> None:
    """Raise ApiError naming the first of `ids` that is no token."""
    tokenizer = model.tokenizer
    unknown = next((i for i in dict.fromkeys(ids) if not tokenizer.token_bytes(i)), None)
    if unknown is not None:
        text = f"token id {unknown} is outside the vocabulary of {tokenizer.vocab_size}"
        raise ApiError(400, text, param)


def arguments_check(function: Mapping[str, Any]) -> Any:
    """What tells whether arguments follow a function's schema; ApiError if that is no schema."""
    schema = function.get("parameters") or {"type": "object"}
    try:
        return jsonschema_rs.validator_for(schema, retriever=_no_retrieval)
    except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        name = function["name"]
        raise ApiError(400, f"the schema of tool {name!r} is invalid: {error}", "tools") from error


def _no_retrieval(uri: str) -> Any:
    raise ValueError(f"schemas are not fetched: {uri}")


def _tools(body: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str, str | None]:
    """The tools the model is shown, the choice (none, auto, required), the one forced by name."""
    given = [tool["function"] for tool in body.get("tools", [])]
    functions = [{k: v for k, v in function.items() if v is not None} for function in given]
    tools: list[dict[str, Any]] = [{"type": "function", "function": f} for f in functions]
    names = [function["name"] for function in functions]
    if len(set(names)) < len(names):
        raise ApiError(400, f"tools share a name among {sorted(names)}: rename one", "tools")
    choice: Any = body.get("tool_choice", "auto" if tools else "none")
    forced: str | None = None
    if isinstance(choice, dict):
        choice, forced = "required", choice["function"]["name"]
        if forced not in names:
            raise ApiError(
                400, f"tool_choice names {forced!r}, not a tool of {names}", "tool_choice"
            )
    elif choice == "required" and not tools:
        raise ApiError(400, f"tool_choice is {choice!r} but there are no tools", "tool_choice")
    return ([] if choice == "none" else tools), choice, forced


def _grammar(
    model: OpenedModel,
    body: Mapping[str, Any],
    tools: Sequence[dict[str, Any]],
    choice: str,
    forced: str | None,
    parallel: bool,
) -> str | None:
    form = body.get("response_format", {"type": "text"})
    schema: dict[str, Any] | None = {"type": "object"}
    if form["type"] != "json_object":
        schema = form["json_schema"]["schema"] if form["type"] == "json_schema" else None
    if choice != "required" and schema is None:
        return None
    if schema is not None:
        require_usable(schema, "response_format")
    if not tools:
        assert schema is not None
        return json_grammar(schema)
    named = [tool for tool in tools if forced in (None, tool["function"]["name"])]
    for tool in named:
        require_usable(tool["function"].get("parameters") or {}, "tools")
    answer = None if choice == "required" else schema
    return tool_call_grammar(model.tokenizer, named, parallel and forced is None, answer)
