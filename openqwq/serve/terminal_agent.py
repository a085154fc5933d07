"""An agent in the terminal: thinking dimmed, calls and results as cards, a person in charge."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from openqwq.agent.approval import Approval, Permission
from openqwq.agent.call import clean
from openqwq.agent.loop import (
    Agent,
    Budgets,
    Called,
    Content,
    Ended,
    Event,
    Returned,
    Thinking,
    Turns,
)
from openqwq.agent.toolbox import toolbox
from openqwq.agent.transcript import Asked, Transcript, read_transcript
from openqwq.serve.terminal import check_options, opened
from openqwq.serve.terminal_commands import COMMANDS, Dialogue
from openqwq.serve.terminal_lines import Lines, open_lines
from openqwq.types import Message, OpenQwQError, PromptTooLongError, SamplingParams, Tool

CARD_LINES = 20
OPTIONS = (
    "temperature",
    "top_p",
    "min_p",
    "top_k",
    "max_tokens",
    "seed",
    "thinking_budget",
)
_INVISIBLE = re.compile("[\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
ENDS = {
    "steps": "the limit of steps (--steps) is reached",
    "time": "the time is up",
    "tokens": "the limit of tokens is reached",
    "context": "the results outgrew the context (--context); this question and they are forgotten",
    "length": "the reply was cut off (--max-tokens, --context)",
    "loop": "it repeats itself",
    "unfinished": "the reply ended inside its thinking",
    "cancelled": "the engine stopped it",
}


@dataclass
class Screen:
    """Shows entries of a conversation; where output is piped, only the answer is on stdout."""

    out: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))
    side: Console = field(init=False)
    at: type | None = None  # whose text the cursor stands behind

    def __post_init__(self) -> None:
        piped = not self.out.is_terminal
        self.side = (
            Console(highlight=False, soft_wrap=True, stderr=True) if piped else self.out
        )

    def show(self, entry: Asked | Event) -> None:
        """Print one entry; control characters of a model or a tool never reach the terminal."""
        match entry:
            case Asked(text):
                self._line(self.side, Text(f"you> {_safe(text)}", "bold"))
            case Thinking(text):
                self._piece(Thinking, self.side, Text(_safe(text), "dim"))
            case Content(text):
                self._piece(Content, self.out, Text(_safe(text)))
            case Called(None, text):
                self._card("malformed call", text, "red")
            case Called(call) if call is not None:
                self._card(f"calls {call['name']}", _arguments(call["arguments"]), "cyan")
            case Returned(result):
                name = result.name or "malformed call"
                title = f"{name}: {result.status}, {result.seconds:.1f} s"
                self._card(title, result.text, "green" if result.status == "ok" else "red")
            case Ended(reason) if reason != "answer":
                self.note(f"stopped: {ENDS[reason]}")
            case Ended() | Turns():
                self._end_piece()

    def note(self, text: str) -> None:
        """A line of ours."""
        self._line(self.side, Text(_safe(text), "yellow"))

    async def ask(self, tool: Tool, arguments: Mapping[str, Any]) -> Permission:
        """Let the person decide on a call, seen whole; Ctrl-C at the question stops the run."""
        self.note(f"{tool.name} with\n{_arguments(arguments)}")
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            while True:
                said = (
                    input(f"Let it call {_safe(tool.name)}? yes, no, always: ")
                    .strip()
                    .lower()
                )
                for answer in ("yes", "no", "always"):
                    if said and answer.startswith(said):
                        return answer
        except EOFError:
            return "no"
        except KeyboardInterrupt:
            raise asyncio.CancelledError from None
        finally:
            signal.signal(signal.SIGINT, before)

    def _piece(self, kind: type, console: Console, text: Text) -> None:
        if self.at is not kind:
            self._end_piece()
        self.at = kind
        console.print(text, end="")

    def _end_piece(self) -> None:
        if self.at is not None:
            (self.out if self.at is Content else self.side).print()
            self.at = None

    def _line(self, console: Console, line: Any) -> None:
        self._end_piece()
        console.print(line)

    def _card(self, title: str, text: str, colour: str) -> None:
        lines = _safe(text).splitlines()
        if len(lines) > CARD_LINES:
            lines[CARD_LINES:] = [f"... {len(lines) - CARD_LINES} more lines"]
        body = Text("\n".join(lines))
        title_text = Text(_safe(title))
        self._line(
            self.side, Panel(body, title=title_text, title_align="left", style=colour)
        )


def _safe(text: str) -> str:
    return clean(text, len(text))


def _arguments(arguments: Mapping[str, Any]) -> str:
    """A call's arguments: code and other lone texts as they are, the rest as JSON.

    What changes the order of a line or shows nothing is spelled out: it could hide what is run.
    """
    values = list(arguments.values())
    alone = len(values) == 1 and isinstance(values[0], str)
    text = values[0] if alone else json.dumps(arguments, ensure_ascii=False, indent=1)
    return _INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def run_agent(options: Any) -> None:
    """Answer questions from standard input until it ends, by the command line's `options`.

    Ctrl-C ends a run, and at the prompt the conversation (KeyboardInterrupt).
    """
    budgets = Budgets(steps=options.steps)
    transcript = Transcript(options.model, options.transcript)
    model = opened(options, slots=1)
    screen = Screen()
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            names = [name for name in options.tools.split(",") if name]
            asked = input if sys.stdin.isatty() else None  # by an MCP server
            tools = runner.run(
                stack.enter_async_context(toolbox(names, options.mcp, asked))
            )
            unknown = sorted(set(options.allow) - tools.keys())
            if unknown:
                known = ", ".join(tools) or "none"
                raise OpenQwQError(
                    f"--allow names the unknown tool {unknown[0]!r}: {known}"
                )
            approval = Approval(
                {*options.allow}, screen.ask if sys.stdin.isatty() else None
            )
            params = SamplingParams(
                options.temperature,
                max_tokens=options.max_tokens,
                stop_token_ids=model.tokenizer.eos_ids,
                seed=options.seed,
            )
            agent = Agent(model.generate, model.tokenizer, tools, budgets, approve=approval)
            Conversation(agent, params, screen, transcript).talk(runner)
        finally:
            runner.run(stack.aclose())
            model.close()


@dataclass
class Conversation:
    """Questions and runs of one agent, kept in a transcript."""

    agent: Agent
    params: SamplingParams
    screen: Screen
    transcript: Transcript
    messages: list[Message] = field(default_factory=list)
    dialogue: Dialogue = field(init=False)

    def __post_init__(self) -> None:
        descriptions = {name: tool.description for name, tool in self.agent.tools.items()}
        start = self.params

        def apply(options: dict[str, Any]) -> None:
            check_options(options)
            self.params = replace(start, **options)

        self.dialogue = Dialogue(
            apply, {}, OPTIONS, messages=self.messages, tools=descriptions
        )

    def talk(self, runner: asyncio.Runner, lines: Lines | None = None) -> None:
        """Answer what `lines` (default: standard input) ask until they end."""
        lines = lines or open_lines(COMMANDS)
        if lines.interactive:
            names = ", ".join(self.agent.tools) or "none"
            self.screen.note(f"tools: {names}. /help; Ctrl-C stops a run, Ctrl-D ends.")
        while True:
            try:
                line = lines.read(self.dialogue.to_edit).strip()
                if line:
                    self._take(line, runner)
                else:
                    self.dialogue.give_up_editing()
            except EOFError:
                return

    def _take(self, line: str, runner: asyncio.Runner) -> None:
        try:
            question = self.dialogue.run(line)
            if question is None:
                return
            self.transcript.add(Asked(question))
            runner.run(self.answer(question))
        except asyncio.CancelledError:
            self.screen.note("stopped by Ctrl-C; once more ends the conversation")
        except OpenQwQError as error:
            self.screen.note(f"qwq: {error}")
        self.transcript.save()

    async def answer(self, question: str) -> None:
        """One run; its whole steps stay in the history even if it is stopped."""
        asked = len(self.messages)
        self.messages.append({"role": "user", "content": question})
        run = self.agent.run(self.dialogue.sent(), self.params)
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        # Not the runner's own handler: a signal just before the loop waits would not wake it.
        loop.add_signal_handler(signal.SIGINT, task.cancel)
        try:
            async for event in run:
                self.transcript.add(event)
                self.screen.show(event)
                if isinstance(event, Turns):
                    self.messages += event.messages
                elif isinstance(event, Ended) and event.reason == "context":
                    del self.messages[asked:]
        except PromptTooLongError as error:
            if not asked:
                raise
            self.messages.clear()
            self.dialogue.taken_back.clear()
            remedy = "what was said before is forgotten now: ask again, or use a larger --context"
            raise OpenQwQError(f"{error}; {remedy}") from error
        finally:
            await run.aclose()
            loop.remove_signal_handler(signal.SIGINT)
            if len(self.messages) == asked + 1:  # nothing was said: the question goes too
                del self.messages[asked:]
            if len(self.messages) > asked:
                self.dialogue.taken_back.clear()
            else:
                self.dialogue.restore()


def replay(path: Path) -> None:
    """Show a transcript as it was shown when it was made."""
    model, entries = read_transcript(path)
    screen = Screen()
    screen.note(f"transcript of {model}")
    for entry in entries:
        screen.show(entry)
