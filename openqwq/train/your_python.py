"""A user's own functions and classes as judges and environments."""

import asyncio
import inspect
import math
import traceback
from collections.abc import Mapping
from typing import Any, cast

from openqwq.data.user_code import load_object
from openqwq.types import Environment, OpenQwQError, Score, Task


class UserJudge:
    """A function `(task, completion) -> float | bool | Score`, sync or async, as a `Verifier`.

    A number is a reward without a verdict (`scored`); True and False are `correct` and `wrong`.
    `error`, with what happened as detail: an exception (with its traceback), None, a number that
    is not finite, any other type, and a call of more than `seconds`.
    """

    def __init__(self, reference: str, seconds: float) -> None:
        self.reference = reference
        self._seconds = seconds
        loaded = load_object(reference)
        judge: Any = loaded() if inspect.isclass(loaded) else loaded
        self._function: Any = getattr(judge, "score", judge)  # a Verifier, or a function
        if not callable(self._function):
            raise OpenQwQError(f"{reference} is {loaded!r}, not a function: name one")

    async def score(self, task: Task, completion: str) -> Score:
        """See the class."""
        try:
            async with asyncio.timeout(self._seconds):
                found = await self._call(task, completion)
        except TimeoutError:
            return self._error(f"took more than {self._seconds:g} s")
        except Exception:  # the user's own code may raise anything
            return self._error(f"raised\n{traceback.format_exc()}")
        return self._read(found)

    async def _call(self, task: Task, completion: str) -> Any:
        if inspect.iscoroutinefunction(self._function):
            return await self._function(task, completion)
        found = await asyncio.to_thread(self._function, task, completion)
        return await found if inspect.isawaitable(found) else found

    def _read(self, found: Any) -> Score:
        if isinstance(found, Score):
            return found
        if isinstance(found, bool):
            return Score(float(found), "correct" if found else "wrong")
        try:
            value = float(found)
        except (TypeError, ValueError):
            return self._error(f"returned {found!r:.80}: return a number, a bool or a Score")
        if not math.isfinite(value):
            return self._error(f"returned {value}: return a finite number")
        return Score(value, "scored")

    def _error(self, what: str) -> Score:
        return Score(0.0, "error", detail=f"{self.reference} {what}")


def open_environment(reference: str, options: Mapping[str, Any]) -> Environment:
    """An environment of the user's: a class, made with `options`, or an object with `reset`.

    Raises OpenQwQError where it cannot be made or has no `reset`.
    """
    loaded = load_object(reference)
    if inspect.isclass(loaded):
        try:
            made = loaded(**options)
        except Exception as error:  # the user's own code may raise anything
            raise OpenQwQError(
                f"{reference} cannot be made with the options {dict(options)}: "
                f"{type(error).__name__}: {error}"
            ) from error
    else:
        made = loaded
    if not hasattr(made, "reset"):
        raise OpenQwQError(f"{reference} has no method reset(task, seed): an environment needs it")
    return cast(Environment, made)
