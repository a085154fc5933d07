"""IFEval's 25 instruction types as pure rules over a response (arXiv 2311.07911, table 1).

Each rule takes time linear in the response: training meets endless brackets and empty lines.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
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
            strict = [follows_rule(rule.id, rule.arguments, text) for rule in task.rules]
            loose = [
                follows_rule(rule.id, rule.arguments, text, loose=True)
                for rule in task.rules
            ]
        except OpenQwQError as error:
            return Score(0.0, "error", detail=f"task {task.id!r}: {error}")
        parts = {
            "fraction": fmean(strict),
            "loose": float(all(loose)),
            "loose_fraction": fmean(loose),
        }
        for rule, held in zip(task.rules, strict, strict=True):
            parts[rule.id] = min(parts.get(rule.id, 1.0), float(held))
        if all(strict):
            return Score(1.0, "correct", parts)
        return Score(0.0, "wrong", parts)


def follows_rule(
    rule_id: str, arguments: Mapping[str, Any], response: str, *, loose: bool = False
) -> bool:
    """Whether `response` follows one instruction by the strict or the loose criterion.

    Loose (section 2.2): one of eight variants does: the response as it is, without its first line,
    its last or both, each with and without asterisks. An empty text follows no instruction.
    Raises OpenQwQError as `known_rule` does.
    """
    rule = known_rule(rule_id, arguments)
    for text in _loose_texts(response) if loose else [response]:
        if text.strip() and rule(text, **arguments):
            return True
    return False


def known_rule(rule_id: str, arguments: Mapping[str, Any]) -> Callable[..., bool]:
    """The rule of an instruction, which takes these arguments.

    Raises OpenQwQError for an unknown rule, and for arguments that are not exactly the rule's.
    """
    rule = RULES.get(rule_id)
    if rule is None:
        raise OpenQwQError(
            f"unknown instruction {rule_id!r}: use one of {', '.join(RULES)}"
        )
    _, *names = signature(rule).parameters
    wrong = [name for name, value in arguments.items() if not _is_valid(name, value)]
    if wrong or arguments.keys() != set(names):
        given = f"{rule_id} takes {names} and got {dict(arguments)!r}"
        raise OpenQwQError(f"{given}: correct {', '.join(wrong) or 'the names'}")
    return rule


def _loose_texts(response: str) -> list[str]:
    """The variants of a response, of which one must follow the instruction."""
    lines = response.split("\n")
    texts = [response]
    for cut in (lines[1:], lines[:-1], lines[1:-1]):
        texts.append("\n".join(cut).strip())
    return texts + [text.replace("*", "") for text in texts]


def _is_valid(name: str, value: object) -> bool:
    if name.endswith("relation"):
        return value in ("at least", "less than")
    if name == "language":
        return value in _LANGUAGES
    if name.startswith(("num_", "nth_")) or name.endswith("frequency"):
        return type(value) is int and value >= 0
    words = value if name in ("keywords", "forbidden_words") else [value]
    return isinstance(words, list | tuple) and all(map(_is_text, words))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _compare(count: int, relation: str, bound: int) -> bool:
    if relation == "at least":
        return count >= bound
    return count < bound


def _is_language(text: str, language: str) -> bool:
    """By langdetect, as in IFEval; a text without letters passes for every language."""
    try:
        return bool(detect(text) == language)
    except LangDetectException:
        return True


def _parts(text: str, divider: str) -> list[str]:
    """The texts between dividers, of which only the first and the last may be empty; else none."""
    parts = list(map(str.strip, text.split(divider)))
    if not all(parts[1:-1]):
        return []
    return list(filter(None, parts))


def _first_word(
    text: str, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    paragraphs = text.split("\n\n")
    count = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if count != num_paragraphs:
        return False
    word = ""
    if 1 <= nth_paragraph <= count:
        start, *_ = [*paragraphs[nth_paragraph - 1].split(), ""]
        word = re.split(r"[.,?!'\"]", start.lstrip("'").lstrip('"'))[0]
    return word.lower() == first_word.lower()


def _postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    spaced = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(spaced.get(marker, re.escape(marker.lower())), text.lower()))


def _has_placeholders(text: str, num_placeholders: int) -> bool:
    count = 0
    for line in text.split("\n"):
        for part in line.split("]")[:-1]:
            count += "[" in part
    return count >= num_placeholders


def _has_highlights(text: str, num_highlights: int) -> bool:
    found = re.findall(r"\*[^\n*]*\*", text) + re.findall(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(each.strip("*").strip()) for each in found) >= num_highlights


def _is_json(text: str) -> bool:
    try:
        json.loads(re.sub(r"\A```(?:json|Json|JSON)?|```\Z", "", text.strip()))
    except (ValueError, RecursionError):
        return False
    return True


def _has_title(text: str) -> bool:
    for line in text.split("\n"):
        title = line[line.find("<<") : line.rfind(">>") + 2]
        if title.strip("<").rstrip(">").strip():
            return True
    return False


def _has_all(text: str, keywords: Sequence[str]) -> bool:
    return all(keyword.lower() in text.lower() for keyword in keywords)


def _has_none(text: str, forbidden_words: Sequence[str]) -> bool:
    for word in forbidden_words:
        if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE):
            return False
    return True


def _keyword_count(text: str, keyword: str, relation: str, frequency: int) -> bool:
    return _compare(text.lower().count(keyword.strip().lower()), relation, frequency)


def _letter_count(text: str, letter: str, let_relation: str, let_frequency: int) -> bool:
    return _compare(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


def _sentence_count(text: str, relation: str, num_sentences: int) -> bool:
    return _compare(count_sentences(text), relation, num_sentences)


def _word_count(text: str, relation: str, num_words: int) -> bool:
    return _compare(len(re.findall(r"\w+", text)), relation, num_words)


def _capital_count(text: str, capital_relation: str, capital_frequency: int) -> bool:
    return _compare(count_capital_words(text), capital_relation, capital_frequency)


def _paragraph_count(text: str, num_paragraphs: int) -> bool:
    return len(_parts(text, "***")) == num_paragraphs


def _bullet_count(text: str, num_bullets: int) -> bool:
    return len(re.findall(r"^[^\S\n]*(?:\*[^*]|-)", text, re.MULTILINE)) == num_bullets


def _has_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return (
        len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d", text)) >= num_sections
    )


def _chooses(text: str) -> bool:
    return any(f"My answer is {word}." in text for word in ("yes", "no", "maybe"))


def _two_responses(text: str) -> bool:
    responses = _parts(text, "******")
    return len(responses) == len(set(responses)) == 2


def _repeats(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _ends(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _in_capitals(text: str) -> bool:
    return text.isupper() and _is_language(text, "en")


def _in_small_letters(text: str) -> bool:
    return text.islower() and _is_language(text, "en")


def _no_comma(text: str) -> bool:
    return "," not in text


def _in_quotes(text: str) -> bool:
    return re.fullmatch(r'\s*".*"\s*', text, re.DOTALL) is not None


# The first parameter is the text; the others are named as IFEval names them.
RULES: dict[str, Callable[..., bool]] = {
    "keywords:existence": _has_all,
    "keywords:frequency": _keyword_count,
    "keywords:forbidden_words": _has_none,
    "keywords:letter_frequency": _letter_count,
    "language:response_language": _is_language,
    "length_constraints:number_sentences": _sentence_count,
    "length_constraints:number_paragraphs": _paragraph_count,
    "length_constraints:number_words": _word_count,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _has_placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullet_count,
    "detectable_format:constrained_response": _chooses,
    "detectable_format:number_highlighted_sections": _has_highlights,
    "detectable_format:multiple_sections": _has_sections,
    "detectable_format:json_format": _is_json,
    "detectable_format:title": _has_title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats,
    "startend:end_checker": _ends,
    "change_case:capital_word_frequency": _capital_count,
    "change_case:english_capital": _in_capitals,
    "change_case:english_lowercase": _in_small_letters,
    "punctuation:no_comma": _no_comma,
    "startend:quotation": _in_quotes,
}
