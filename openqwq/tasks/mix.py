"""The sources of problems by name, as configs ask for them."""

import difflib
from collections.abc import Callable, Iterator
from typing import Any

from openqwq.config import Config, SourceConfig
from openqwq.tasks.arithmetic import ARITHMETIC
from openqwq.tasks.instructions import INSTRUCTIONS
from openqwq.tasks.programs import PROGRAMS
from openqwq.tasks.source import Source, distinct, draw_tasks
from openqwq.tasks.tools import TOOL_TASKS
from openqwq.tasks.worlds import WORLDS
from openqwq.types import OpenQwQError


def build_source(config: SourceConfig) -> Source:
    """The source that a config names; raises OpenQwQError for unknown names or options."""
    factories: dict[str, Callable[..., Source]] = {
        **ARITHMETIC,
        **PROGRAMS,
        **INSTRUCTIONS,
        **TOOL_TASKS,
        **WORLDS,
        "gym": _gym,
    }
    if config.source not in factories:
        near = difflib.get_close_matches(config.source, factories, n=1, cutoff=0.0)[0]
        raise OpenQwQError(f"unknown source {config.source!r}: did you mean {near!r}?")
    try:
        return factories[config.source](**config.options)
    except TypeError as error:
        raise OpenQwQError(
            f"source {config.source!r} cannot take the options {dict(config.options)}: {error}"
        ) from error


def training_texts(config: Config, per_source: int = 1000) -> Iterator[str]:
    """What a run of `config` trains on: the first problems of each source and their solutions."""
    for entry in (*config.tasks, *config.stage2.tasks):
        stream = draw_tasks(build_source(entry), "train", config.seed)
        for task in distinct(stream, per_source):
            yield " ".join([*(m["content"] for m in task.messages), task.solution or ""])


def _gym(**options: Any) -> Source:
    from openqwq.tasks.gym import gym  # imports a hundred datasets: only where one is asked for

    return gym(**options)
