"""From a checked chat request to what the model is asked: messages, tools, budgets, grammar."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema_rs

from openqwq.engine.open import OpenedModel
from openqwq.serve.asking_tools import ToolChoice, chosen_tools
from openqwq.serve.history import messages
from openqwq.serve.protocol import ApiError
from openqwq.serve.reply import Ask, OfferedTool
from openqwq.serve.schemas import in_json_schema, require_usable, without_null_keywords
from openqwq.serve.thinking import (
    forbids_thinking,
    template_options,
    thinking_budget,
)
from openqwq.serve.truncation import shortened
from openqwq.text.grammar import answer_grammar, json_grammar, tool_call_grammar
from openqwq.text.stream import closing_ids, starts_in_thinking
from openqwq.text.template import encode_chat
from openqwq.types import SamplingParams

REPLY_TOKENS = 1024  # that truncation leaves room for where a request sets no limit
NO_LIMIT = -1  # of tokens, as clients of llama.cpp and LM Studio write it
LIMITS = ("max_tokens", "max_completion_tokens", "n_predict")
LEAST_TEMPERATURE = 0.0001  # below it the draws are greedy
# Sampling parameters that requests and engines call by the same name.
_SAME = {
    "frequency_penalty",
    "min_p",
    "presence_penalty",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
}


def ask_chat(model: OpenedModel, body: Mapping[str, Any]) -> Ask:
    """The ask of a ChatRequest; raises ApiError or OpenQwQError for what does not fit together."""
    choice = chosen_tools(body)
    prompt_ids = _prompt(model, body, choice.tools)
    if body.get("top_logprobs") and not body.get("logprobs"):
        raise ApiError(400, "top_logprobs needs logprobs: true", "top_logprobs")
    max_tokens = require_room(model, len(prompt_ids), token_limit(body))
    parallel = body.get("parallel_tool_calls", True)
    grammar = _grammar(model, body, choice, parallel)
    if grammar and body.get("ignore_eos"):
        raise ApiError(
            400,
            "ignore_eos does not go with a prescribed form: such an answer ends by itself",
            "ignore_eos",
        )
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
        may_call=bool(choice.tools),
    )
    return Ask(
        prompt_ids,
        params,
        body.get("n", 1),
        stops(body),
        _offered(choice.tools),
        one_call=not parallel,
        partial_calls=body.get("stream", False),
    )


def chat_prompt(model: OpenedModel, body: Mapping[str, Any]) -> list[int]:
    """The prompt of a ChatRequest, however long; ApiError or OpenQwQError where there is none."""
    return _prompt(model, body, chosen_tools(body).tools)


def shortened_chat(model: OpenedModel, body: Mapping[str, Any]) -> dict[str, Any]:
    """The ChatRequest whose oldest turns have left until the prompt fits and a reply has room."""
    tools = chosen_tools(body).tools
    context = model.context_length
    wanted: int = body.get("max_completion_tokens", REPLY_TOKENS)
    most = context - min(wanted, context // 4)

    def fits(turns: list[dict[str, Any]]) -> bool:
        prompt_ids = _prompt(model, {**body, "messages": turns}, tools)
        return len(prompt_ids) <= most

    return {**body, "messages": shortened(body["messages"], fits)}


def _prompt(
    model: OpenedModel, body: Mapping[str, Any], tools: Sequence[dict[str, Any]]
) -> list[int]:
    """The chat as the template writes it; a thinking that nobody wants is closed at its end."""
    own = model.tokenizer
    options = template_options(own, body)
    prompt_ids = encode_chat(own, messages(body["messages"]), tools, options=options)
    if forbids_thinking(body) and starts_in_thinking(own, prompt_ids):
        return [*prompt_ids, *closing_ids(own)]
    return prompt_ids


def sampling(
    model: OpenedModel, body: Mapping[str, Any], max_tokens: int, **more: Any
) -> SamplingParams:
    """The sampling parameters that every API spells the same way."""
    given = {name: value for name, value in body.items() if name in _SAME}
    if given.get("temperature", 1) < LEAST_TEMPERATURE:
        given["temperature"] = 0  # clients that want greedy draws and may not say 0 ask so
    given["top_k"] = max(0, given.get("top_k", SamplingParams.top_k))  # -1 is off elsewhere
    bias = {int(token_id): value for token_id, value in body.get("logit_bias", {}).items()}
    require_known(model, [*bias], "logit_bias")
    given["logit_bias"] = tuple(bias.items())
    given["max_tokens"] = max_tokens
    given["seed"] = body.get("seed", secrets.randbits(62))
    endless = body.get("ignore_eos", False)
    given["stop_loops"] = body.get("stop_loops", not endless)
    if not endless:
        given["stop_token_ids"] = model.tokenizer.eos_ids
    given["adapter"] = adapter_of(model)
    return SamplingParams(**given, **more)


def adapter_of(model: OpenedModel) -> str:
    """The adapter that the model's name asks for; "" for none."""
    if model.name in model.adapters:
        return model.name
    return ""


def stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The stop texts of a request."""
    stop = body.get("stop", ())
    if isinstance(stop, str):
        return (stop,)
    return tuple(stop)


def token_limit(body: Mapping[str, Any], default: int = NO_LIMIT) -> int | None:
    """The most tokens that a reply may have; None where a request sets no limit, or says -1.

    Raises ApiError where two of the field's names disagree.
    """
    given = {name: body[name] for name in LIMITS if name in body}
    limits = set(given.values())
    if len(limits) > 1:
        names = " and ".join(given)
        raise ApiError(400, f"{names} differ: give one", next(iter(given)))
    limit = limits.pop() if limits else default
    return None if limit == NO_LIMIT else limit


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
    if max_tokens is None:
        return room
    return min(max_tokens, room)


def require_known(model: OpenedModel, ids: Sequence[int], param: str) -> None:
    """Raise ApiError naming the first of `ids` that is not a token."""
    for token_id in dict.fromkeys(ids):
        if not model.tokenizer.token_bytes(token_id):
            size = model.tokenizer.vocab_size
            text = f"token id {token_id} is outside the vocabulary of {size}"
            raise ApiError(400, text, param)


def arguments_check(function: Mapping[str, Any]) -> Any:
    """What tells whether arguments follow a function's schema; ApiError if that is not a schema."""
    schema = in_json_schema(function.get("parameters") or {"type": "object"}, "tools")
    try:
        return jsonschema_rs.validator_for(schema, retriever=_no_retrieval)
    except (
        ValueError,
        jsonschema_rs.ValidationError,
        jsonschema_rs.ReferencingError,
    ) as error:
        name = function["name"]
        raise ApiError(
            400, f"the schema of tool {name!r} is invalid: {error}", "tools"
        ) from error


def _offered(tools: Sequence[Mapping[str, Any]]) -> dict[str, OfferedTool]:
    offered: dict[str, OfferedTool] = {}
    for tool in tools:
        function = tool["function"]
        check: Any = None
        if function.get("strict"):
            check = arguments_check(function)
        offered[function["name"]] = OfferedTool(function.get("parameters") or {}, check)
    return offered


def _no_retrieval(uri: str) -> Any:
    raise ValueError(f"schemas are not fetched: {uri}")


def _grammar(
    model: OpenedModel, body: Mapping[str, Any], choice: ToolChoice, parallel: bool
) -> str | None:
    """What the answer must follow; None where it is free."""
    schema = _answer_schema(body)
    if schema is None and not choice.demanded:
        return None
    if not choice.tools:
        assert schema is not None
        return json_grammar(schema)
    callable_tools: list[dict[str, Any]] = []
    for tool in choice.tools:
        if choice.name in (None, tool["function"]["name"]):
            function = tool["function"]
            parameters = in_json_schema(function.get("parameters") or {}, "tools")
            require_usable(parameters, "tools")
            callable_tools.append({**function, "parameters": parameters})
    if choice.demanded:
        schema = None  # a call, and no answer in its place
    one = choice.name is not None or not parallel
    return tool_call_grammar(model.tokenizer, callable_tools, not one, schema)


def _answers(given: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an answer, once it is known to be of use."""
    schema = in_json_schema(
        without_null_keywords(given, "response_format"), "response_format"
    )
    require_usable(schema, "response_format")
    return schema


def _answer_schema(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema of the answer that the request asks for; None for plain text."""
    match body.get("response_format", {"type": "text"}):
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return _answers(schema)
        case {"type": "json_object", "schema": dict(schema)}:
            return _answers(schema)
        case {"type": "json_object"}:
            return {"type": "object"}
    return None
