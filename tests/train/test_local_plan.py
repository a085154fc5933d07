"""What the plan takes a step to hold: the tasks that the stage's own stream draws."""

from functools import cache
from itertools import islice
from statistics import mean

import pytest

from openqwq.config import RlStage, SftStage, find_config, load_config
from openqwq.data.hub import DataLock
from openqwq.tasks.calculators import calculators
from openqwq.tasks.source import draw_tasks
from openqwq.text.template import encode_chat
from openqwq.train.lengths import run_tokenizer
from openqwq.train.local_plan import imitated_step, sampled_step
from openqwq.train.prepare import Prepared, prepare


@cache
def tools() -> Prepared:
    return prepare(load_config([find_config("mini-tools")]), DataLock())


@pytest.mark.parametrize(
    ("name", "examples"), [("copy", 64 * (1 + 0.2 / 10.2)), ("read", 24 * (1 + 6 / 8))]
)
def test_each_turn_of_a_worked_solution_is_an_example_and_tables_count_by_their_shares(
    name: str, examples: float
) -> None:
    (stage,) = (stage for stage in tools().config.stages if stage.name == name)
    assert isinstance(stage, SftStage)
    tokenizer, _ = run_tokenizer(tools().config, tools().tables)
    step = imitated_step(tools(), stage, tokenizer)
    assert step.completions == pytest.approx(examples, rel=0.05)
    describes_tools = step.prompt_tokens > 150
    assert describes_tools == (name == "read")


def test_prompts_of_rl_are_those_of_its_tables_alone() -> None:
    (stage,) = (stage for stage in tools().config.stages if stage.name == "use")
    assert isinstance(stage, RlStage)
    tokenizer, _ = run_tokenizer(tools().config, tools().tables)
    lengths: list[int] = []
    for task in islice(draw_tasks(calculators(4, 5), "train", 0), 100):
        lengths.append(len(encode_chat(tokenizer, task.messages, task.tools)))
    step = sampled_step(tools(), stage, tokenizer)
    assert (step.completions, step.group_size) == (128, 8)
    assert step.prompt_tokens == pytest.approx(mean(lengths), rel=0.05)
