"""IFEval's rules give the published verdicts, refuse bad rules, and cannot be slowed down."""

import time
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from ifeval_agreement import DIFFERENT, agreement

from openqwq.types import OpenQwQError, Rule, Task
from openqwq.verify.instructions import RULES, InstructionVerifier, follows_rule
from openqwq.verify.sentences import count_capital_words, count_sentences


@pytest.mark.parametrize("criterion", ["strict", "loose"])
def test_every_published_verdict_is_ours(data_sets: Path, criterion: str) -> None:
    """All but DIFFERENT agree: 100% of each instruction (langdetect and nltk cost none here)."""
    found = agreement(data_sets, criterion)
    assert found.keys() == RULES.keys()
    for rule_id, one in found.items():
        assert one.total >= 4, rule_id
        assert one.equal >= 0.995 * one.total, (rule_id, one.differing)
    differing = [key for one in found.values() for key, _ in one.differing]
    assert set(differing) == set(DIFFERENT)
    assert len(differing) <= 5


@pytest.mark.parametrize(
    ("rule_id", "arguments", "follows", "breaks"),
    [
        ("keywords:existence", {"keywords": ["c++", "Rust"]}, "rust or C++", "Rust or C"),
        (
            "keywords:frequency",
            {"keyword": "or", "relation": "less than", "frequency": 2},
            "for",
            "for or",
        ),
        (
            "keywords:forbidden_words",
            {"forbidden_words": ["c++", "cat"]},
            "cats, c",
            "(C++)",
        ),
        (
            "keywords:letter_frequency",
            {"letter": "q", "let_relation": "at least", "let_frequency": 2},
            "Qq",
            "Q",
        ),
        (
            "language:response_language",
            {"language": "de"},
            "Wo ist denn die große Bücherei?",
            "Where is it?",
        ),
        (
            "length_constraints:number_sentences",
            {"relation": "less than", "num_sentences": 3},
            'Dr. A. Smith paid $3.50 at 5 p.m. today. "Really?"\n',
            "Yes! No. 1. Perhaps",
        ),
        (
            "length_constraints:number_paragraphs",
            {"num_paragraphs": 2},
            "***a***b",
            "a***\n***b",
        ),
        (
            "length_constraints:number_words",
            {"relation": "at least", "num_words": 3},
            "it's a",
            "a b",
        ),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "So"},
            "a\n\n'so, b",
            "a\n\nsome\n",
        ),
        (
            "detectable_content:number_placeholders",
            {"num_placeholders": 2},
            "[a][b]",
            "[a\n] [b]",
        ),
        (
            "detectable_content:postscript",
            {"postscript_marker": "P.P.S"},
            "P. p. s. x",
            "P.S. x",
        ),
        (
            "detectable_format:number_bullet_lists",
            {"num_bullets": 2},
            "* a\n\n - b",
            "- a\n** b",
        ),
        (
            "detectable_format:constrained_response",
            {},
            "Hm. My answer is no.",
            "my answer is no.",
        ),
        (
            "detectable_format:number_highlighted_sections",
            {"num_highlights": 1},
            "*a*",
            "* *",
        ),
        (
            "detectable_format:multiple_sections",
            {"section_spliter": "Part", "num_sections": 2},
            "Part 1 a Part2",
            "Part 1 a part 2",
        ),
        ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{'a': 1}"),
        ("detectable_format:title", {}, "<<a>>", "<< >>"),
        ("combination:two_responses", {}, "a\n******\nb", "a******a"),
        (
            "combination:repeat_prompt",
            {"prompt_to_repeat": "Say it"},
            " say it. ok",
            "ok. say it",
        ),
        ("startend:end_checker", {"end_phrase": "Bye."}, 'so "bye."', "bye. so"),
        (
            "change_case:capital_word_frequency",
            {"capital_relation": "at least", "capital_frequency": 2},
            "DON'T",
            "U.S. iPod",
        ),
        ("change_case:english_capital", {}, "THIS IS ENGLISH TEXT", "THIS IS English TEXT"),
        (
            "change_case:english_lowercase",
            {},
            "this is english text",
            "dies ist deutscher text",
        ),
        ("punctuation:no_comma", {}, "a; b", "a, b"),
        ("startend:quotation", {}, ' "a" ', '"a" b'),
    ],
)
def test_each_rule_tells_following_from_breaking(
    rule_id: str, arguments: dict[str, Any], follows: str, breaks: str
) -> None:
    assert follows_rule(rule_id, arguments, follows)
    assert not follows_rule(rule_id, arguments, breaks)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("No end\n\nat all", 1),
        ("Dr. Lee and J. R. Smith of the U.S. met. Then", 2),
        ('Well... Who? (Yes.) "Go!" she said.', 5),
        ("well... who", 1),
        ("1. First 2. second 3.5 more.", 2),
        ('He said "no."', 1),
        ("**He said no.**", 2),  # an oddity of Punkt: the asterisks stand alone
    ],
)
def test_sentences_are_counted_as_punkt_does(text: str, count: int) -> None:
    assert count_sentences(text) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("I DON'T", 3),
        ("(A) B:C, **D**", 4),
        ("A-B U.S. 3:4", 2),
        ("I’m “OK”--NO", 3),
        ("Ab aB 1", 0),
    ],
)
def test_capital_words_are_split_as_in_the_penn_treebank(text: str, count: int) -> None:
    assert count_capital_words(text) == count


@pytest.mark.parametrize(
    "response", ["Sure!\n**a b**", "**a b**\nBye, all", "Sure, here:\n**a b**\nBye!", "a b"]
)
def test_loose_forgives_first_and_last_lines_and_asterisks(response: str) -> None:
    ending = {"prompt_to_repeat": "a b"}
    assert follows_rule("combination:repeat_prompt", ending, response, loose=True)
    assert follows_rule("combination:repeat_prompt", ending, response) == (
        response == "a b"
    )


def test_an_empty_response_follows_no_instruction() -> None:
    for loose in (False, True):
        assert not follows_rule("punctuation:no_comma", {}, " \n", loose=loose)


@pytest.mark.parametrize(
    ("rule_id", "arguments", "named"),
    [
        ("keywords:rhyme", {}, "keywords:rhyme"),
        ("punctuation:no_comma", {"num_commas": 1}, "num_commas"),
        ("length_constraints:number_paragraphs", {}, "num_paragraphs"),
        ("length_constraints:number_paragraphs", {"num_paragraphs": "2"}, "num_paragraphs"),
        (
            "length_constraints:number_paragraphs",
            {"num_paragraphs": True},
            "num_paragraphs",
        ),
        (
            "length_constraints:number_words",
            {"relation": "most", "num_words": 1},
            "relation",
        ),
        ("keywords:existence", {"keywords": "cat"}, "keywords"),
        ("language:response_language", {"language": "tlh"}, "language"),
    ],
)
async def test_an_unknown_rule_or_a_bad_argument_is_an_error_and_never_false(
    rule_id: str, arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(OpenQwQError, match=named):
        follows_rule(rule_id, arguments, "text")
    task = Task("one", "ifeval", (), "instructions", rules=(Rule(rule_id, arguments),))
    score = await InstructionVerifier().score(task, "</think>text")
    assert (score.status, score.value) == ("error", 0.0)
    assert named in score.detail


TASK = Task(
    "one",
    "ifeval",
    (),
    "instructions",
    rules=(
        Rule("punctuation:no_comma", {}),
        Rule("startend:quotation", {}),
        Rule("keywords:existence", {"keywords": ["a"]}),
        Rule("keywords:existence", {"keywords": ["b"]}),
    ),
)


async def test_only_the_text_after_the_thinking_is_judged() -> None:
    score = await InstructionVerifier().score(TASK, 'a, b, c</think>\n\n"a b"')
    assert (score.value, score.status) == (1.0, "correct")
    whole = await InstructionVerifier(thinking=False).score(
        TASK, 'a, b, c</think>\n\n"a b"'
    )
    assert (whole.value, whole.status) == (0.0, "wrong")
    endless = await InstructionVerifier().score(TASK, '"a b"')
    assert (endless.value, endless.status) == (0.0, "truncated")
    nothing = await InstructionVerifier().score(
        Task("one", "ifeval", (), "instructions"), ""
    )
    assert nothing.status == "error"


async def test_the_parts_tell_the_rules_their_fraction_and_the_loose_verdict() -> None:
    score = await InstructionVerifier().score(TASK, '</think>Sure, b:\n"a"')
    assert score.parts == {
        "punctuation:no_comma": 0.0,
        "startend:quotation": 0.0,
        "keywords:existence": 1.0,
        "fraction": 0.5,
        "loose": 1.0,
        "loose_fraction": 1.0,
    }


@pytest.mark.parametrize(
    "unit", ["<", "[", "\n", " ", "*", '"', ".", "!", "p. ", "{", "x", "1."]
)
def test_no_rule_is_slow_on_endless_repetition(unit: str) -> None:
    """One that is quadratic needs minutes for these lengths; all together take about a second."""
    words = "keyword letter first_word postscript_marker section_spliter prompt_to_repeat"
    arguments: dict[str, Any] = dict.fromkeys([*words.split(), "end_phrase"], "q")
    arguments["language"] = "en"
    arguments |= {"keywords": ["q"], "forbidden_words": ["q"]}
    arguments |= {name + "relation": "at least" for name in ("", "let_", "capital_")}
    arguments |= {name + "frequency": 2 for name in ("", "let_", "capital_")}
    text = f"x{unit * (100_000 // len(unit))}y"
    start = time.process_time()
    for rule_id, rule in RULES.items():
        _, *names = signature(rule).parameters
        follows_rule(rule_id, {name: arguments.get(name, 2) for name in names}, text)
    assert time.process_time() - start < 10
