"""A user's own functions and classes as judges and environments."""

import asyncio
import inspect
import math
import threading
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from openqwq.data.user_code import load_object
from openqwq.types import Environment, OpenQwQError, Score, Task

CALLS_AT_ONCE = 8  # of a function that is not async


def check_judge_function(reference: str) -> None:
    """Raise OpenQwQError where what `reference` names cannot be called as a judge is."""
    loaded = load_object(reference)
    function = getattr(loaded, "score", loaded)
    if not callable(function):
        raise OpenQwQError(f"{reference} is {loaded!r}, not a function: name one")
    if _takes_names(function):
        return
    arguments: list[Any] = [None, ""]
    if inspect.isclass(loaded):
        arguments.insert(0, None)  # its self
    try:
        signature = inspect.signature(function)
    except ValueError:  # of a builtin
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise OpenQwQError(
            f"{reference} is called with a task and a completion, but it takes {signature} "
            f"({error}): give it these two parameters"
        ) from error


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
        self._by_name = _takes_names(self._function)
        self._places = asyncio.Semaphore(CALLS_AT_ONCE)

    async def score(self, task: Task, completion: str) -> Score:
        """See the class."""
        if inspect.iscoroutinefunction(self._function):
            return await self._judged(self._asked(task, completion))
        async with self._places:  # a call's own time counts, not its wait for others
            return await self._judged(self._call(task, completion))

    async def _judged(self, call: Awaitable[Any]) -> Score:
        try:
            async with asyncio.timeout(self._seconds):
                found = await call
        except TimeoutError:
            return self._error(f"took more than {self._seconds:g} s")
        except Exception:  # the user's own code may raise anything
            return self._error(f"raised\n{traceback.format_exc()}")
        return self._read(found)

    def _asked(self, task: Task, completion: str) -> Any:
        """The function's own result, whatever the order of its parameters."""
        if self._by_name:
            return self._function(task=task, completion=completion)
        return self._function(task, completion)

    async def _call(self, task: Task, completion: str) -> Any:
        found = await in_daemon_thread(self._asked, task, completion)
        return await found if inspect.isawaitable(found) else found

    def _read(self, found: Any) -> Score:
        if isinstance(found, Score):
            return found
        if isinstance(found, bool):
            return Score(float(found), "correct" if found else "wrong")
        try:
            value = float(found)
        except (TypeError, ValueError):
            return self._error(
                f"returned {found!r:.80}: return a number, a bool or a Score"
            )
        if not math.isfinite(value):
            return self._error(f"returned {value}: return a finite number")
        return Score(value, "scored")

    def _error(self, what: str) -> Score:
        return Score(0.0, "error", detail=f"{self.reference} {what}")


def _takes_names(function: Any) -> bool:
    """Whether the parameters are named as the docs name them."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # of a builtin
        return False
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [name for name, each in signature.parameters.items() if each.kind in kinds]
    return {"task", "completion"} <= set(named)


async def in_daemon_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `function`, or what it raises, from a thread that nobody has to wait for.

    One that hangs for ever keeps neither the event loop nor the end of the process waiting, which
    `asyncio.to_thread` would.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def end(result: Any, error: BaseException | None) -> None:
        if future.done():  # nobody waits any more
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def work() -> None:
        result: Any = None
        problem: BaseException | None = None
        try:
            result = function(*arguments)
        except Exception as error:
            problem = error
        except BaseException as error:  # such as sys.exit, which must not end the run
            problem = RuntimeError(f"{type(error).__name__}: {error}")
            problem.__cause__ = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(end, result, problem)

    threading.Thread(target=work, daemon=True).start()
    return await future


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
        raise OpenQwQError(
            f"{reference} has no method reset(task, seed): an environment needs it"
        )
    return cast(Environment, made)
