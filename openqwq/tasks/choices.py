"""Multiple choice: the choices below their question, and the letter of the right one."""

import re
from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from openqwq.data.rows import Row
from openqwq.tasks.templates import RowError, as_text, from_json

CHOICES = ("choices", "options")
KEYS = ("answerkey", "answer_idx", "answer_index")  # columns that name the right choice


def read_choices(value: Any) -> dict[str, str]:
    """The choices by their letters; empty for anything but several texts.

    A list of texts, an object of letters and texts, or ARC's two lists, `label` and `text`.
    """
    value = from_json(value)
    labels: Any = ascii_uppercase
    if isinstance(value, Mapping):
        labels = value.get("label", list(value))
        value = value.get("text", list(value.values()))
    if not isinstance(value, list | tuple) or not 2 <= len(value) <= len(labels):
        return {}
    if not all(isinstance(each, str | int | float) for each in (*value, *labels)):
        return {}
    found = {str(label): as_text(text) for label, text in zip(labels, value, strict=False)}
    return found if all(len(label) == 1 for label in found) else {}


def with_choices(question: str, choices: Mapping[str, str]) -> str:
    """The question with its choices below it, unless it lists them itself."""
    listed = [
        re.search(rf"\b{re.escape(label)}\W{{1,3}}{re.escape(text)}", question)
        for label, text in choices.items()
    ]
    if all(listed):
        return question
    lines = [f"{label}. {text}" for label, text in choices.items()]
    return "\n".join([question, "", *lines])


def right_choice(value: Any, choices: Mapping[str, str], field: str) -> str:
    """The letter of the right choice, which a row names by its letter, its index or its text.

    Labels may be numbers themselves, as some of ARC's are: then they are meant, and no index.
    Raises RowError where it is none of them, or two.
    """
    labels = list(choices)
    said = as_text(value).strip()
    index = int(said) if said.isdecimal() else len(labels)
    by_index = labels[index : index + 1]
    meant = [label for label in labels if label == said.upper()]
    if not meant and isinstance(value, str):
        by_text = [label for label, text in choices.items() if text.strip() == said]
        meant = list(dict.fromkeys([*by_text, *by_index]))
    elif not meant:
        meant = by_index
    if len(meant) == 1:
        return meant[0]
    many = f"may be {' or '.join(meant)}" if meant else "is none of them"
    raise RowError(
        field,
        f"there are the choices {', '.join(labels)}, and {value!r:.80} {many}: give the letter, or "
        "set prompt and answer in the config",
    )


def named_choice(row: Row) -> tuple[str, Any]:
    """The column that only names the right choice, and its value; ("", None) without one."""
    for column, value in row.items():
        if column.lower() in KEYS and value is not None:
            return column, value
    return "", None
