"""SFT with `thinking_budgets`: a worked thinking ends where the engine would end it."""

import random

import pytest

from openqwq.config import SftStage
from openqwq.tasks.arithmetic import addition
from openqwq.tasks.source import draw_tasks
from openqwq.text.stream import closing_ids, parse_reply
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.packing import pack_examples
from openqwq.train.sft import batch_examples, encode_examples
from openqwq.types import Message, OpenQwQError, Task

TOKENIZER = Tokenizer.train(["What is 12 + 34? 2+4=6 1+3=4 \\boxed{46}"] * 9, 290)
TASK = next(draw_tasks(addition(3, 4), "train", seed=0))


def learned(example: tuple[list[int], list[bool]]) -> str:
    ids, mask = example
    return TOKENIZER.decode(
        [token for token, is_learned in zip(ids, mask, strict=True) if is_learned]
    )


@pytest.mark.parametrize("budget", [0, 1, 5])
def test_the_tokens_that_end_it_are_the_engines_and_not_learned(budget: int) -> None:
    (whole,) = encode_examples(TOKENIZER, TASK)
    (cut,) = encode_examples(TOKENIZER, TASK, budget=budget)
    ids, mask = cut
    start = len(encode_chat(TOKENIZER, TASK.messages))
    assert ids[: start + budget] == whole[0][: start + budget]

    forced = closing_ids(TOKENIZER)
    end = start + budget + len(forced)
    assert ids[start + budget : end] == forced
    assert mask == [False] * start + [True] * budget + [False] * len(forced) + [True] * (
        len(ids) - end
    )
    reply = parse_reply(TOKENIZER, ids[start:])
    assert TASK.answer is not None and TASK.answer in reply.content
    assert TASK.answer in learned(cut)


def test_a_thinking_within_the_budget_or_without_one_stays() -> None:
    whole = encode_examples(TOKENIZER, TASK)
    assert encode_examples(TOKENIZER, TASK, budget=500) == whole
    hasty = next(draw_tasks(addition(3, 4), "train", seed=0, thinking_share=0.0))
    assert encode_examples(TOKENIZER, hasty, budget=0) == encode_examples(TOKENIZER, hasty)


def test_each_example_of_a_batch_draws_its_budget_and_the_forced_tokens_are_no_targets() -> (
    None
):
    stage = SftStage("brief", thinking_budgets=(0, 2, 4))
    tasks = [TASK] * 40
    examples = batch_examples(TOKENIZER, tasks, stage, random.Random(0))
    assert examples == batch_examples(TOKENIZER, tasks, stage, random.Random(0))
    assert len({len(ids) for ids, _ in examples}) == 3

    batches = pack_examples(examples, 10_000)
    targets = sum(len(batch.targets) for batch in batches)
    assert targets == sum(sum(mask) for _, mask in examples)


def test_a_recorded_conversation_is_refused() -> None:
    said = Message(role="assistant", content="good")
    asked = Message(role="user", content="Hi")
    task = Task("row 7", "chat", (asked,), "", demonstration=(said,))
    with pytest.raises(OpenQwQError, match=r"row 7 .* worked solutions alone"):
        encode_examples(TOKENIZER, task, budget=4)
