"""Calculators under many names, wordings and schemas, of which some are kept from training.

A model that has met one tool learns that tool's description by heart; one that has met many must
read it. Names, descriptions, arguments and answers each come in wordings to train on and in others
to test with, which share no name and no sentence.
"""

import random
import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal

from openqwq.tasks.arithmetic import operand
from openqwq.tasks.source import Problem, Source, Turn
from openqwq.types import Message, OpenQwQError, ToolCall

Form = Literal["expression", "pair", "list", "operation"]
Coin = Literal["syllables", "letters", "characters", "fragments"]
FORMS: tuple[Form, ...] = ("expression", "pair", "list", "operation")
SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
COINED_SHARE = 0.6  # of the names and arguments: made up, so that they must be copied
SYLLABLES = tuple(f"{first}{then}" for first in "bcdfghjklmnpqrstvwxyz" for then in "aeiou")
CHARACTERS = string.ascii_letters + string.digits + "_"


@dataclass(frozen=True)
class Wordings:
    """The words that descriptions of calculators are made of."""

    verbs: tuple[str, ...]
    nouns: tuple[str, ...]
    syllables: tuple[str, ...]
    coins: tuple[Coin, ...]  # what coined words are made of
    lengths: tuple[int, ...]  # of coined names, in words
    alike_share: float  # of calculators with coined arguments, which start alike
    descriptions: tuple[str, ...]
    texts: tuple[str, ...]  # what an argument that holds an expression is called
    numbers: tuple[tuple[str, str], ...]  # two numbers
    lists: tuple[str, ...]
    operations: tuple[str, ...]
    hints: tuple[str, ...]  # descriptions of an argument
    answers: tuple[str, ...]  # of the tool; {a}, {b} and {result} are filled in

    @cached_property
    def fragments(self) -> tuple[str, ...]:
        """One to four letters each, cut out of the words."""
        words = [*self.verbs, *self.nouns, *self.texts, *self.lists, *self.operations]
        for description in self.descriptions:
            words += description.lower().split()

        found: set[str] = set()
        for word in words:
            for start, length in product(range(len(word)), range(1, 5)):
                found.add(word[start : start + length])
        return tuple(sorted(fragment for fragment in found if fragment.isalpha()))


SEEN = Wordings(
    verbs=(
        "calculate",
        "compute",
        "evaluate",
        "solve",
        "eval",
        "calc",
        "get",
        "run",
        "do",
        "math",
    ),
    nouns=(
        "expression",
        "math",
        "numbers",
        "arithmetic",
        "result",
        "formula",
        "sum",
        "value",
    ),
    syllables=SYLLABLES[0::4] + SYLLABLES[1::4] + SYLLABLES[2::4],
    coins=("syllables", "letters", "characters", "fragments"),
    lengths=(1, 1, 2, 3),
    alike_share=0.4,
    descriptions=(
        "",
        "Calculates/evaluates the given expression.",
        "Evaluate arithmetic and return the result.",
        "Use this for all maths with large numbers.",
        "A simple calculator.",
        "Computes numbers exactly.",
        "Does arithmetic that is too long to do in your head.",
        "Returns the value as a string.",
        "Never do sums yourself: ask this tool.",
        "Exact integers of any size; floats are rounded.",
        "Supports + - * / and brackets",
        "Tool for school maths",
        "Call it once for every sum.",
        "Long multiplication, done right.",
    ),
    texts=("expression", "expr", "formula", "input", "text", "problem", "query", "code"),
    numbers=(
        ("x", "y"),
        ("first", "second"),
        ("left", "right"),
        ("num1", "num2"),
        ("n", "m"),
    ),
    lists=("numbers", "values", "items", "terms"),
    operations=("operation", "op", "kind", "method"),
    hints=("", "", "what to calculate", "a number", "given in digits", "required"),
    answers=(
        "{result}",
        "{result}",
        "Result: {result}",
        '{{"result": {result}}}',
        "{a} * {b} = {result}",
        "{result}.0",
        "The result is {result}.",
        "[{result}]",
        "answer={result}",
        '{{"in": [{a}, {b}], "out": {result}, "error": null}}',
        "x = {a}\ny = {b}\nx * y = {result}",
        "Got {a}.0, {b}.0: {result}.0",
    ),
)
UNSEEN = Wordings(
    verbs=(
        "perform",
        "multiply",
        "determine",
        "process",
        "work_out",
        "find",
        "obtain",
        "crunch",
    ),
    nouns=(
        "calculation",
        "product",
        "equation",
        "figures",
        "digits",
        "quantity",
        "outcome",
    ),
    syllables=SYLLABLES[3::4],
    coins=("syllables",),
    lengths=(1,),
    alike_share=0.0,
    descriptions=(
        "Performs a calculation and gives back what comes out.",
        "Multiplies two numbers (int or float).",
        "Handy whenever precise figures are wanted!",
        "Trusted desk machine; never guesses.",
        "Works things out, however big they get.",
    ),
    texts=("question", "equation", "statement", "sentence", "calculation"),
    numbers=(("a", "b"), ("multiplicand", "multiplier"), ("factor_one", "factor_two")),
    lists=("factors", "operands", "figures"),
    operations=("action", "mode", "verb"),
    hints=("", "whatever you need worked out", "plain figures please", "must be present"),
    answers=(
        "Operation: Multiply\nInputs: {a}.0 and {b}.0\nResult: {result}.0",
        '{{"value": {result}, "ok": true}}',
        "= {result}",
        "Output: {result}.0",
    ),
)


@dataclass(frozen=True)
class Calculator:
    """A calculator as a model meets it: its specification, how it is called, how it answers."""

    specification: Mapping[str, Any]
    form: Form
    arguments: tuple[str, ...]  # by name; with an operation, that comes first
    answer: str  # {a}, {b} and {result} are filled in

    @property
    def name(self) -> str:
        """What a call names."""
        name: str = self.specification["function"]["name"]
        return name

    def product_of(self, a: int, b: int) -> dict[str, Any]:
        """The arguments that ask for a product."""
        if self.form == "expression":
            return {self.arguments[0]: f"{a} * {b}"}
        if self.form == "list":
            return {self.arguments[0]: [a, b]}
        values: list[Any] = [a, b]
        if self.form == "operation":
            values.insert(0, "multiply")
        return dict(zip(self.arguments, values, strict=True))

    def expression(self, given: Mapping[str, Any]) -> str:
        """What arguments that fit the schema ask for, as an arithmetic expression.

        Raises OpenQwQError for an operation that there is not.
        """
        values = [given[name] for name in self.arguments]
        if self.form == "expression":
            return str(values[0])
        if self.form == "list":
            return " * ".join(f"({value})" for value in values[0])
        sign = "*"
        if self.form == "operation":
            asked = values.pop(0)
            if asked not in SIGNS:
                known = ", ".join(SIGNS)
                raise OpenQwQError(
                    f"{self.arguments[0]} is {asked!r:.40}: it must be one of {known}"
                )
            sign = SIGNS[asked]
        a, b = values
        return f"({a}) {sign} ({b})"

    def said(self, given: Mapping[str, Any], result: str) -> str:
        """What the calculator answers with."""
        values = [given[name] for name in self.arguments]
        a, b = values[-2:] if self.form in ("pair", "operation") else ("", "")
        return self.answer.format(a=a, b=b, result=result)


def calculators(min_digits: int, max_digits: int, unseen: bool = False) -> Source:
    """Products of two long numbers, each with another calculator at hand.

    `unseen` calculators are worded as none that is trained on.
    """
    wordings = UNSEEN if unseen else SEEN

    def draw(rng: random.Random) -> Problem:
        a = operand(rng, min_digits, max_digits)
        b = operand(rng, min_digits, max_digits)
        described = any_calculator(rng, wordings)
        result = str(a * b)
        given = described.product_of(a, b)
        turn = Message(role="assistant", content="")
        turn["tool_calls"] = [ToolCall(name=described.name, arguments=given)]
        turn["reasoning_content"] = "too long: calculate"
        told = Message(role="tool", content=described.said(given, result))
        return Problem(
            key=f"{min(a, b)}*{max(a, b)}",
            question=f"What is {a} * {b}?",
            thinking="",
            reply=f"\\boxed{{{result}}}",
            answer=result,
            reference=described,
            tools=(described.specification,),
            turns=(Turn(turn, (told,)),),
        )

    return Source("calculators", "math", draw, environment="calculator")


def any_calculator(rng: random.Random, wordings: Wordings) -> Calculator:
    """A calculator with a name, a description, arguments and an answer of `wordings`."""
    form = rng.choice(FORMS)
    arguments = _arguments(rng, wordings, form)
    properties: dict[str, Any] = {}
    style = rng.choice(("plain", "described", "titled"))
    for name, kind in zip(arguments, _types(rng, form), strict=True):
        properties[name] = _property(rng, wordings, style, name, dict(kind))
    name = _name(rng, wordings)
    described = rng.choice(wordings.descriptions)
    parameters = _parameters(rng, style, name, properties)
    function = {"name": name, "description": described, "parameters": parameters}
    specification = {"type": "function", "function": function}
    answers = [
        text
        for text in wordings.answers
        if form in ("pair", "operation") or "{a}" not in text
    ]
    return Calculator(specification, form, arguments, rng.choice(answers))


def _name(rng: random.Random, wordings: Wordings) -> str:
    """`solve_sum`, `solveSum`, `solve`, or a coined word."""
    if rng.random() < COINED_SHARE:
        return coined(rng, wordings)
    verb = rng.choice(wordings.verbs)
    noun = rng.choice(wordings.nouns)
    return rng.choice((verb, f"{verb}_{noun}", f"{verb}{noun.title()}", f"{noun}-{verb}"))


def coined(rng: random.Random, wordings: Wordings) -> str:
    """A made-up name, of one word or of several: `nufaci`, `lectsub_Kq7`, `mutoArith`."""
    words = [_coined_word(rng, wordings) for _ in range(rng.choice(wordings.lengths))]
    joint = rng.choice(("_", "-", ""))
    if joint == "":
        return words[0] + "".join(word.title() for word in words[1:])
    return joint.join(words)


def _coined_word(rng: random.Random, wordings: Wordings) -> str:
    coin = rng.choice(wordings.coins)
    if coin == "syllables":
        return "".join(rng.sample(wordings.syllables, rng.randint(2, 3)))
    if coin == "letters":
        return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 8)))
    if coin == "characters":
        rest = rng.choices(CHARACTERS, k=rng.randint(1, 8))
        return rng.choice(string.ascii_letters) + "".join(rest)
    return "".join(rng.choices(wordings.fragments, k=rng.randint(1, 3)))


def coined_names(
    rng: random.Random, wordings: Wordings, count: int, alike: bool
) -> tuple[str, ...]:
    """`count` different made-up names; `alike`: with the same start, as `muKa_x`, `muKa_nufa`."""
    start = f"{coined(rng, wordings)}_" if alike else ""
    names: dict[str, None] = {}
    while len(names) < count:
        names[start + coined(rng, wordings)] = None
    return tuple(names)


def _arguments(rng: random.Random, wordings: Wordings, form: Form) -> tuple[str, ...]:
    if rng.random() < COINED_SHARE:
        count = {"expression": 1, "list": 1, "pair": 2, "operation": 3}[form]
        alike = rng.random() < wordings.alike_share
        return coined_names(rng, wordings, count, alike)
    if form == "expression":
        return (rng.choice(wordings.texts),)
    if form == "list":
        return (rng.choice(wordings.lists),)
    pair = rng.choice(wordings.numbers)
    return pair if form == "pair" else (rng.choice(wordings.operations), *pair)


def _types(rng: random.Random, form: Form) -> list[Mapping[str, Any]]:
    """The schema of each argument, without its name."""
    number = {"type": rng.choice(("integer", "number"))}
    if form == "expression":
        return [{"type": "string"}]
    if form == "list":
        return [{"type": "array", "items": number}]
    if form == "pair":
        return [number, number]
    operation: dict[str, Any] = {"type": "string"}
    if rng.random() < 0.5:
        operation["enum"] = list(SIGNS)
    return [operation, number, number]


def _property(
    rng: random.Random, wordings: Wordings, style: str, name: str, kind: dict[str, Any]
) -> dict[str, Any]:
    """The schema of one argument: bare, with a description, or with pydantic's title."""
    if style == "titled":
        return {"title": name.replace("_", " ").title(), **kind}
    hint = rng.choice(wordings.hints)
    if style == "described" and hint:
        kind["description"] = hint
    return kind


def _parameters(
    rng: random.Random, style: str, name: str, properties: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The schema of all arguments, in the order of keys that servers give it."""
    required = list(properties)
    if style == "titled":
        title = f"{name}Arguments"
        return {
            "properties": properties,
            "required": required,
            "title": title,
            "type": "object",
        }
    parameters: dict[str, Any] = {"type": "object"}
    parameters |= {"properties": properties, "required": required}
    if rng.random() < 0.5:
        parameters["additionalProperties"] = False
    return parameters
