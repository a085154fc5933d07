"""Shows a reply on a terminal while it is written: thinking dimmed, the answer as Markdown.

A block of the answer is final once the next has begun; only the last one is drawn again. Around it
stand a spinner before the first word and, at the end, what the reply took.
"""

import re
import time
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown
from rich.spinner import Spinner
from rich.text import Text

from openqwq.serve.reply import Finish, Piece

# What a terminal would obey rather than show; a model's text may hold any of it.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_MATH = re.compile(
    r"\\\(.+?\\\)|\\\[.+?\\\]|\$\$.+?\$\$|\$[^$\n]+\$|\\boxed\{[^\n]*\}", re.DOTALL
)
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_PUNCTUATION = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$^&])")


@dataclass
class MarkdownWriter:
    """Like `terminal.PlainWriter`, for a person at a terminal."""

    hide_thinking: bool = False
    console: Console = field(default_factory=lambda: Console(highlight=False))
    reasoning: str = ""
    content: str = ""
    in_thinking: bool = False
    finish: Finish | None = None
    _shown: int = 0  # characters of the answer whose blocks are final
    _started: float = field(default_factory=time.monotonic)
    _first: float | None = None  # when the first piece came
    _live: Live | None = None

    def begin(self) -> None:
        """Show that the reply is awaited."""
        self._live_region().update(Spinner("dots", Text("waiting", "dim")))

    def write(self, piece: Piece) -> None:
        """Show a piece."""
        if self._first is None:
            self._first = time.monotonic()
        self.finish = piece.finish or self.finish
        self.in_thinking = piece.kind == "reasoning"
        if piece.kind == "reasoning":
            self._think(piece.text)
        elif piece.call is not None:
            self._answer(f"\n\n`{piece.call}`\n\n")
        elif piece.text:
            self._answer(piece.text)

    def end(self) -> None:
        """Close the reply and say what it took."""
        self._stop()
        rest = self.content[self._shown :].strip()
        if rest:
            self.console.print(_markdown(rest))
        self._shown = len(self.content)
        if self.finish:
            self.console.print(Text(self._cost(self.finish), "dim"))

    def _think(self, text: str) -> None:
        new = not self.reasoning
        self.reasoning += text
        if self.hide_thinking:
            words = f"thinking {time.monotonic() - self._started:.0f} s"
            self._live_region().update(Spinner("dots", Text(words, "dim")))
            return
        if new:
            self._stop()
        self.console.print(Text(_visible(text), "dim"), end="", soft_wrap=True)

    def _answer(self, text: str) -> None:
        if not self.content:
            self._stop()
            if self.reasoning and not self.hide_thinking:
                self.console.print("\n")
        self.content += text
        settled = settled_end(self.content, self._shown)
        if settled > self._shown:
            self._stop()
            self.console.print(_markdown(self.content[self._shown : settled]))
            self._shown = settled
        rest = self.content[self._shown :]
        if rest.strip():
            self._live_region().update(_markdown(rest))

    def _live_region(self) -> Live:
        if self._live is None:
            self._live = Live(console=self.console, transient=True, refresh_per_second=8)
            self._live.start()
        return self._live

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _cost(self, finish: Finish) -> str:
        now = time.monotonic()
        first = self._first or now
        seconds = max(now - first, 1e-3)
        thinking = (
            f" ({finish.reasoning_tokens} thinking)" if finish.reasoning_tokens else ""
        )
        speed = f"{finish.completion_tokens / seconds:.1f} tokens/s"
        wait = f"first after {first - self._started:.1f} s"
        return f"{finish.completion_tokens} tokens{thinking} · {speed} · {wait}"


def settled_end(text: str, start: int) -> int:
    """Where the last blank line outside a code fence ends; `start` where there is none yet."""
    fence = ""
    end = start
    at = start
    for line in text[start:].splitlines(keepends=True):
        at += len(line)
        found = _FENCE.match(line)
        if found and not fence:
            fence = found[1]
        elif found and found[1].startswith(fence) and not line.strip("`~ \n"):
            fence = ""
        elif not fence and not line.strip() and line.endswith("\n"):
            end = at
    return end


def _markdown(text: str) -> Markdown:
    return Markdown(protect_mathematics(_visible(text)), hyperlinks=False)


def protect_mathematics(text: str) -> str:
    """`text` with its formulas escaped: Markdown would take their backslashes and underscores."""
    parts = []
    fenced = False
    for line in re.split(r"(^ {0,3}(?:`{3,}|~{3,}).*$)", text, flags=re.MULTILINE):
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            line = _MATH.sub(lambda found: _PUNCTUATION.sub(r"\\\1", found[0]), line)
        parts.append(line)
    return "".join(parts)


def _visible(text: str) -> str:
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
