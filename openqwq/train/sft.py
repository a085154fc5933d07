"""Supervised fine-tuning on worked solutions and recorded conversations: loss on replies alone."""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from openqwq.config import SftStage
from openqwq.evaluation.progress import Progress
from openqwq.tasks.table import DataTable
from openqwq.text.stream import CLOSING_TEXT, closing_ids
from openqwq.text.template import encode_chat, encode_reply, encode_solution
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.curriculum import Curriculum, epoch_tasks
from openqwq.train.learner import Learner
from openqwq.train.loss import Metrics, cross_entropy_loss
from openqwq.train.packing import pack_examples
from openqwq.train.run import Evaluate, Parts, Run
from openqwq.types import OpenQwQError, Task

Example = tuple[list[int], list[bool]]  # token ids, and True on what is to be learned


class TaskStream:
    """The tasks of an SFT stage, a batch at a time; resumes exactly from its `state`."""

    def __init__(self, tables: Mapping[str, DataTable], stage: SftStage, seed: str) -> None:
        self.taken = 0
        self.seed = seed
        self._size = stage.batch_size
        self._curriculum: Curriculum | None = None
        self._tasks: list[Task] = []
        if stage.steps:
            self._curriculum = Curriculum(
                tables, stage.data, seed, stage.thinking_share, stage.tool_share
            )
            self.steps = stage.steps
        else:
            self._tasks = list(epoch_tasks(tables, stage.data, stage.epochs, seed))
            self.steps = -(-len(self._tasks) // self._size)

    def next_batch(self) -> list[Task]:
        """The next tasks; the last batch of a stage counted in epochs may be smaller."""
        start = self.taken
        self.taken += self._size
        if self._curriculum is None:
            return self._tasks[start : self.taken]
        return [self._curriculum.task(number) for number in range(start, self.taken)]

    def state(self) -> dict[str, Any]:
        """What `load_state` needs to go on with the same tasks."""
        return {"taken": self.taken}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a `state`."""
        self.taken = state["taken"]


def encode_examples(
    tokenizer: Tokenizer, task: Task, loss_on: str = "all", budget: int | None = None
) -> list[Example]:
    """What a task teaches: its worked solution, turn by turn, or its recorded assistant turns.

    `loss_on` "last" keeps the last assistant turn of a recorded conversation alone. Each turn is an
    example of its own, behind the prompt that the template shows there. The thinking of a worked
    solution ends after `budget` tokens. Raises OpenQwQError for a task that has neither, and for a
    recorded conversation with a budget.
    """
    if task.demonstration:
        if budget is not None:
            raise OpenQwQError(
                f"{task.id} is a recorded conversation, and thinking_budgets cut worked solutions"
                " alone: give it a stage of its own, or leave thinking_budgets out"
            )
        examples = _recorded(tokenizer, task)
        return examples[-1:] if loss_on == "last" else examples
    return [_worked(tokenizer, turn, budget) for turn in turns(task)]


def turns(task: Task) -> Iterator[Task]:
    """A task and its continuations: each turn of its worked solution is an example of its own."""
    turn: Task | None = task
    while turn is not None:
        yield turn
        turn = turn.continuation


def _worked(tokenizer: Tokenizer, task: Task, budget: int | None) -> Example:
    """Prompt, worked solution and end of turn; a thinking above the budget is cut there."""
    if task.solution is None:
        raise OpenQwQError(
            f"task {task.id} has no worked solution: there is nothing to imitate"
        )
    prompt = encode_chat(tokenizer, task.messages, task.tools)
    if budget is not None:
        cut = _cut_thinking(tokenizer, prompt, task.solution, budget)
        if cut is not None:
            return cut
    return _example(prompt, encode_solution(tokenizer, prompt, task.solution))


def _cut_thinking(
    tokenizer: Tokenizer, prompt: list[int], solution: str, budget: int
) -> Example | None:
    """A solution whose thinking ends at `budget` as the engine ends it: by tokens not learned.

    None where the thinking is no longer than that.
    """
    thinking, end, answer = solution.partition(CLOSING_TEXT)
    if not end:
        return None
    begun = encode_solution(tokenizer, prompt, thinking)[:-1]  # without the turn's end
    opening = int(begun[:1] == [tokenizer.think_open_id])
    if len(begun) <= opening + budget:
        return None

    ids, learned = _example(prompt, begun[: opening + budget])
    forced = closing_ids(tokenizer)
    reply = [*tokenizer.encode(answer, allow_special=True), tokenizer.eos_ids[0]]
    learned += [False] * len(forced) + [True] * len(reply)
    return ids + forced + reply, learned


def _recorded(tokenizer: Tokenizer, task: Task) -> list[Example]:
    examples: list[Example] = []
    chat = list(task.messages)
    for message in task.demonstration:
        if message["role"] == "assistant" and message.get("weight") != 0:
            prompt, reply = encode_reply(tokenizer, chat, message, task.tools)
            examples.append(_example(prompt, reply))
        chat.append(message)
    if not examples:
        raise OpenQwQError(
            f"task {task.id} has no assistant turn: there is nothing to imitate"
        )
    return examples


def _example(prompt: list[int], reply: list[int]) -> Example:
    return prompt + reply, [False] * len(prompt) + [True] * len(reply)


async def train_sft(
    run: Run,
    stage: SftStage,
    learner: Learner,
    tokenizer: Tokenizer,
    stream: TaskStream,
    progress: Progress,
    evaluate: Evaluate,
) -> None:
    """Run the stage to its end, saving and logging as it goes; resumes where it stopped.

    Raises InterruptedRun after the step in which Ctrl-C came.
    """
    parts: Parts = {"learner": learner, "tasks": stream}
    run.restore(stage.name, parts)
    run.forget_after(stage.name, learner.done)
    progress(learner.done, {})
    with run.stoppable() as flag:
        while learner.done < stream.steps:
            budgets = random.Random(f"budgets/{stream.seed}/{stream.taken}")
            examples = batch_examples(tokenizer, stream.next_batch(), stage, budgets)
            batches = pack_examples(examples, stage.optimiser.micro_batch_tokens)
            metrics = learner.train_step(batches, _objective)
            run.log(stage.name, learner.done - 1, metrics)
            progress(learner.done, metrics)
            last = learner.done == stream.steps
            every = stage.evaluate.every
            if every and learner.done % every == 0 and not last:
                run.log(
                    stage.name, learner.done - 1, {"held_out": await evaluate(learner.done)}
                )
            if learner.done % stage.checkpoint_every == 0 or last or flag.is_set:
                run.save(stage.name, parts)
                flag.check()


def batch_examples(
    tokenizer: Tokenizer, tasks: Sequence[Task], stage: SftStage, budgets: random.Random
) -> list[Example]:
    """Every example of a batch, its budget drawn from `budgets`.

    Raises OpenQwQError for an example above the micro-batch's size.
    """
    limit = stage.optimiser.micro_batch_tokens
    examples: list[Example] = []
    for task in tasks:
        budget = None
        if stage.thinking_budgets:
            budget = budgets.choice(stage.thinking_budgets)
        for ids, learned in encode_examples(tokenizer, task, stage.loss_on, budget):
            if len(ids) > limit:
                raise OpenQwQError(
                    f"{task.id} has {len(ids)} tokens, above the {limit} of "
                    f"stages.{stage.name}.optimiser.max_tokens_per_micro_batch: raise that, or "
                    "leave the row out"
                )
            examples.append((ids, learned))
    return examples


def _objective(log_probs: Tensor, batch: Any, tokens: float) -> tuple[Tensor, Metrics]:
    return cross_entropy_loss(log_probs, tokens)
