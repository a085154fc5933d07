"""What a line that begins with a slash does in `qwq chat` and `qwq agent`."""

import base64
import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openqwq.serve.protocol import check
from openqwq.types import OpenQwQError

HELP = {
    "/help": "this list",
    "/new": "start a new conversation",
    "/system TEXT": "set the system prompt; without TEXT, show it; /system - removes it",
    "/set NAME VALUE": "set an option; without VALUE, back to the default; alone, show them",
    "/regen": "another answer to the last question",
    "/edit": "change the last question and ask it again",
    "/file PATH": "send a text file along with the next question",
    "/save PATH": "write the conversation as JSON, one line of training data",
    "/load PATH": "go on with a conversation that was saved",
    "/tools": "the tools that the model may use",
    "/copy": "put the last answer on the clipboard",
    "/exit": "leave, as Ctrl-D does",
}
COMMANDS = [usage.split()[0] for usage in HELP]
ALIASES = {"/?": "/help", "/quit": "/exit", "/bye": "/exit"}
_COMMAND = re.compile(r"/([A-Za-z]+|\?)(?=\s|$)")


@dataclass
class Dialogue:
    """A conversation and its options, as the commands change them.

    `apply` takes the changed options into use and raises OpenQwQError for what it refuses.
    """

    apply: Callable[[dict[str, Any]], None]
    options: dict[str, Any]
    names: tuple[str, ...]
    system: str | None = None
    messages: list[Any] = field(default_factory=list)
    tools: Mapping[str, str] = field(default_factory=dict)
    attached: list[str] = field(default_factory=list)
    to_edit: str = ""
    taken_back: list[Any] = field(default_factory=list)  # until another answer is there

    def sent(self) -> list[Any]:
        """The messages with the system prompt before them."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, *self.messages]

    def question(self, text: str) -> str:
        """`text` behind the files that wait for it."""
        whole = "\n\n".join([*self.attached, text])
        self.attached.clear()
        return whole

    def restore(self) -> None:
        """Put back what `/regen` or `/edit` took, where nothing came of it."""
        self.messages += self.taken_back
        self.taken_back.clear()

    def give_up_editing(self) -> None:
        """A question that is emptied, or left for a command, stays as it was."""
        if self.to_edit:
            self.to_edit = ""
            self.restore()

    def run(self, line: str) -> str | None:
        """Do what a line asks; the question to ask now, None where there is none.

        Raises OpenQwQError for a command that is unknown or cannot be done, EOFError for `/exit`.
        """
        found = _COMMAND.match(line)
        if not found:
            self.to_edit = ""
            return self.question(line)
        self.give_up_editing()
        name = found.group().lower()
        rest = line[len(name) :].strip()
        name = ALIASES.get(name, name)
        match name:
            case "/help":
                for usage, what in HELP.items():
                    print(f"{usage:<16} {what}")
            case "/new":
                self.messages.clear()
                self.attached.clear()
                self.taken_back.clear()
            case "/system":
                self._system(rest)
            case "/set":
                self._set(rest)
            case "/regen":
                return self._taken_back()
            case "/edit":
                self.to_edit = self._taken_back()
            case "/file":
                self.attached.append(file_block(_path(rest, "/file")))
                print(f"goes with your next question: {rest}")
            case "/save":
                self._save(_path(rest, "/save"))
            case "/load":
                self._load(_path(rest, "/load"))
            case "/tools":
                print(
                    "\n".join(f"{tool}: {what}" for tool, what in self.tools.items())
                    or "none"
                )
            case "/copy":
                self._copy()
            case "/exit":
                raise EOFError
            case _:
                raise OpenQwQError(f"{name} is not a command: /help lists them")
        return None

    def _system(self, text: str) -> None:
        if text:
            self.system = None if text == "-" else text
        print(f"system prompt: {self.system or 'none'}")

    def _set(self, text: str) -> None:
        name, _, value = text.replace("=", " ", 1).partition(" ")
        if not name:
            for known in self.names:
                print(f"{known} {self.options.get(known, 'default')}")
            return
        name = name.replace("-", "_")
        if name not in self.names:
            raise OpenQwQError(f"{name} is not an option: {', '.join(self.names)}")
        changed = {key: given for key, given in self.options.items() if key != name}
        if value:
            changed[name] = _value(value.strip())
        self.apply(changed)
        self.options = changed
        print(f"{name}: {changed.get(name, 'default')}")

    def _taken_back(self) -> str:
        """The last question, taken out of the conversation with all that followed it."""
        self.restore()
        places = [i for i, message in enumerate(self.messages) if message["role"] == "user"]
        if not places:
            raise OpenQwQError("nothing has been asked yet")
        self.taken_back = self.messages[places[-1] :]
        del self.messages[places[-1] :]
        return _text(self.taken_back[0])

    def _save(self, path: Path) -> None:
        row = json.dumps({"messages": self.sent()}, ensure_ascii=False)
        try:
            path.write_text(f"{row}\n", encoding="utf-8")
        except OSError as error:
            raise OpenQwQError(
                f"cannot write {path} ({error}): name another file"
            ) from error
        print(f"saved {len(self.messages)} messages as {path}")

    def _load(self, path: Path) -> None:
        try:
            messages = json.loads(path.read_text(encoding="utf-8"))["messages"]
            check({"model": "", "messages": messages}, "ChatRequest")
            roles = [message["role"] for message in messages]
            texts = [_text(message) for message in messages]
        except (OSError, ValueError, LookupError, TypeError, OpenQwQError) as error:
            raise OpenQwQError(
                f"{path} is not a conversation ({error}): name a saved one"
            ) from None
        has_system = roles[:1] == ["system"]
        self.system = texts[0] if has_system else None
        self.messages[:] = messages[1:] if has_system else messages
        self.attached.clear()
        self.taken_back.clear()
        print(f"loaded {len(messages)} messages")

    def _copy(self) -> None:
        answers = [_text(m) for m in self.messages if m["role"] == "assistant"]
        if not answers:
            raise OpenQwQError("there is no answer to copy yet")
        if not sys.stdout.isatty():
            raise OpenQwQError(
                "standard output is not a terminal, so there is no clipboard"
            )
        # OSC 52: the terminal's own clipboard, also at the other end of an ssh connection.
        coded = base64.b64encode(answers[-1].encode()).decode()
        print(f"\x1b]52;c;{coded}\x07copied {len(answers[-1])} characters")


def _text(message: Mapping[str, Any]) -> str:
    """A message's text, which may stand in parts; raises LookupError where there is none."""
    content = message["content"]
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return content or ""


def file_block(path: Path) -> str:
    """A text file as a fenced block that names it; OpenQwQError where it is not text."""
    try:
        text = path.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise OpenQwQError(
            f"cannot read {path} as text ({error}): choose another file"
        ) from error
    return fenced(text, str(path))


def fenced(text: str, name: str) -> str:
    """`text` in a fence longer than any inside it."""
    inside = [len(run) for run in re.findall(r"`{3,}", text)]
    fence = "`" * (max(inside, default=2) + 1)
    return f"{fence}{name}\n{text}\n{fence}"


def _path(text: str, command: str) -> Path:
    try:
        words = shlex.split(text)
    except ValueError:
        words = [text]
    if len(words) != 1:
        raise OpenQwQError(f"{command} needs one path, in quotes where it has spaces")
    return Path(words[0]).expanduser()


def _value(text: str) -> Any:
    """A number where it is one, else the word itself."""
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text
