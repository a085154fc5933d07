"""A user's own functions and classes as judges and environments."""

import asyncio
import copy
import functools
import inspect
import math
import threading
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast, get_args

from openqwq.data.user_code import load_object
from openqwq.types import Environment, OpenQwQError, Score, ScoreStatus, Task

CALLS_AT_ONCE = 8  # of a function that is not async


def check_judge_function(reference: str) -> None:
    """Raise OpenQwQError where what `reference` names cannot be called as a judge is."""
    function = _judge_function(reference)
    try:
        signature = inspect.signature(function)
    except ValueError:  # of a builtin
        return
    try:
        if _takes_names(function):
            signature.bind(task=None, completion="")
        else:
            signature.bind(None, "")
    except TypeError as error:
        raise OpenQwQError(
            f"{reference} is called with a task and a completion, but it takes {signature} "
            f"({error}): give it these two parameters"
        ) from error
    _require_order(reference, list(signature.parameters), function)


def _require_order(reference: str, names: list[str], function: Callable[..., Any]) -> None:
    """Raise OpenQwQError where a parameter named for one of the two is given the other."""
    if _takes_names(function):
        return
    for name, given, place in (("completion", "task", 0), ("task", "completion", 1)):
        if names[place : place + 1] == [name]:
            raise OpenQwQError(
                f"{reference} takes ({', '.join(names)}), so that its {name!r} is given the "
                f"{given}: name its parameters task and completion"
            )


def _judge_function(reference: str) -> Callable[..., Any]:
    """What is called: a function, or a class's or an object's `score` or `__call__`."""
    loaded = load_object(reference)
    if inspect.isclass(loaded):
        try:
            loaded = loaded()
        except Exception as error:  # the user's own code may raise anything
            raise OpenQwQError(
                f"{reference} cannot be made without arguments: {type(error).__name__}: {error}; "
                "name an object that is made in the file"
            ) from error
    function = getattr(loaded, "score", loaded)
    if not callable(function):
        raise OpenQwQError(f"{reference} is {loaded!r}, not a function: name one")
    return cast(Callable[..., Any], function)


class UserJudge:
    """A function `(task, completion) -> float | bool | Score`, sync or async, as a `Verifier`.

    A number is a reward without a verdict (`scored`); True and False are `correct` and `wrong`.
    `error`, with what happened as detail: an exception (with its traceback), None, a number that
    is not finite, any other type, and a call of more than `seconds`.
    """

    def __init__(self, reference: str, seconds: float) -> None:
        self.reference = reference
        self._seconds = seconds
        self._function = _judge_function(reference)
        self._by_name = _takes_names(self._function)
        self._places = asyncio.Semaphore(CALLS_AT_ONCE)

    def within(self, seconds: float) -> "UserJudge":
        """The same judge with another limit, as another stage may set."""
        judge = copy.copy(self)
        judge._seconds = seconds
        return judge

    async def score(self, task: Task, completion: str) -> Score:
        """See the class."""
        if inspect.iscoroutinefunction(self._function):
            return await self._judged(in_own_loop(self._asked(task, completion)))
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
        return await in_own_loop(found) if inspect.isawaitable(found) else found

    def _read(self, found: Any) -> Score:
        if isinstance(found, Score):
            known = get_args(ScoreStatus)
            if found.status not in known:
                return self._error(
                    f"returned a Score of status {found.status!r}: it must be one of "
                    f"{', '.join(known)}"
                )
            return found
        if isinstance(found, bool):
            return Score(float(found), "correct" if found else "wrong")
        if isinstance(found, str | bytes):  # which float() would read
            return self._wrong_type(found)
        try:
            value = float(found)
        except OverflowError:
            value = math.inf
        except (TypeError, ValueError, RuntimeError):  # the last one from tensors
            return self._wrong_type(found)
        if not math.isfinite(value):
            return self._error(f"returned {value}: return a finite number")
        return Score(value, "scored")

    def _wrong_type(self, found: Any) -> Score:
        return self._error(f"returned {found!r:.80}: return a number, a bool or a Score")

    def _error(self, what: str) -> Score:
        return Score(0.0, "error", detail=f"{self.reference} {what}")


def _takes_names(function: Any) -> bool:
    """Whether the parameters are named as the docs name them."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # of a builtin
        return False
    parameters = signature.parameters
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [name for name, each in parameters.items() if each.kind in by_keyword]
    if {"task", "completion"} <= set(named):
        return True
    return [each.kind for each in parameters.values()] == [inspect.Parameter.VAR_KEYWORD]


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
        except StopIteration as error:  # which no future takes
            problem = RuntimeError("StopIteration")
            problem.__cause__ = error
        except Exception as error:
            problem = error
        except BaseException as error:  # such as sys.exit, which must not end the run
            problem = RuntimeError(f"{type(error).__name__}: {error}")
            problem.__cause__ = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(end, result, problem)

    threading.Thread(target=work, daemon=True).start()
    return await future


async def in_own_loop(call: Awaitable[Any]) -> Any:
    """The result of the user's coroutine, from an event loop that only such coroutines share.

    One that blocks its loop, say by `time.sleep`, keeps no other work of the run waiting.
    """

    async def awaited() -> Any:
        return await call

    return await asyncio.wrap_future(
        asyncio.run_coroutine_threadsafe(awaited(), _own_loop())
    )


@functools.cache
def _own_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


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
    if inspect.ismethod(made.reset) and not (
        inspect.iscoroutinefunction(made.reset) or hasattr(made.reset, "__wrapped__")
    ):
        raise OpenQwQError(
            f"{reference}.reset is not async: write async def reset(self, task, seed)"
        )
    return cast(Environment, made)
