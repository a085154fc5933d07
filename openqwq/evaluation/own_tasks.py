"""Tables of one's own in the place of a benchmark: asked, judged, saved and resumed like one."""

from collections.abc import Sequence

from openqwq.evaluation.benchmarks.benchmark import Benchmark
from openqwq.evaluation.evaluation import Selection
from openqwq.types import OpenQwQError, Task


def own_selection(name: str, tasks: Sequence[Task], samples: int = 1) -> Selection:
    """The tasks of the table `name`, each to be asked `samples` times in one turn.

    Raises OpenQwQError where there are none, nothing can judge them, or an environment answers.
    """
    if not tasks:
        raise OpenQwQError(f"data.{name} has no tasks to ask: check its rows, held_out and limit")
    for task in tasks:
        if not task.verifier:
            raise OpenQwQError(
                f"data.{name} has no verifier ({task.id}): give its rows an answer, tests or "
                f"rules, or set data.{name}.verifier"
            )
        if task.environment:
            raise OpenQwQError(
                f"data.{name} is played in the environment {task.environment!r}, and here every "
                f'task is asked once: set data.{name}.environment = "none"'
            )
    benchmark = Benchmark(name, name, samples, load=lambda library: list(tasks))
    return Selection(benchmark, "", tasks)
