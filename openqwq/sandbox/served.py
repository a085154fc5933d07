"""The program under the tests of a script: it answers their requests over a pipe of plain data.

Its own functions, classes and instances stay in this process, under numbers.
"""

import builtins
import inspect
import io
import operator
import re
import sys
from collections.abc import Callable
from importlib import import_module
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, ClassVar

from openqwq.sandbox.link import Side
from openqwq.sandbox.program import (
    INPUT,
    OUTPUT,
    entry,
    flush_files,
    load_program,
    receive,
    send,
)
from openqwq.sandbox.protocol import RunRequest

FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType)


def awaited(coroutine: Any) -> Any:
    """What a coroutine returns; asyncio is too large for every process to hold."""
    return import_module("asyncio").run(coroutine)


IN_OPERATOR = """add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift neg pos
invert eq ne lt le gt ge contains getitem setitem delitem index"""
OPERATIONS: dict[str, Callable[..., Any]] = {}
for _name in IN_OPERATOR.split():
    OPERATIONS[_name] = getattr(operator, _name)
OPERATIONS |= {
    "len": len, "iter": iter, "next": next, "str": str, "repr": repr, "hash": hash, "bool": bool,
    "int": int, "float": float, "abs": abs, "round": round, "format": format, "reversed": reversed,
    "getattr": getattr, "setattr": setattr, "delattr": delattr, "isinstance": isinstance,
    "call": operator.call, "await": awaited, "dir": dir, "divmod": divmod,
}  # fmt: skip
CHANGING = {"entry", "call"}  # what may change its arguments


class Printed(io.StringIO):
    """Keeps what is printed for the tests, and prints it too."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self.file = file

    def write(self, text: str) -> int:
        """See `io.StringIO.write`."""
        self.file.write(text)
        return super().write(text)

    def flush(self) -> None:
        """See `io.StringIO.flush`."""
        self.file.flush()

    def taken(self) -> str:
        """What was printed since it was last asked for."""
        text = self.getvalue()
        if text:
            self.seek(0)
            self.truncate()
        return text


class Served(Side):
    """The program's side of the link."""

    TAGS: ClassVar[set[str]] = {"far", "back", "builtin"}

    def __init__(self, names: dict[str, Any], shared: set[str], entry_point: str) -> None:
        super().__init__(INPUT, OUTPUT)
        self.names = names
        self.shared = shared  # classes of the setup, whose instances cross as data
        self.entry_point = entry_point
        self.kept: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.printed = Printed(sys.stdout)
        sys.stdout = self.printed
        vars(builtins)["input"] = self.input

    def name_of(self, item: Any) -> list[Any] | None:
        """Functions, classes, coroutines and instances of the program's classes stay here."""
        if isinstance(item, CalledBack):
            return ["far", item.number]
        if isinstance(item, type):
            if item.__module__ != "__main__":
                return None
            return ["far", self.number(item), "class", item.__name__]
        if isinstance(item, FUNCTIONS):
            return ["far", self.number(item), "function", item.__name__]
        if inspect.iscoroutine(item):
            return ["far", self.number(item), "coroutine", item.__name__]
        name = type(item).__name__
        if type(item).__module__ != "__main__" or name in self.shared or _is_data(item):
            return None
        return ["far", self.number(item), "instance", name]

    def number(self, item: Any) -> int:
        """The number under which an item is kept."""
        if id(item) not in self.numbers:
            self.numbers[id(item)] = len(self.kept)
            self.kept.append(item)
        return self.numbers[id(item)]

    def named(self, tag: str, *parts: Any) -> Any:
        """What the tests name: something kept here, their function, or a library's."""
        if tag == "far":
            return self.kept[parts[0]]
        if tag == "back":
            return CalledBack(self, parts[0])
        module, name = parts
        found = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found

    def answer(self, kind: str, *parts: Any) -> list[Any]:
        """Do what is asked; what the program raises crosses by name."""
        try:
            if kind == "names":
                return self.value([self.described(name) for name in parts[0]])
            operation, data = parts
            self.classes = {}
            for name, found in self.names.items():
                if isinstance(found, type):
                    self.classes[name] = found
            (positional, named), changing = self.read(data)
            value = self.operation(operation)(*positional, **named)
            if operation in CHANGING and changing:
                return self.value((value, tuple(changing.values())), list(changing))
            return self.value(value)
        except Exception as error:
            return self.raised(error)

    def operation(self, name: str) -> Callable[..., Any]:
        """The function that does an operation."""
        return entry(self.names, self.entry_point) if name == "entry" else OPERATIONS[name]

    def described(self, name: str) -> Any:
        """What a name of the program is; an exception with those that it is derived from."""
        if name not in self.names:
            return None
        found = self.names[name]
        if isinstance(found, type) and issubclass(found, BaseException):
            return ("exception", *[kind.__name__ for kind in found.__mro__])
        is_tuple = isinstance(found, type) and issubclass(found, tuple)
        if is_tuple and hasattr(found, "_fields"):
            return ("namedtuple", name, " ".join(found._fields))
        return ("value", found)

    def value(self, value: Any, changed: list[int] | None = None) -> list[Any]:
        """The answer with a value, and the rows of the request whose items may have changed."""
        data, _ = self.write(value)
        return ["value", data, changed or [], self.printed.taken()]

    def raised(self, error: BaseException) -> list[Any]:
        """The answer that something was raised."""
        names = [kind.__name__ for kind in type(error).__mro__]
        try:
            text = str(error)[:2000]
            data, _ = self.write((error.args, dict(vars(error)), text))
        except Exception:  # they are not data
            data, _ = self.write(((), {}, type(error).__name__))
        return ["raise", names, data, self.printed.taken()]

    def input(self, prompt: object = "") -> str:
        """Python's `input`, which the tests may have replaced."""
        return str(self.asked(["input", str(prompt)]))

    def asked(self, request: list[Any]) -> Any:
        """The tests' answer to a request."""
        kind, data = self.ask(request)
        value, _ = self.read(data)
        if kind == "value":
            return value
        name, text = value
        found = self.names.get(name) or getattr(builtins, name, None)
        if isinstance(found, type) and issubclass(found, Exception):
            raise found(text)
        raise RuntimeError(f"{name}: {text}")


class CalledBack:
    """A function of the tests, called over the link."""

    def __init__(self, served: Served, number: int) -> None:
        self.served = served
        self.number = number

    def __call__(self, *positional: Any, **named: Any) -> Any:
        """See the class."""
        data, _ = self.served.write((positional, named))
        return self.served.asked(["back", self.number, data])


def _is_data(item: Any) -> bool:
    """Whether an instance of a program's class is plain data by its base class."""
    plain = (int, float, complex, str, bytes, bytearray, dict, list, tuple, set, frozenset)
    return isinstance(item, plain) and not isinstance(item, type)


def serve(request: RunRequest) -> int:
    """Be the program of a script: answer the requests that come over the pipe."""
    shared = set(re.findall(r"^class\s+(\w+)", request.setup, re.MULTILINE))
    report, names = load_program(request, None)
    report["value"] = None
    send(OUTPUT, report)
    served = Served(names, shared, request.entry_point or "")
    while report["status"] == "ok":
        try:
            send(OUTPUT, served.answer(*receive(INPUT)))
        except EOFError:
            break
    flush_files()
    return 0
