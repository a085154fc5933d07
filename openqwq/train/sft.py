"""Cold start: supervised fine-tuning on worked solutions, loss on the completion alone."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from openqwq.config import OptimiserConfig
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.curriculum import Curriculum
from openqwq.train.learner import Learner
from openqwq.train.loss import Metrics, cross_entropy_loss
from openqwq.train.packing import MicroBatch, pack_examples
from openqwq.train.run import Parts, Run
from openqwq.types import OpenQwQError, Task

Progress = Callable[[int, Mapping[str, Any]], None]


def encode_example(tokenizer: Tokenizer, task: Task) -> tuple[list[int], list[bool]]:
    """Token ids of prompt, worked solution and end of turn, with True on what is to be learned."""
    if task.solution is None:
        raise OpenQwQError(f"task {task.id} has no worked solution: it cannot start a model")
    prompt = encode_chat(tokenizer, task.messages, task.tools)
    completion = [*tokenizer.encode(task.solution, allow_special=True), tokenizer.eos_ids[0]]
    return prompt + completion, [False] * len(prompt) + [True] * len(completion)


def turns(task: Task) -> Iterator[Task]:
    """A task and its continuations: each turn of its worked solution is an example of its own."""
    turn: Task | None = task
    while turn is not None:
        yield turn
        turn = turn.continuation


def train_sft(
    run: Run, learner: Learner, tokenizer: Tokenizer, curriculum: Curriculum, progress: Progress
) -> None:
    """Run the cold start to its end, saving and logging as it goes; resumes where it stopped.

    Raises InterruptedRun after the step in which Ctrl-C came.
    """
    config = run.config.sft
    parts: Parts = {"learner": learner, "curriculum": curriculum}
    run.restore("sft", parts)
    run.forget_after("sft", learner.done)
    with run.stoppable() as flag:
        while learner.done < config.steps:
            metrics = learner.train_step(
                _next_batches(config.batch_size, tokenizer, curriculum, config.optimiser),
                _objective,
            )
            run.log("sft", learner.done - 1, metrics)
            progress(learner.done, metrics)
            last = learner.done == config.steps
            if learner.done % config.checkpoint_every == 0 or last or flag.is_set:
                run.save("sft", parts)
                flag.check()


def _next_batches(
    size: int, tokenizer: Tokenizer, curriculum: Curriculum, optimiser: OptimiserConfig
) -> list[MicroBatch]:
    tasks = curriculum.next_tasks(size)
    examples = [encode_example(tokenizer, turn) for task in tasks for turn in turns(task)]
    return pack_examples(examples, optimiser.max_tokens_per_micro_batch)


def _objective(log_probs: Tensor, batch: MicroBatch, tokens: float) -> tuple[Tensor, Metrics]:
    return cross_entropy_loss(log_probs, tokens)
