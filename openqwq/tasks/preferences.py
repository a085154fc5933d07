"""Rows with a preferred and a rejected answer: two texts or two chats, made two whole chats."""

import os
import re
from typing import Any, Literal

from openqwq.tasks.conversations import read_chat, said_by, turns_or_text, without_system
from openqwq.tasks.templates import RowError
from openqwq.types import Message

Messages = tuple[Message, ...]
_SPEAKERS = re.compile(r"\n\n(Human|Assistant):")


def read_pair(better: Any, worse: Any, prompt: Messages) -> tuple[Messages, Messages]:
    """The chosen and the rejected chat, which differ in their last turn alone."""
    chosen = turns_or_text(better)
    rejected = turns_or_text(worse)
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowError(
            "rejected", "chosen and rejected must both be texts, or both be lists of turns"
        )

    if isinstance(chosen, str) and prompt:
        left = (*prompt, said_by("assistant", chosen, "chosen"))
        right = (*prompt, said_by("assistant", rejected, "rejected"))
    elif isinstance(chosen, str):
        left, right = _split_texts(chosen, rejected)
    else:
        left = _continued(prompt, read_chat(chosen, "chosen"), "chosen")
        right = _continued(prompt, read_chat(rejected, "rejected"), "rejected")

    for side, chat in (("chosen", left), ("rejected", right)):
        if chat[-1]["role"] != "assistant":
            role = chat[-1]["role"]
            raise RowError(side, f"it ends with a {role} turn: end with the assistant's")
        if not chat[-1]["content"].strip() and "tool_calls" not in chat[-1]:
            raise RowError(side, "its last turn is empty: give it, or leave the row out")
    if left[:-1] != right[:-1]:
        raise RowError(
            "rejected", "chosen and rejected answer different chats: give one prompt"
        )
    if left == right:
        raise RowError("rejected", "chosen and rejected are equal: leave the row out")
    return left, right


def _continued(prompt: Messages, chat: Messages, field: str) -> Messages:
    """`chat` after `prompt`, of which it may repeat the turns."""
    if not prompt or chat[0]["role"] == "assistant":
        return (*prompt, *chat)
    asked = without_system(prompt)
    said = without_system(chat)
    if said[: len(asked)] != asked:
        raise RowError(
            field, "it begins with another prompt than the row's: give one prompt"
        )
    system = [message for message in prompt if message["role"] == "system"]
    return (*system, *said) if system else chat


def _split_texts(chosen: str, rejected: str) -> tuple[Messages, Messages]:
    """Two whole texts that begin with the same prompt, in HH-RLHF's form or as plain text."""
    if _SPEAKERS.match(chosen) and _SPEAKERS.match(rejected):
        return _spoken(chosen), _spoken(rejected)
    shared = os.path.commonprefix([chosen, rejected])  # noqa: RUF071 (texts, not paths)
    cut = max(shared.rfind(" "), shared.rfind("\n")) + 1  # no word is cut in two
    if not shared[:cut].strip():
        return (), ()
    question = Message(role="user", content=shared[:cut].rstrip())
    left = said_by("assistant", chosen[cut:], "chosen")
    right = said_by("assistant", rejected[cut:], "rejected")
    return (question, left), (question, right)


def _spoken(text: str) -> Messages:
    """A dialogue in one text, each turn after `Human:` or `Assistant:`."""
    _, *pieces = _SPEAKERS.split(text)
    turns: list[Message] = []
    for speaker, said in zip(pieces[::2], pieces[1::2], strict=True):
        role: Literal["user", "assistant"] = "user" if speaker == "Human" else "assistant"
        turns.append(said_by(role, said.strip(), "chosen"))
    return tuple(turns)
