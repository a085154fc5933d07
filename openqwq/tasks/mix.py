"""The sources of problems by name, as configs ask for them."""

import difflib
from collections.abc import Callable
from typing import Any

from openqwq.config import SourceConfig
from openqwq.tasks.arithmetic import ARITHMETIC
from openqwq.tasks.instructions import INSTRUCTIONS
from openqwq.tasks.programs import PROGRAMS
from openqwq.tasks.source import Source
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


def _gym(**options: Any) -> Source:
    from openqwq.tasks.gym import gym  # imports a hundred datasets: only where one is asked for

    return gym(**options)
