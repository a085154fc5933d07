"""Running a model's tool calls: whatever goes wrong becomes text that the model can react to."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from openqwq.agent.progress import Progress, reporting
from openqwq.agent.tools import check_arguments, said
from openqwq.types import Message, OpenQwQError, Tool, ToolCall

CallStatus = Literal["ok", "malformed", "unknown", "invalid", "denied", "failed", "timeout"]
Approve = Callable[[Tool, Mapping[str, Any]], Awaitable[str]]
# Terminals obey control characters, and lone surrogates have no UTF-8: neither is passed on.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

LONGEST = 10  # times its seconds that a call may take while it tells of progress


@dataclass(frozen=True)
class CallLimits:
    """What one call may take, and how much of its result the model is shown."""

    seconds: float = 30.0  # without a word of progress, or ten times as long with it
    characters: int = 8000


DEFAULT_LIMITS = CallLimits()


@dataclass(frozen=True)
class CallResult:
    """What came of one call; `text` is what the model is shown, an error's too.

    `name` and `arguments` are empty where the call was malformed.
    """

    name: str
    arguments: Mapping[str, Any]
    text: str
    status: CallStatus
    seconds: float = 0.0

    def message(self) -> Message:
        """The tool turn to append; `encode_chat` keeps markers in it plain text."""
        return Message(role="tool", content=self.text)


async def run_calls(
    tools: Mapping[str, Tool],
    calls: Sequence[ToolCall],
    malformed_calls: Sequence[str] = (),
    limits: CallLimits = DEFAULT_LIMITS,
    approve: Approve | None = None,
    tell: Callable[[str], None] | None = None,
) -> list[CallResult]:
    """Run `calls` at the same time; one result for each in order, then one a malformed call.

    `tell` is given what calls say of their progress, which also lets them take longer.
    `approve` is asked for each valid call, one after the other, outside the time limit; what it
    returns is the reason to refuse, "" for none. Never raises for what a call or a tool does.
    """
    refused: list[CallResult | None] = [await _refuse(tools, call, approve) for call in calls]
    pending = [
        _settled(refusal) if refusal else _run(tools[call["name"]], call["arguments"], limits, tell)
        for call, refusal in zip(calls, refused, strict=True)
    ]
    results = list(await asyncio.gather(*pending))
    return results + [CallResult("", {}, _complaint(text), "malformed") for text in malformed_calls]


def clean(text: str, characters: int) -> str:
    """`text` without control characters, its middle cut out where it is longer than allowed."""
    if (surplus := len(text) - characters) > 0:
        head = characters * 3 // 4
        tail = text[len(text) - (characters - head) :] if characters > head else ""
        note = f"\n[... {surplus:,} of {len(text):,} characters left out ...]\n"
        return _UNPRINTABLE.sub("\ufffd", text[:head]) + note + _UNPRINTABLE.sub("\ufffd", tail)
    return _UNPRINTABLE.sub("\ufffd", text)


async def _settled(result: CallResult) -> CallResult:
    return result


async def _refuse(
    tools: Mapping[str, Tool], call: ToolCall, approve: Approve | None
) -> CallResult | None:
    """The result of a call that must not run, else None."""
    name, arguments = call["name"], call["arguments"]
    if name not in tools:
        known = ", ".join(tools) or "none"
        text = f"error: there is no tool {name!r:.100}; the tools are: {known}"
        return CallResult(name, arguments, clean(text, DEFAULT_LIMITS.characters), "unknown")
    try:
        check_arguments(tools[name], arguments)
    except (OpenQwQError, RecursionError) as error:
        return CallResult(
            name, arguments, clean(f"error: {error}", DEFAULT_LIMITS.characters), "invalid"
        )
    if approve and (reason := await approve(tools[name], arguments)):
        return CallResult(name, arguments, f"error: not allowed: {reason}", "denied")
    return None


async def _run(
    tool: Tool,
    arguments: Mapping[str, Any],
    limits: CallLimits,
    tell: Callable[[str], None] | None,
) -> CallResult:
    started = time.monotonic()
    progress = Progress(tell)
    with reporting(progress):
        task = asyncio.ensure_future(tool.call(arguments))
    task.add_done_callback(lambda late: late.cancelled() or late.exception())  # nobody may listen
    done: set[asyncio.Future[str]] = set()
    try:
        while not done:
            patience = progress.latest + limits.seconds
            end = min(patience, started + limits.seconds * LONGEST)
            left = end - time.monotonic()
            if left <= 0:
                break
            # Not `timeout`: a tool may refuse to be cancelled, and must not be waited for then.
            done, _ = await asyncio.wait({task}, timeout=left)
    finally:
        task.cancel()
    status: CallStatus = "ok"
    error = None if not done or task.cancelled() else task.exception()
    if not done:
        text = f"error: {tool.name} took longer than {limits.seconds:g} s and was stopped"
        status = "timeout"
    elif task.cancelled() or error:
        text = "error: " + (said(error) if error else "it was cancelled")
        status = "failed"
    else:
        text = task.result()
    shown = clean(text, limits.characters)
    return CallResult(tool.name, arguments, shown, status, time.monotonic() - started)


def _complaint(text: str) -> str:
    try:
        value = json.loads(text)
        problem = f"it is {value!r:.100}" if not isinstance(value, dict) else "a key is missing"
    except (ValueError, RecursionError) as error:
        problem = f"not JSON ({error})"
    form = '{"name": <function-name>, "arguments": <args-json-object>}'
    return clean(f"error: malformed tool call: {problem}; write {form}", DEFAULT_LIMITS.characters)
