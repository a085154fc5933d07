"""Tools from functions and their calls: whatever a tool does, the model gets text it can use."""

import asyncio
import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from openqwq.agent.approval import Approval, Permission
from openqwq.agent.call import CallLimits, CallResult, clean, run_calls
from openqwq.agent.tools import by_name, check_arguments, tool
from openqwq.text.schema import specification
from openqwq.types import OpenQwQError, Tool, ToolCall


def book(
    city: str,
    nights: int,
    guests: list[str] | None = None,
    room: Literal["single", "double"] = "single",
    extras: Mapping[str, float] = {},
) -> str:
    """Book a room.

    For members only.

    Args:
        city: where to
            stay
        nights: how many
    """
    return f"{city} {nights} {guests} {room} {dict(extras)}"


def test_a_functions_signature_and_docstring_become_a_schema() -> None:
    assert specification(book) == {
        "type": "function",
        "function": {
            "name": "book",
            "description": "Book a room. For members only.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "where to stay"},
                    "nights": {"type": "integer", "description": "how many"},
                    "guests": {
                        "anyOf": [
                            {"type": "array", "items": {"type": "string"}},
                            {"type": "null"},
                        ]
                    },
                    "room": {"enum": ["single", "double"]},
                    "extras": {
                        "type": "object",
                        "additionalProperties": {"type": "number"},
                    },
                },
                "required": ["city", "nights"],
                "additionalProperties": False,
            },
        },
    }
    assert tool(book).specification() == specification(book)


def undocumented(a: int) -> int:
    return a


def untyped(a) -> int:  # type: ignore[no-untyped-def]
    """Untyped."""
    return 1


def strange(a: set[int]) -> int:
    """Strange."""
    return 1


def open_ended(*names: str) -> int:
    """Open."""
    return 1


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (undocumented, "tool 'undocumented' has no docstring"),
        (untyped, "argument 'a' of tool 'untyped' has no type"),
        (strange, r"argument 'a' of tool 'strange' is of type set\[int\]"),
        (open_ended, "argument 'names' of tool 'open_ended' has no type"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_refused_by_name(
    function: Any, problem: str
) -> None:
    with pytest.raises(OpenQwQError, match=problem):
        tool(function)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"city": "Rome"}, "'nights' is a required property"),
        ({"city": "Rome", "nights": "2"}, "argument 'nights' of book is '2'.*integer"),
        ({"city": "Rome", "nights": True}, "argument 'nights' of book is True"),
        (
            {"city": "Rome", "nights": 2, "room": "royal"},
            "'room' of book is 'royal'.*double",
        ),
        (
            {"city": "Rome", "nights": 2, "pets": 1},
            "'pets' was unexpected.*are city, nights",
        ),
        ({"city": "Rome", "nights": 2, "guests": ["a", 3]}, r"'guests'\[1\] of book is 3"),
    ],
)
def test_a_bad_argument_is_named_with_its_value_and_what_to_give(
    arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(OpenQwQError, match=problem):
        check_arguments(tool(book), arguments)


def test_good_arguments_pass() -> None:
    check_arguments(
        tool(book), {"city": "Rome", "nights": 2, "guests": None, "room": "double"}
    )


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(OpenQwQError, match="two tools are named 'book'"):
        by_name([tool(book), tool(book)])


async def one(function: Any, seconds: float = 5.0, **arguments: Any) -> CallResult:
    made = tool(function)
    call = ToolCall(name=made.name, arguments=arguments)
    (result,) = await run_calls({made.name: made}, [call], limits=CallLimits(seconds, 1000))
    return result


def raising() -> str:
    """Raise."""
    raise ValueError("no such thing")


def leaving() -> str:
    """Leave."""
    raise SystemExit(3)


async def raising_later() -> str:
    """Raise."""
    raise KeyError("x")


async def cancelling() -> str:
    """Cancel."""
    raise asyncio.CancelledError


def invalid_bytes() -> bytes:
    """Bytes."""
    return b"caf\xe9 \xff"


def surrogates() -> str:
    """Surrogates."""
    return "a\ud800b"


def data() -> Any:
    """Data."""
    return {"é": [1, None, {1}]}


@pytest.mark.parametrize(
    ("function", "status", "text"),
    [
        (raising, "failed", "error: ValueError: no such thing"),
        (leaving, "failed", "error: SystemExit: 3"),
        (raising_later, "failed", "error: KeyError: 'x'"),
        (cancelling, "failed", "error: it was cancelled"),
        (invalid_bytes, "ok", "caf\ufffd \ufffd"),
        (surrogates, "ok", "a\ufffdb"),
        (data, "ok", '{"é": [1, null, "{1}"]}'),
    ],
)
async def test_whatever_a_tool_returns_or_raises_is_text(
    function: Any, status: str, text: str
) -> None:
    result = await one(function)
    assert (result.status, result.text) == (status, text)
    json.dumps(result.message()).encode()


async def test_megabytes_are_cut_in_the_middle_with_a_note_of_how_much() -> None:
    def flood() -> str:
        """Flood."""
        return "a" * 2_000_000 + "z" * 2_000_000

    text = (await one(flood)).text
    assert text.startswith("aaa") and text.endswith("zzz") and len(text) < 1100
    assert "3,999,000 of 4,000,000 characters left out" in text


def test_text_of_just_the_allowed_length_is_left_whole() -> None:
    assert clean("x" * 10, 10) == "x" * 10
    assert clean("\x1b[2Jhi\r\n\tyou\x00\x9b", 99) == "\ufffd[2Jhi\ufffd\n\tyou\ufffd\ufffd"


async def test_a_blocking_tool_that_hangs_is_given_up_and_the_loop_stays_free() -> None:
    release = threading.Event()

    def block() -> str:
        """Block."""
        release.wait(30)
        return ""

    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    ticking = asyncio.create_task(tick())
    result = await one(block, seconds=0.3)
    ticking.cancel()
    release.set()
    assert result.status == "timeout" and "longer than 0.3 s" in result.text
    assert ticks > 5


async def test_a_plain_function_has_a_thread_of_its_own_unless_it_is_quick() -> None:
    def thread() -> bool:
        """Where."""
        return threading.current_thread() is threading.main_thread()

    assert await tool(thread).call({}) == "false"
    assert await tool(thread, threaded=False).call({}) == "true"


async def test_a_tool_that_refuses_to_be_cancelled_is_not_waited_for() -> None:
    released = asyncio.Event()

    async def stubborn() -> str:
        """Go on."""
        while not released.is_set():
            try:
                await asyncio.wait_for(released.wait(), 30)
            except asyncio.CancelledError:
                continue
        return "done"

    started = time.monotonic()
    assert (await one(stubborn, seconds=0.1)).status == "timeout"
    assert time.monotonic() - started < 25  # it would wait for 30
    released.set()
    await asyncio.sleep(0.05)


async def test_results_keep_the_order_of_the_calls_and_malformed_ones_come_last() -> None:
    async def wait(seconds: float) -> float:
        """Wait."""
        await asyncio.sleep(seconds)
        return seconds

    tools = by_name([tool(wait)])
    calls: Sequence[ToolCall] = [
        {"name": "wait", "arguments": {"seconds": s}} for s in (0.2, 0.0, 0.1)
    ]
    results = await run_calls(tools, calls, ["[1]"])
    assert [result.text for result in results[:3]] == ["0.2", "0.0", "0.1"]
    assert results[3].status == "malformed" and "it is [1]" in results[3].text


async def test_arguments_nested_too_deeply_are_refused_and_not_run() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    result = await one(book, city="Rome", nights=value)
    assert result.status == "invalid"


def test_a_schema_that_refers_elsewhere_is_refused_and_nothing_is_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fetch(*_: Any, **__: Any) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr("urllib.request.urlopen", fetch)
    foreign = Tool("f", "", {"$ref": "http://127.0.0.1:9/schema"}, call=tool(book).call)
    with pytest.raises(OpenQwQError, match="schema of f refers to 'http://127"):
        check_arguments(foreign, {})
    local = {
        "$defs": {"n": {"type": "integer"}},
        "properties": {"a": {"$ref": "#/$defs/n"}},
    }
    check_arguments(Tool("g", "", local, call=tool(book).call), {"a": 1})


ACTING = Tool(
    "send", "Sends.", {"type": "object"}, call=lambda _: asyncio.sleep(0, "sent"), acts=True
)
READING = Tool(
    "look", "Looks.", {"type": "object"}, call=lambda _: asyncio.sleep(0, "seen")
)


async def statuses(approval: Approval, *names: str) -> list[str]:
    calls: list[ToolCall] = [{"name": name, "arguments": {}} for name in names]
    results = await run_calls(by_name([ACTING, READING]), calls, approve=approval)
    return [result.status for result in results]


async def test_without_a_person_only_allowed_tools_may_act() -> None:
    assert await statuses(Approval(), "send", "look") == ["denied", "ok"]
    assert await statuses(Approval({"send"}), "send", "look") == ["ok", "ok"]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["yes", "no"], ["ok", "denied"]),
        (["no", "yes"], ["denied", "ok"]),
        (["always"], ["ok", "ok"]),
    ],
)
async def test_a_person_decides_each_acting_call(
    answers: list[Permission], expected: list[str]
) -> None:
    left = iter(answers)

    async def ask(tool: Tool, arguments: Mapping[str, Any]) -> Permission:
        assert tool is ACTING
        return next(left)

    assert await statuses(Approval(ask=ask), "send", "look", "send") == [
        expected[0],
        "ok",
        expected[1],
    ]
