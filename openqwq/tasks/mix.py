"""The sources of problems by name, as configs ask for them."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from openqwq.data.user_code import is_reference, load_object
from openqwq.tasks.arithmetic import ARITHMETIC
from openqwq.tasks.instructions import INSTRUCTIONS
from openqwq.tasks.programs import PROGRAMS
from openqwq.tasks.source import Source
from openqwq.tasks.tools import TOOL_TASKS
from openqwq.types import OpenQwQError


def build_source(name: str, options: Mapping[str, Any]) -> Source:
    """The source called `name`, or that the function `file.py:function` returns.

    Raises OpenQwQError for unknown names, for options that it does not take, and for a function
    that returns something else.
    """
    factories: dict[str, Callable[..., Source]] = {
        **ARITHMETIC,
        **PROGRAMS,
        **INSTRUCTIONS,
        **TOOL_TASKS,
        "gym": _gym,
    }
    if is_reference(name):
        factory = load_object(name)
    elif name in factories:
        factory = factories[name]
    else:
        near = difflib.get_close_matches(name, factories, n=1, cutoff=0.0)[0]
        raise OpenQwQError(
            f"unknown source {name!r}: did you mean {near!r}? Your own is named file.py:function"
        )

    try:
        source = factory(**options)
    except OpenQwQError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise OpenQwQError(
            f"source {name!r} refuses the options {dict(options)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(source, Source):
        raise OpenQwQError(
            f"source {name!r} returned {source!r:.80}: return an openqwq.tasks.source.Source"
        )
    return source


def _gym(**options: Any) -> Source:
    # imports a hundred datasets: only where one is asked for
    from openqwq.tasks.gym import gym

    return gym(**options)
