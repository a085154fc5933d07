"""From a checked chat request to what the model is asked: messages, tools, budgets, grammar."""

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema_rs

from openqwq.engine.open import OpenedModel
from openqwq.serve.protocol import ApiError
from openqwq.serve.reply import Ask
from openqwq.serve.schemas import require_usable
from openqwq.text.grammar import AnswerGrammar, json_grammar, tool_call_grammar
from openqwq.text.template import encode_chat
from openqwq.types import Message, SamplingParams, ToolCall

EFFORTS = {"none": 0, "low": 1024, "medium": 8192, "high": 2**31}  # thinking tokens
LEAST_ANSWER = 8  # tokens to close the thinking and to say something
ANSWER_TOKENS = 1024  # kept for the answer beside a thinking budget, or a quarter of a small limit


def ask_chat(model: OpenedModel, body: Mapping[str, Any]) -> Ask:
    """The ask of a ChatRequest; raises ApiError or OpenQwQError for what does not fit together."""
    tools, choice, forced = _tools(body)
    prompt_ids = encode_chat(model.tokenizer, messages(body["messages"]), tools)
    older, newer = body.get("max_tokens"), body.get("max_completion_tokens")
    if older and newer and older != newer:
        raise ApiError(400, "max_tokens and max_completion_tokens differ: give one", "max_tokens")
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        raise ApiError(400, "top_logprobs needs logprobs: true", "top_logprobs")
    if "parallel_tool_calls" in body and not body.get("tools"):
        raise ApiError(400, "parallel_tool_calls needs tools", "parallel_tool_calls")
    max_tokens = require_room(model, len(prompt_ids), newer or older)
    parallel = body.get("parallel_tool_calls", True)
    grammar = _grammar(body, tools, choice, forced, parallel)
    if grammar and body.get("ignore_eos"):
        raise ApiError(400, "ignore_eos: an answer of a set form ends by itself", "ignore_eos")
    if grammar:  # here, in a thread: the engine would refuse it once a stream has begun
        AnswerGrammar(model.tokenizer, grammar)
    params = sampling(
        model,
        body,
        max_tokens,
        thinking_budget=_thinking_budget(model, body, max_tokens),
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
    given = {k: body[k] for k in ("temperature", "top_p", "top_k", "min_p") if k in body}
    seed = body.get("seed", secrets.randbits(62))
    endless = body.get("ignore_eos", False)
    loops = body.get("stop_loops", not endless)
    ends = () if endless else model.tokenizer.eos_ids
    return SamplingParams(
        **given, max_tokens=max_tokens, stop_token_ids=ends, seed=seed, stop_loops=loops, **more
    )


def stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The stop texts of a request."""
    stop = body.get("stop", ())
    return (stop,) if isinstance(stop, str) else tuple(stop)


def require_room(model: OpenedModel, prompt_tokens: int, max_tokens: int | None) -> int:
    """The most tokens a reply may have; ApiError says how many tokens are too many."""
    context = model.context_length
    wanted = prompt_tokens + (max_tokens or 1)
    if wanted > context:
        asked = f" and max_tokens {max_tokens}" if max_tokens else " and a reply at least 1"
        raise ApiError(
            400,
            f"{wanted - context} tokens too many for a context of {context}: the prompt has "
            f"{prompt_tokens}{asked}; shorten the prompt or lower max_tokens",
            "messages",
            "context_length_exceeded",
        )
    return max_tokens or context - prompt_tokens


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
    elif choice != "none" and not tools and "tool_choice" in body:
        raise ApiError(400, f"tool_choice is {choice!r} but there are no tools", "tool_choice")
    return ([] if choice == "none" else tools), choice, forced


def _grammar(
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
    return tool_call_grammar(named, parallel and forced is None, answer)


def _thinking_budget(model: OpenedModel, body: Mapping[str, Any], max_tokens: int) -> int | None:
    effort, budget = body.get("reasoning_effort"), body.get("thinking_budget")
    if effort is None and budget is None:
        return None
    if effort is not None and budget is not None:
        raise ApiError(400, "reasoning_effort and thinking_budget: give one", "thinking_budget")
    if model.tokenizer.think_close_id is None:
        if budget or effort != "none":
            raise ApiError(400, f"{model.name} does not think: leave it out", "reasoning_effort")
        return None
    if max_tokens <= LEAST_ANSWER:
        text = f"max_tokens is {max_tokens}: a thinking budget needs more than {LEAST_ANSWER}"
        raise ApiError(400, text, "max_tokens")
    reserved = max(LEAST_ANSWER, min(ANSWER_TOKENS, max_tokens // 4))
    return min(EFFORTS[effort] if effort else budget or 0, max_tokens - reserved)


def messages(raw: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Chat turns in the templates' form; tool results in the order of their calls.

    Templates show results without ids, so the order is all that tells them apart. Raises ApiError
    where calls and results do not match or arguments are no JSON object.
    """
    turns: list[Message] = []
    open_calls: list[str] = []
    results: dict[str, Message] = {}
    for place, message in enumerate(raw):
        where = f"messages[{place}]"
        if message["role"] == "tool":
            name = message["tool_call_id"]
            if name not in open_calls or name in results:
                text = f"{where}.tool_call_id is {name!r}: no unanswered call before it has that id"
                raise ApiError(400, text, f"{where}.tool_call_id")
            results[name] = {"role": "tool", "content": _text(message["content"])}
            if len(results) == len(open_calls):
                turns += [results[name] for name in open_calls]
                open_calls, results = [], {}
            continue
        if open_calls:
            missing = [name for name in open_calls if name not in results]
            raise ApiError(400, f"{where} comes before the results of calls {missing}", where)
        turn = _turn(message, where)
        turns.append(turn)
        if message["role"] == "assistant":
            open_calls = [call["id"] for call in message.get("tool_calls") or []]
            if len(set(open_calls)) < len(open_calls):
                raise ApiError(400, f"{where}.tool_calls share an id", f"{where}.tool_calls")
    if open_calls:
        missing = [name for name in open_calls if name not in results]
        raise ApiError(400, f"the results of calls {missing} are missing", "messages")
    return turns


def _turn(message: Mapping[str, Any], where: str) -> Message:
    content = _text(message.get("content"))
    if message["role"] != "assistant":
        return {"role": "user" if message["role"] == "user" else "system", "content": content}
    turn: Message = {"role": "assistant", "content": content}
    thinking = message.get("reasoning_content") or message.get("reasoning")
    if thinking:
        turn["reasoning_content"] = thinking
    calls = [_call(call["function"], where) for call in message.get("tool_calls") or []]
    if calls:
        turn["tool_calls"] = calls
    return turn


def _call(function: Mapping[str, Any], where: str) -> ToolCall:
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        text = f"{where}: the arguments of {function['name']!r} are no JSON object"
        raise ApiError(400, text, f"{where}.tool_calls")
    return {"name": function["name"], "arguments": arguments}


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part["text"] for part in content)
