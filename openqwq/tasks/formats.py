"""What one row says, in our own terms: a config's templates first, then the field's own formats."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from openqwq.config import DataConfig
from openqwq.data.rows import Row
from openqwq.data.user_code import is_reference
from openqwq.tasks.choices import (
    CHOICES,
    named_choice,
    read_choices,
    right_choice,
    with_choices,
)
from openqwq.tasks.columns import (
    CHATS,
    CHOSEN,
    IDENTITIES,
    QUESTIONS,
    REJECTED,
    REPLIES,
    SYSTEMS,
    TOOLS,
    as_program,
    boxed_answer,
    find_answer,
    find_column,
    find_rules,
    find_solution,
    find_tests,
    find_value,
    is_rating,
    read_answer,
    read_rules,
    read_solution,
    thinking_column,
)
from openqwq.tasks.conversations import (
    read_chat,
    read_tools,
    said_by,
    split_at_reply,
    turns_or_text,
    without_system,
)
from openqwq.tasks.hidden_tests import read_tests, with_tolerance
from openqwq.tasks.preferences import Messages, read_pair
from openqwq.tasks.source import completion_of
from openqwq.tasks.templates import RowError, Template, as_text, from_json
from openqwq.types import CodeTests, Message, Rule

TEMPLATES = (
    "messages", "prompt", "system", "answer", "solution", "tests", "rules", "tools", "chosen",
    "rejected",
)  # fmt: skip
# Columns that are a problem's statement only next to another one: MBPP's and code-contests'.
STATEMENTS = (("test_list", "text"), ("public_tests", "description"))


@dataclass(frozen=True)
class Reading:
    """One row; what it does not say is empty or None.

    `form` names the format: all rows of a file have the same one. `problem` is what is asked, by
    the raw columns alone: equal for rows that ask the same.
    """

    form: str
    identity: str
    problem: str
    prompt: Messages
    demonstration: Messages = ()
    chosen: Messages = ()
    rejected: Messages = ()
    answer: str | None = None
    solution: str | None = None
    tests: CodeTests | None = None
    rules: tuple[Rule, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def judge(self) -> str:
        """The verifier that suits what the row has; "" where nothing can be judged."""
        if self.tests is not None:
            return "code"
        if self.rules:
            return "instructions"
        return "math" if self.answer is not None else ""


@dataclass(frozen=True)
class PromptReading:
    """The prompt of a row and what was recorded after it; `raw` are the values it came from.

    `choices` are those of a multiple-choice question, by their letters.
    """

    form: str
    prompt: Messages
    raw: Sequence[Any]
    demonstration: Messages = ()
    choices: Mapping[str, str] = field(default_factory=dict)


class RowReader:
    """Reads the rows of the table `name` as its config says.

    Raises OpenQwQError for a template that cannot be read.
    """

    def __init__(self, name: str, config: DataConfig) -> None:
        self._path = f"data.{name}"
        self._own_judge = is_reference(config.verifier)
        self._pattern = re.compile(config.answer_pattern) if config.answer_pattern else None
        self._templates: dict[str, Template] = {}
        for key in TEMPLATES:
            text = str(getattr(config, key))
            if text:
                self._templates[key] = Template(text, f"{self._path}.{key}")

    def read(self, row: Row) -> Reading:
        """What a row says; RowError names the field that cannot be used."""
        asked = self._asked(row)
        chosen: Messages = ()
        rejected: Messages = ()
        form = asked.form
        sides = self._sides(row)
        if sides is not None:
            form += " with preferences"
            chosen, rejected = read_pair(sides[0], sides[1], asked.prompt)
            prompt = chosen[:-1]
            demonstration = chosen[-1:]
            raw = asked.raw or [message["content"] for message in prompt]
        else:
            raw = asked.raw
            prompt = asked.prompt
            demonstration = asked.demonstration or self._reply(row, asked)
        if not prompt:
            raise self._nothing_asked(row)

        system = self._system(row)
        if system:
            prompt = _under(system, prompt)
            chosen = _under(system, chosen)
            rejected = _under(system, rejected)
        tests = self._tests(row, raw)
        rules = self._rules(row)
        needed = tests is None and not rules and not demonstration
        return Reading(
            form,
            _identity(row),
            _problem(raw),
            prompt,
            demonstration,
            chosen,
            rejected,
            self._answer(row, needed, asked.choices),
            self._solution(row, tests is not None),
            tests,
            rules,
            self._tools(row),
        )

    def _fill(self, key: str, row: Row) -> Any:
        """What the template `key` of the config makes of a row; None without one."""
        template = self._templates.get(key)
        return None if template is None else template.fill(row)

    def _asked(self, row: Row) -> PromptReading:
        if "messages" in self._templates:
            return self._recorded(
                self._fill("messages", row), f"{self._path}.messages", "template"
            )
        if "prompt" in self._templates:
            template = self._templates["prompt"]
            return _question(
                template.fill(row), template.key, "template", template.values(row)
            )

        column = find_column(row, CHATS)
        if column is not None:
            return self._recorded(row[column], column, column.lower())
        given = _given(row)
        if "messages" in given:
            return self._recorded(given["messages"], "input.messages", "input")
        column = find_column(row, QUESTIONS) or _statement(row)
        if column is None:
            return PromptReading("chat", (), ())
        text = row[column]
        raw = [text]
        if column.lower() == "instruction" and row.get("input"):  # Alpaca's
            raw.append(row["input"])
            text = f"{text}\n\n{row['input']}"
        choices = read_choices(find_value(row, CHOICES))
        if choices and isinstance(text, str):
            raw.append(sorted(choices.values()))
            text = with_choices(text, choices)
        return replace(_question(text, column, column.lower(), raw), choices=choices)

    def _recorded(self, value: Any, field: str, form: str) -> PromptReading:
        prompt, demonstration = split_at_reply(read_chat(value, field), field)
        return PromptReading(form, prompt, _contents(prompt), demonstration)

    def _reply(self, row: Row, asked: PromptReading) -> Messages:
        """The recorded completion of a prompt, if the row has one."""
        column = find_column(row, REPLIES)
        if column is None or not asked.prompt:
            return ()
        if is_rating(find_value(row, ("label",))):
            raise RowError(
                "label",
                "single ratings (KTO) cannot be learned: pair them as chosen and rejected, or keep "
                "the good rows without this column",
            )
        value = row[column]
        turns = turns_or_text(value)
        if isinstance(turns, str):
            if not turns.strip():
                raise RowError(
                    column, "the completion is empty: give it, or leave the row out"
                )
            reply = said_by("assistant", turns, column)
            thinking = thinking_column(row)
            if thinking:
                reply.setdefault("reasoning_content", thinking)
            return (reply,)
        chat = read_chat(turns, column)
        if chat[-1]["role"] != "assistant":
            raise RowError(
                column, f"it ends with a {chat[-1]['role']} turn: end with the assistant's"
            )
        return chat

    def _sides(self, row: Row) -> tuple[Any, Any] | None:
        """What a reader preferred, and what not; None where the row does not say it."""
        if "chosen" in self._templates:
            return self._fill("chosen", row), self._fill("rejected", row)
        better = find_column(row, CHOSEN)
        worse = find_column(row, REJECTED)
        if better and worse:
            return row[better], row[worse]
        for found, names in ((worse, CHOSEN), (better, REJECTED)):
            present = [name for name in row if name.lower() in names]
            if found and present:
                raise RowError(present[0], "it is null: fill it, or leave the row out")
        return None

    def _system(self, row: Row) -> str:
        if "system" in self._templates:
            return as_text(self._fill("system", row))
        value = find_value(row, SYSTEMS)
        return value if isinstance(value, str) else ""

    def _answer(self, row: Row, needed: bool, choices: Mapping[str, str]) -> str | None:
        """The right answer; an empty one is an error where nothing else says what is right."""
        field = f"{self._path}.answer"
        value = self._fill("answer", row)
        if value is None and choices:
            field, value = named_choice(row)
        if value is None:
            field, value = find_answer(row)
            if value is None:
                return boxed_answer(row) if needed else None
            if not needed and not as_text(value).strip():
                return None
        if choices:
            if self._pattern:
                value = read_answer(value, field, self._pattern)
            return right_choice(value, choices, field)
        if self._own_judge and isinstance(value, list | tuple):
            value = as_text(value)  # one's own verifier knows what several answers mean
        return read_answer(value, field, self._pattern)

    def _solution(self, row: Row, is_program: bool) -> str | None:
        value = self._fill("solution", row)
        if value is not None:
            return read_solution(value, f"{self._path}.solution")
        field, value = find_solution(row)
        if value is None and is_program:
            value = row.get("code")
        if not isinstance(value, str):
            return None
        if is_program:
            return completion_of(thinking_column(row), as_program(value, row))
        return read_solution(value, field, thinking_column(row))

    def _tests(self, row: Row, raw: Sequence[Any]) -> CodeTests | None:
        value = self._fill("tests", row)
        field = f"{self._path}.tests"
        tests = find_tests(row) if value is None else read_tests(value, field, row)
        if tests is None:
            return None
        return with_tolerance(tests, " ".join(map(as_text, raw)))

    def _rules(self, row: Row) -> tuple[Rule, ...]:
        value = self._fill("rules", row)
        return (
            find_rules(row) if value is None else read_rules(value, f"{self._path}.rules")
        )

    def _tools(self, row: Row) -> tuple[Mapping[str, Any], ...]:
        value = self._fill("tools", row)
        if value is not None:
            return read_tools(value, f"{self._path}.tools")
        value = find_value(row, TOOLS)
        if value is None:
            value = _given(row).get("tools")
        return read_tools(value, "tools") if value else ()

    def _nothing_asked(self, row: Row) -> RowError:
        for name in row:
            if name.lower() in (*CHATS, *QUESTIONS):
                return RowError(name, "it is null: fill it, or leave the row out")
        return RowError(
            "prompt",
            f"nothing says what to ask: the row has {', '.join(map(repr, row))}; name its column, "
            f'{self._path}.prompt = "{{column}}"',
        )


def _statement(row: Row) -> str | None:
    """The column that states the problem because of another one next to it."""
    for mark, name in STATEMENTS:
        if mark in row and name in row:
            return name
    return None


def _given(row: Row) -> Mapping[str, Any]:
    """What OpenAI's preference format keeps in `input`: the prompt's messages and tools."""
    given = from_json(row.get("input"))
    return given if isinstance(given, Mapping) else {}


def _identity(row: Row) -> str:
    """The row's own id; "" without one."""
    identity = find_value(row, IDENTITIES)
    return "" if identity is None else as_text(identity).strip()


def _question(value: Any, field: str, form: str, raw: Sequence[Any]) -> PromptReading:
    """A prompt that is a text or a list of turns."""
    turns = turns_or_text(value)
    if isinstance(turns, str):
        if not turns.strip():
            raise RowError(field, "the prompt is empty: give it, or leave the row out")
        return PromptReading(form, (Message(role="user", content=turns),), raw)
    prompt = read_chat(turns, field)
    if prompt[-1]["role"] in ("assistant", "system"):
        role = prompt[-1]["role"]
        raise RowError(
            field, f"it ends with the {role}'s turn: a prompt ends with the user's"
        )
    return PromptReading(form, prompt, _contents(prompt))


def _contents(prompt: Messages) -> list[str]:
    """What is asked, whatever the system prompt."""
    return [message["content"] for message in prompt if message["role"] != "system"]


def _problem(raw: Sequence[Any]) -> str:
    """Equal for equal raw values, whatever their spaces and line ends."""
    texts = [" ".join(as_text(value).split()) for value in raw]
    return json.dumps(sorted(texts), ensure_ascii=False)


def _under(system: str, chat: Messages) -> Messages:
    """The chat with `system` in place of its own system prompt."""
    if not chat:
        return ()
    return (Message(role="system", content=system), *without_system(chat))
