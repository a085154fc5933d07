"""What a chat request becomes: budgets, efforts, tool choice, tool results, overflow."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import tokenizers

from openqwq.engine.open import OpenedModel
from openqwq.serve.asking import ask_chat
from openqwq.serve.asking_completions import ask_completion
from openqwq.serve.history import messages
from openqwq.serve.protocol import ApiError
from openqwq.serve.thinking import ANSWER_TOKENS, EFFORTS
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer

Build = Callable[..., OpenedModel]
USER = {"role": "user", "content": "hi"}
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
SUB = {"type": "function", "function": {"name": "sub"}}


def call(name: str, call_id: str, arguments: str = "{}") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def test_efforts_are_budgets_that_leave_room_for_an_answer(scripted: Build) -> None:
    model = scripted(context=100_000)
    for effort, budget in EFFORTS.items():
        for limit in (40, 4000, 60_000):
            body = {"messages": [USER], "reasoning_effort": effort, "max_tokens": limit}
            params = ask_chat(model, body).params
            room = limit - max(8, min(ANSWER_TOKENS, limit // 4))
            assert params.thinking_budget == min(budget, room)
    assert ask_chat(model, {"messages": [USER]}).params.thinking_budget is None
    exact = {"messages": [USER], "thinking_budget": 7, "max_tokens": 100}
    assert ask_chat(model, exact).params.thinking_budget == 7


def test_loops_are_stopped_unless_the_request_lets_them(scripted: Build) -> None:
    assert ask_chat(scripted(), {"messages": [USER]}).params.stop_loops
    body = {"messages": [USER], "stop_loops": False}
    assert not ask_chat(scripted(), body).params.stop_loops
    endless = {"messages": [USER], "ignore_eos": True}
    assert not ask_chat(scripted(), endless).params.stop_loops
    assert ask_chat(scripted(), {**endless, "stop_loops": True}).params.stop_loops


def test_the_default_limit_is_what_the_context_leaves(scripted: Build) -> None:
    model = scripted(context=500)
    ask = ask_chat(model, {"messages": [USER]})
    assert ask.params.max_tokens == 500 - len(ask.prompt_ids)


@pytest.mark.parametrize("limit", [None, 30])
def test_overflow_says_how_many_tokens_over(scripted: Build, limit: int | None) -> None:
    prompt = encode_chat(scripted().tokenizer, [USER])  # type: ignore[list-item]
    body = {"messages": [USER], "max_tokens": limit}
    with pytest.raises(
        ApiError, match=rf"^4 tokens too many for a context of {len(prompt) - 3}"
    ) as got:
        ask_chat(scripted(context=len(prompt) - 3), body)
    assert got.value.code == "context_length_exceeded"


def test_a_limit_above_the_room_is_cut_to_it(scripted: Build) -> None:
    ask = ask_chat(scripted(context=500), {"messages": [USER], "max_tokens": 32_000})
    assert ask.params.max_tokens == 500 - len(ask.prompt_ids)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_minus_one_is_no_limit(scripted: Build, name: str) -> None:
    ask = ask_chat(scripted(context=500), {"messages": [USER], name: -1})
    assert ask.params.max_tokens == 500 - len(ask.prompt_ids)


def test_minus_one_is_no_limit_of_a_completion(scripted: Build) -> None:
    body = {"prompt": "the fox", "n_predict": -1}
    (ask,) = ask_completion(scripted(context=500), body)
    assert ask.params.max_tokens == 500 - len(ask.prompt_ids)


def test_llamacpps_name_of_max_tokens_limits_a_reply(scripted: Build) -> None:
    ask = ask_chat(scripted(), {"messages": [USER], "n_predict": 7})
    assert ask.params.max_tokens == 7


SPELLINGS: list[tuple[dict[str, Any], int | None]] = [
    ({"reasoning_effort": "minimal"}, 256),
    ({"reasoning": {"effort": "low"}}, 1024),
    ({"reasoning": {"max_tokens": 77}}, 77),
    ({"reasoning": {"enabled": False}}, 0),
    ({"reasoning": {"enabled": True}}, None),
    ({"thinking": {"type": "enabled", "budget_tokens": 99}}, 99),
    ({"thinking": {"type": "disabled"}}, 0),
    ({"thinking": {"type": "adaptive"}}, None),
    ({"enable_thinking": False}, 0),
    ({"enable_thinking": True, "thinking_budget": 50}, 50),
    ({"chat_template_kwargs": {"enable_thinking": False}}, 0),
    ({"chat_template_kwargs": {"thinking": False}}, 0),
    ({"reasoning_effort": "low", "thinking_budget": 1024}, 1024),
]


@pytest.mark.parametrize(("more", "budget"), SPELLINGS, ids=str)
def test_a_thinking_budget_is_understood_in_every_spelling(
    scripted: Build, more: dict[str, Any], budget: int | None
) -> None:
    ask = ask_chat(scripted(context=20_000), {"messages": [USER], **more})
    assert ask.params.thinking_budget == budget


@pytest.mark.parametrize("given", [0, 1e-6, 1e-40])
def test_a_temperature_next_to_nothing_is_greedy(scripted: Build, given: float) -> None:
    body = {"messages": [USER], "temperature": given, "top_k": -1}
    params = ask_chat(scripted(), body).params
    assert (params.temperature, params.top_k) == (0, 0)


def test_penalties_and_a_bias_reach_the_engine(scripted: Build) -> None:
    body = {"presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.1}
    ask = ask_chat(
        scripted(), {"messages": [USER], **body, "logit_bias": {"5": -100, "6": 1}}
    )
    for name, value in body.items():
        assert getattr(ask.params, name) == value
    assert ask.params.logit_bias == ((5, -100), (6, 1))


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"max_tokens": 5, "max_completion_tokens": 6}, "differ"),
        ({"max_tokens": -1, "n_predict": 6}, "max_tokens and n_predict differ"),
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"reasoning_effort": "low", "thinking_budget": 5}, "give one"),
        ({"tools": [ADD, ADD]}, "share a name"),
        ({"tool_choice": "required"}, "no tools"),
        ({"tools": [ADD], "tool_choice": {"function": {"name": "zzz"}}}, "names 'zzz'"),
        ({"max_tokens": 8, "thinking_budget": 2}, "needs more than 8"),
        (
            {"ignore_eos": True, "response_format": {"type": "json_object"}},
            "ends by itself",
        ),
    ],
)
def test_parameters_that_do_not_fit_together_are_refused(
    scripted: Build, more: dict[str, Any], text: str
) -> None:
    with pytest.raises(ApiError, match=text) as got:
        ask_chat(scripted(), {"messages": [USER], **more})
    assert got.value.status == 400 and got.value.param


def test_tool_choice_decides_what_is_shown_and_what_is_forced(scripted: Build) -> None:
    model = scripted()
    both = {"messages": [USER], "tools": [ADD, SUB]}

    def asked(choice: Any) -> tuple[bool, str | None, set[str]]:
        ask = ask_chat(model, {**both, "tool_choice": choice})
        shown = "# Tools" in model.tokenizer.decode(ask.prompt_ids)
        return shown, ask.params.grammar, set(ask.tools)

    assert asked("none") == (False, None, set())
    assert asked("auto") == (True, None, {"add", "sub"})
    shown, grammar, _ = asked("required")
    assert (
        shown
        and grammar
        and '\\"add\\"' in grammar
        and '\\"sub\\"' in grammar
        and ")*" in grammar
    )
    shown, grammar, names = asked({"function": {"name": "sub"}})
    assert shown and grammar and '\\"add\\"' not in grammar and ")*" not in grammar
    assert names == {"add", "sub"}


@pytest.mark.parametrize("name", ["required", "auto", "none"])
def test_a_tool_named_like_a_choice_can_be_forced(scripted: Build, name: str) -> None:
    function = {"name": name}
    tools = [SUB, {"type": "function", "function": function}]
    choice = {"type": "function", "function": function}
    ask = ask_chat(scripted(), {"messages": [USER], "tools": tools, "tool_choice": choice})
    assert ask.params.grammar and f'\\"{name}\\"' in ask.params.grammar
    assert '\\"sub\\"' not in ask.params.grammar and ")*" not in ask.params.grammar
    assert set(ask.tools) == {"sub", name}


def test_a_strict_tool_checks_its_arguments_and_fetches_nothing(scripted: Build) -> None:
    schema = {"type": "object", "required": ["a"]}
    strict = {
        "type": "function",
        "function": {"name": "f", "parameters": schema, "strict": True},
    }
    (tool,) = ask_chat(scripted(), {"messages": [USER], "tools": [strict]}).tools.values()
    check = tool.check
    assert check.is_valid({"a": 1}) and not check.is_valid({})
    strict["function"]["parameters"] = {"$ref": "http://127.0.0.1:9/schema.json"}  # type: ignore[index]
    with pytest.raises(ApiError, match="the schema of tool 'f' is invalid"):
        ask_chat(scripted(), {"messages": [USER], "tools": [strict]})


def test_tool_results_are_put_in_the_order_of_their_calls() -> None:
    turns = messages(
        [
            USER,
            {
                "role": "assistant",
                "tool_calls": [call("add", "1", '{"a": 2}'), call("sub", "2")],
            },
            {"role": "tool", "tool_call_id": "2", "content": "second"},
            {"role": "tool", "tool_call_id": "1", "content": "first"},
        ]
    )
    assert [turn["content"] for turn in turns[2:]] == ["first", "second"]
    assert turns[1]["tool_calls"][0] == {"name": "add", "arguments": {"a": 2}}


@pytest.mark.parametrize(
    ("turns", "text"),
    [
        ([{"role": "tool", "tool_call_id": "x", "content": ""}], "no unanswered call"),
        ([{"role": "assistant", "tool_calls": [call("a", "1")]}], "missing"),
        (
            [{"role": "assistant", "tool_calls": [call("a", "1")]}, USER],
            "before the results",
        ),
        (
            [{"role": "assistant", "tool_calls": [call("a", "1"), call("a", "1")]}],
            "share an id",
        ),
    ],
)
def test_calls_and_results_that_do_not_match_are_refused(
    turns: list[Any], text: str
) -> None:
    with pytest.raises(ApiError, match=text):
        messages([USER, *turns])


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_history_may_hold_thinking_which_the_template_drops(
    scripted: Build, field: str
) -> None:
    model = scripted()
    past = {"role": "assistant", "content": "yes", field: "secret thought"}
    (turn,) = messages([past])
    assert turn["reasoning_content"] == "secret thought"
    ask = ask_chat(model, {"messages": [USER, past, USER]})
    text = model.tokenizer.decode(ask.prompt_ids)
    assert "yes" in text and "secret" not in text


def test_parts_are_joined_and_developers_are_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turns = messages([{"role": "developer", "content": parts}])
    assert turns == [{"role": "system", "content": "ab"}]


def test_a_schema_that_cannot_be_enforced_is_refused(scripted: Build) -> None:
    form = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"type": "nonsense"}},
    }
    with pytest.raises(Exception, match="not usable"):
        ask_chat(scripted(), {"messages": [USER], "response_format": form})
    assert json.dumps(form)


QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)


@pytest.mark.parametrize(
    ("more", "closed"),
    [
        ({}, False),
        ({"chat_template_kwargs": {"enable_thinking": False}}, True),
        ({"chat_template_kwargs": {"enable_thinking": True}}, False),
        ({"reasoning_effort": "none"}, True),
        ({"reasoning_effort": "low"}, False),
        ({"thinking": {"type": "disabled"}}, True),
    ],
    ids=str,
)
def test_a_template_that_can_switch_the_thinking_off_is_told(
    scripted: Build, more: dict[str, Any], closed: bool
) -> None:
    model = scripted(context=20_000)
    config = {**model.tokenizer.config, "chat_template": QWEN3}
    backend = tokenizers.Tokenizer.from_str(model.tokenizer.backend_json())
    tokenizer = Tokenizer(backend, config, list(model.tokenizer.eos_ids), "a test")
    ask = ask_chat(replace(model, tokenizer=tokenizer), {"messages": [USER], **more})
    assert tokenizer.decode(ask.prompt_ids).endswith("</think>\n\n") == closed


def test_a_template_variable_of_ours_cannot_be_set(scripted: Build) -> None:
    body = {"messages": [USER], "chat_template_kwargs": {"messages": []}}
    with pytest.raises(ApiError, match="set by the server"):
        ask_chat(scripted(), body)
