"""IFEval's 25 instruction types as pure rules over a response (arXiv 2311.07911, table 1).

Each rule takes time linear in the response: training meets endless brackets and empty lines.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from inspect import signature
from statistics import fmean
from typing import Any

from langdetect import DetectorFactory, LangDetectException, detect
from langdetect.detector_factory import PROFILES_DIRECTORY

from openqwq.types import OpenQwQError, Score, Task
from openqwq.verify.answer import final_answer
from openqwq.verify.sentences import count_capital_words, count_sentences

DetectorFactory.seed = 0  # langdetect draws at random
_LANGUAGES = frozenset(os.listdir(PROFILES_DIRECTORY))


class InstructionVerifier:
    """Value 1 if every one of `task.rules` holds for the text after the thinking, else 0.

    Parts: each rule by its id (0 if a task has it twice and one fails), the `fraction` that holds,
    and `loose` and `loose_fraction` by the loose criterion. Newlines around the answer are format.
    Status `truncated`: the thinking never ended; `error`: the rules are at fault.
    """

    def __init__(self, thinking: bool = True) -> None:
        self._thinking = thinking

    async def score(self, task: Task, completion: str) -> Score:
        """Judge the answer; the class says what value, parts and status mean."""
        answer = final_answer(completion, self._thinking)
        if not task.rules:
            return Score(0.0, "error", detail=f"task {task.id!r} has no rules")
        if answer is None:
            return Score(0.0, "truncated", detail="no </think>")
        text = answer.strip("\n")
        try:
            strict = [check(rule.id, rule.arguments, text) for rule in task.rules]
            loose = [check(rule.id, rule.arguments, text, loose=True) for rule in task.rules]
        except OpenQwQError as error:
            return Score(0.0, "error", detail=f"task {task.id!r}: {error}")
        parts = {"fraction": fmean(strict), "loose": float(all(loose))}
        parts |= {"loose_fraction": fmean(loose)}
        for rule, held in zip(task.rules, strict, strict=True):
            parts[rule.id] = min(parts.get(rule.id, 1.0), float(held))
        return Score(float(all(strict)), "correct" if all(strict) else "wrong", parts)


def check(
    rule_id: str, arguments: Mapping[str, Any], response: str, *, loose: bool = False
) -> bool:
    """Whether `response` follows one instruction by the strict or the loose criterion.

    Loose (section 2.2): one of eight variants does: the response as it is, without its first line,
    its last or both, each with and without asterisks. An empty text follows no instruction.
    Raises OpenQwQError for an unknown rule, and for arguments that are not exactly the rule's.
    """
    rule = RULES.get(rule_id)
    if rule is None:
        raise OpenQwQError(f"unknown instruction {rule_id!r}: use one of {', '.join(RULES)}")
    _, *names = signature(rule).parameters
    wrong = [name for name, value in arguments.items() if not _is_valid(name, value)]
    if wrong or arguments.keys() != set(names):
        given = f"{rule_id} takes {names} and got {dict(arguments)!r}"
        raise OpenQwQError(f"{given}: correct {', '.join(wrong) or 'the names'}")
    texts = [response]
    if loose:
        lines = response.split("\n")
        cuts = (lines[1:], lines[:-1], lines[1:-1])
        texts += ["\n".join(cut).strip() for cut in cuts]
        texts += [text.replace("*", "") for text in texts]
    return any(text.strip() and rule(text, **arguments) for text in texts)


def _is_valid(name: str, value: object) -> bool:
    if name.endswith("relation"):
        return value in ("at least", "less than")
    if name == "language":
        return value in _LANGUAGES
    if name.startswith(("num_", "nth_")) or name.endswith("frequency"):
        return type(value) is int and value >= 0
    words = value if name in ("keywords", "forbidden_words") else [value]
    return isinstance(words, list | tuple) and all(isinstance(w, str) and w.strip() for w in words)


def _compare(count: int, relation: str, bound: int) -> bool:
    return count >= bound if relation == "at least" else count < bound


def _is_language(text: str, language: str) -> bool:
    """By langdetect, as in IFEval; a text without letters passes for every language."""
    try:
        return bool(detect(text) == language)
    except LangDetectException:
        return True


def _parts(text: str, divider: str) -> list[str]:
    """The texts between dividers, of which only the first and the last may be empty; else none."""
    parts = [part.strip() for part in text.split(divider)]
    return [part for part in parts if part] if all(parts[1:-1]) else []


def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    paragraphs = text.split("\n\n")
    count = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    words = paragraphs[nth_paragraph - 1].split() if 1 <= nth_paragraph <= count else []
    word = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'))[0] if words else ""
    return count == num_paragraphs and word.lower() == first_word.lower()


def _postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    spaced = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(spaced.get(marker, re.escape(marker.lower())), text.lower()))


def _placeholders(text: str) -> int:
    closed = (part for line in text.split("\n") for part in line.split("]")[:-1])
    return sum("[" in part for part in closed)


def _highlights(text: str) -> int:
    found = [*re.findall(r"\*[^\n*]*\*", text), *re.findall(r"\*\*[^\n*]*\*\*", text)]
    return sum(bool(each.strip("*").strip()) for each in found)


def _is_json(text: str) -> bool:
    try:
        json.loads(re.sub(r"\A```(?:json|Json|JSON)?|```\Z", "", text.strip()))
    except (ValueError, RecursionError):
        return False
    return True


def _has_title(text: str) -> bool:
    marked = (line[line.find("<<") : line.rfind(">>") + 2] for line in text.split("\n"))
    return any(title.strip("<").rstrip(">").strip() for title in marked)


# The first parameter is the text; the others are named as IFEval names them.
RULES: dict[str, Callable[..., bool]] = {
    "keywords:existence": lambda text, keywords: all(k.lower() in text.lower() for k in keywords),
    "keywords:frequency": lambda text, keyword, relation, frequency: _compare(
        text.lower().count(keyword.strip().lower()), relation, frequency
    ),
    "keywords:forbidden_words": lambda text, forbidden_words: (
        not any(
            re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)
            for word in forbidden_words
        )
    ),
    "keywords:letter_frequency": lambda text, letter, let_relation, let_frequency: _compare(
        text.lower().count(letter.strip().lower()), let_relation, let_frequency
    ),
    "language:response_language": _is_language,
    "length_constraints:number_sentences": lambda text, relation, num_sentences: _compare(
        count_sentences(text), relation, num_sentences
    ),
    "length_constraints:number_paragraphs": lambda text, num_paragraphs: (
        len(_parts(text, "***")) == num_paragraphs
    ),
    "length_constraints:number_words": lambda text, relation, num_words: _compare(
        len(re.findall(r"\w+", text)), relation, num_words
    ),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda text, num_placeholders: (
        _placeholders(text) >= num_placeholders
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": lambda text, num_bullets: (
        len(re.findall(r"^[^\S\n]*(?:\*[^*]|-)", text, re.MULTILINE)) == num_bullets
    ),
    "detectable_format:constrained_response": lambda text: any(
        f"My answer is {word}." in text for word in ("yes", "no", "maybe")
    ),
    "detectable_format:number_highlighted_sections": lambda text, num_highlights: (
        _highlights(text) >= num_highlights
    ),
    "detectable_format:multiple_sections": lambda text, section_spliter, num_sections: (
        len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d", text)) >= num_sections
    ),
    "detectable_format:json_format": _is_json,
    "detectable_format:title": _has_title,
    "combination:two_responses": lambda text: (
        len(_parts(text, "******")) == len(set(_parts(text, "******"))) == 2
    ),
    "combination:repeat_prompt": lambda text, prompt_to_repeat: (
        text.strip().lower().startswith(prompt_to_repeat.strip().lower())
    ),
    "startend:end_checker": lambda text, end_phrase: (
        text.strip().strip('"').lower().endswith(end_phrase.strip().lower())
    ),
    "change_case:capital_word_frequency": lambda text, capital_relation, capital_frequency: (
        _compare(count_capital_words(text), capital_relation, capital_frequency)
    ),
    "change_case:english_capital": lambda text: text.isupper() and _is_language(text, "en"),
    "change_case:english_lowercase": lambda text: text.islower() and _is_language(text, "en"),
    "punctuation:no_comma": lambda text: "," not in text,
    "startend:quotation": lambda text: re.fullmatch(r'\s*".*"\s*', text, re.DOTALL) is not None,
}
