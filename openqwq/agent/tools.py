"""Tools from Python functions: the schema a model reads, and arguments checked against it."""

import asyncio
import inspect
import json
import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from openqwq.text.schema import specification
from openqwq.types import OpenQwQError, Tool


def tool(function: Callable[..., Any], acts: bool = False, threaded: bool = True) -> Tool:
    """`function` as a tool; a plain one runs on a thread of its own, so that it may take its time.

    Without `threaded` it must be quick, and runs in the order of the calls. What it returns is
    shown to the model: text as it is, bytes as UTF-8, the rest as JSON. See `specification` for
    what it must document; raises OpenQwQError where it does not.
    """
    described = specification(function)["function"]

    async def call(arguments: Mapping[str, Any]) -> str:
        if inspect.iscoroutinefunction(function):
            return _text(await function(**arguments))
        if not threaded:
            return _text(function(**arguments))
        return _text(await _on_thread(lambda: function(**arguments)))

    return Tool(
        described["name"], described["description"], described["parameters"], call, acts
    )


def by_name(tools: list[Tool]) -> dict[str, Tool]:
    """Tools by their names; raises OpenQwQError where two share one."""
    found: dict[str, Tool] = {}
    for each in tools:
        if each.name in found:
            raise OpenQwQError(f"two tools are named {each.name!r}: leave one of them out")
        found[each.name] = each
    return found


def check_arguments(tool: Tool, arguments: Mapping[str, Any]) -> None:
    """Raise OpenQwQError naming the first argument that does not fit the tool's schema."""
    from jsonschema import exceptions
    from referencing.exceptions import Unresolvable

    faults = _validator(json.dumps(tool.parameters)).iter_errors(arguments)
    try:
        fault = exceptions.best_match(faults)
    except Unresolvable as error:
        raise OpenQwQError(
            f"the schema of {tool.name} refers to {error.ref!r}, which is not in it"
        ) from error
    if fault is None:
        return
    allowed = ", ".join(tool.parameters.get("properties", {})) or "none"
    if not fault.absolute_path:
        raise OpenQwQError(f"{fault.message}: the arguments of {tool.name} are {allowed}")
    where = "".join(f"[{part!r}]" for part in list(fault.absolute_path)[1:])
    needed = json.dumps(
        {key: fault.schema[key] for key in fault.schema if key != "description"}
    )
    raise OpenQwQError(
        f"argument {fault.absolute_path[0]!r}{where} of {tool.name} is {fault.instance!r:.200}:"
        f" give a value of {needed:.500}"
    )


def said(error: BaseException) -> str:
    """What a model is told of an exception; only ours speak for themselves."""
    name = "" if isinstance(error, OpenQwQError) else f"{type(error).__name__}: "
    return f"{name}{error}".removesuffix(": ")


@cache
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator
    from referencing import Registry

    # An empty registry: a server's schema must not make us fetch addresses.
    return Draft202012Validator(json.loads(schema), registry=Registry())


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return json.dumps(value, ensure_ascii=False, default=str)


async def _on_thread(work: Callable[[], Any]) -> Any:
    """The result of `work` on a daemon thread: one that hangs keeps no program from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if future.done():  # given up on
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(OpenQwQError(said(error)))

    def run() -> None:
        value = None
        error = None
        try:
            value = work()
        except BaseException as raised:  # a tool may raise anything, SystemExit too
            error = raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, daemon=True).start()
    return await future
