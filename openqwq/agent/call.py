"""Running a model's tool calls: whatever goes wrong becomes text that the model can react to."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from openqwq.agent.progress import CallProgress, reporting
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
    refusals: list[CallResult | None] = []
    for call in calls:
        refusals.append(await _refuse(tools, call, approve))

    async def settle(call: ToolCall, refusal: CallResult | None) -> CallResult:
        if refusal:
            return refusal
        return await _run(tools[call["name"]], call["arguments"], limits, tell)

    results = await asyncio.gather(*map(settle, calls, refusals))
    for text in malformed_calls:
        results.append(CallResult("", {}, _complaint(text), "malformed"))
    return results


def clean(text: str, characters: int) -> str:
    """`text` without control characters, its middle cut out where it is longer than allowed."""
    surplus = len(text) - characters
    if surplus > 0:
        head = characters * 3 // 4
        tail = len(text) - (characters - head)
        note = f"\n[... {surplus:,} of {len(text):,} characters left out ...]\n"
        return _printable(text[:head]) + note + _printable(text[tail:])
    return _printable(text)


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub("\ufffd", text)


async def _refuse(
    tools: Mapping[str, Tool], call: ToolCall, approve: Approve | None
) -> CallResult | None:
    """The result of a call that must not run, else None."""
    name = call["name"]
    arguments = call["arguments"]
    if name not in tools:
        known = ", ".join(tools) or "none"
        text = f"error: there is no tool {name!r:.100}; the tools are: {known}"
        return CallResult(
            name, arguments, clean(text, DEFAULT_LIMITS.characters), "unknown"
        )
    try:
        check_arguments(tools[name], arguments)
    except (OpenQwQError, RecursionError) as error:
        text = clean(f"error: {error}", DEFAULT_LIMITS.characters)
        return CallResult(name, arguments, text, "invalid")
    reason = await approve(tools[name], arguments) if approve else ""
    if reason:
        return CallResult(name, arguments, f"error: not allowed: {reason}", "denied")
    return None


async def _run(
    tool: Tool,
    arguments: Mapping[str, Any],
    limits: CallLimits,
    tell: Callable[[str], None] | None,
) -> CallResult:
    started = time.monotonic()
    progress = CallProgress(tell)
    with reporting(progress):
        task = asyncio.ensure_future(tool.call(arguments))
    # nobody may listen
    task.add_done_callback(lambda late: late.cancelled() or late.exception())
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
    status: CallStatus = "failed"
    if not done:
        status = "timeout"
        text = f"error: {tool.name} took longer than {limits.seconds:g} s and was stopped"
    elif task.cancelled():
        text = "error: it was cancelled"
    elif error := task.exception():
        text = f"error: {said(error)}"
    else:
        status = "ok"
        text = task.result()
    shown = clean(text, limits.characters)
    return CallResult(tool.name, arguments, shown, status, time.monotonic() - started)


def _complaint(text: str) -> str:
    try:
        value = json.loads(text)
        problem = f"it is {value!r:.100}"
        if isinstance(value, dict):
            problem = "a key is missing"
    except (ValueError, RecursionError) as error:
        problem = f"not JSON ({error})"
    form = '{"name": <function-name>, "arguments": <args-json-object>}'
    return clean(
        f"error: malformed tool call: {problem}; write {form}", DEFAULT_LIMITS.characters
    )
