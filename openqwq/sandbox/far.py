"""What a program keeps on its side, as its trusted tests see it.

What the program keeps on its side appears here as a `Far`: its class, its instances, its functions.
They are used over the link, and what they say is the program's word, as any value that it returns
is. So a `Far` is never equal to plain data: such a test decides nothing, and is reported as such.
"""

import builtins
import sys
from collections.abc import Callable
from importlib import import_module
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any, ClassVar

from openqwq.sandbox.link import Side
from openqwq.sandbox.program import INPUT, OUTPUT, ProgramGone, UnusableError
from openqwq.sandbox.script_names import ScriptNames

NEAR_MISS = 0.75  # a name that is this much like another one is a slip of the tests
UNARY = "neg pos invert len iter next str repr hash bool int float abs index reversed dir"
BINARY = (
    "add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift lt le gt ge"
)
ITEMS = "getitem setitem delitem contains"


class Far:
    """Something that stays with the program; `made` where the tests themselves made it.

    Reading and setting attributes goes over the link, so what a `Far` itself knows (`tests`, its
    `number` there, `made`) is read by the functions below the class, never by name.
    """

    def __init__(self, tests: "Tests", number: int, made: bool) -> None:
        object.__setattr__(self, "_far", (tests, number, made))

    def __getattr__(self, name: str) -> Any:
        return _tests(self).do("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _tests(self).do("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        _tests(self).do("delattr", self, name)

    def __eq__(self, other: object) -> bool:
        return _tests(self).equal(self, other, "eq")

    def __ne__(self, other: object) -> bool:
        return not _tests(self).equal(self, other, "eq")

    def __hash__(self) -> int:
        return int(_tests(self).do("hash", self))

    def __call__(self, *positional: Any, **named: Any) -> Any:
        return _tests(self).call(self, positional, named)

    def __enter__(self) -> Any:
        return self.__getattr__("__enter__")()

    def __exit__(self, *_: object) -> Any:
        return self.__getattr__("__exit__")(None, None, None)

    def __format__(self, form: str) -> str:
        return str(_tests(self).do("format", self, form))

    def __round__(self, *digits: int) -> Any:
        return _tests(self).do("round", self, *digits)

    def __instancecheck__(self, instance: object) -> bool:
        if not isinstance(instance, Far):
            return False
        return bool(_tests(self).do("isinstance", instance, self))


def _tests(far: Far) -> "Tests":
    tests: Tests = object.__getattribute__(far, "_far")[0]
    return tests


def _number(far: Far) -> int:
    return int(object.__getattribute__(far, "_far")[1])


def _is_made(item: object) -> bool:
    """Whether the tests made something; plain data counts as theirs."""
    return not isinstance(item, Far) or bool(object.__getattribute__(item, "_far")[2])


def _set_made(far: Far) -> None:
    Far.__init__(far, _tests(far), _number(far), made=True)


def _operator(name: str, turned: bool = False) -> Callable[..., Any]:
    def operator(self: Far, *others: Any) -> Any:
        operands = (*others, self) if turned else (self, *others)
        return _tests(self).operate(name, operands)

    return operator


for _name in f"{UNARY} {BINARY} {ITEMS}".split():
    setattr(Far, f"__{_name.strip('_')}__", _operator(_name))
for _name in BINARY.split()[:-4]:
    setattr(Far, f"__r{_name.strip('_')}__", _operator(_name, turned=True))


class Tests(Side):
    """The tests' side of the link."""

    TAGS: ClassVar[set[str]] = {"far"}

    def __init__(self, names: dict[str, Any]) -> None:
        super().__init__(INPUT, OUTPUT)
        self.names = names
        self.objects = False  # whether the tests use a class of the program
        self.calls = 0
        self.ended = False
        self.unusable = ""
        self.given: list[Callable[..., Any]] = []
        self.met: dict[int, Any] = {}
        self.kinds: dict[str, type] = {}
        self.raised: dict[str, type[Exception]] = {}
        self.last = ""

    def name_of(self, item: Any) -> list[Any] | None:
        """Functions of the tests stay here; those of libraries are the program's own."""
        if isinstance(item, Far):
            return ["far", _number(item)]
        if isinstance(item, BuiltinFunctionType) and isinstance(item.__self__, ModuleType):
            return ["builtin", item.__self__.__name__, item.__qualname__]
        if isinstance(item, FunctionType | MethodType | BuiltinFunctionType):
            module = getattr(item, "__module__", "__main__")
            if isinstance(item, FunctionType) and module not in ("__main__", None):
                return ["builtin", module, item.__qualname__]
            self.given.append(item)
            return ["back", len(self.given) - 1]
        return None

    def named(self, tag: str, *parts: Any) -> Any:
        """A `Far`; TypeError for an instance where the tests ask for data only."""
        number = int(parts[0])
        if len(parts) == 1:
            return self.given[number]
        kind = parts[1]
        name = str(parts[2])
        if kind == "instance" and not self.objects:
            raise TypeError(f"a value of type {name!r} is not plain data")

        if number not in self.met:
            if name not in self.kinds:
                self.kinds[name] = type(name, (Far,), {})
            made = kind != "instance"
            self.met[number] = self.kinds[name](self, number, made)
        found = self.met[number]
        if kind == "coroutine":
            return self.later(found)
        return found

    async def later(self, coroutine: Far) -> Any:
        """A coroutine of the program, which runs over there when it is awaited."""
        return self.do("await", coroutine)

    def do(self, operation: str, *positional: Any, **named: Any) -> Any:
        """Have the program's side do an operation."""
        try:
            data, items = self.write((positional, named))
        except TypeError as error:
            raise self.stop(
                f"the tests give the program what it cannot be given: {error}"
            ) from error
        self.last = operation
        kind, *parts = self.asked(["do", operation, data])
        if kind == "value":
            value, changed, _ = parts
            if not changed:
                return self.read(value)[0]
            return self.read_changed(value, changed, items)
        raise self.exception(*parts[:2])

    def asked(self, request: list[Any]) -> list[Any]:
        """The program's answer; what it printed meanwhile is printed here."""
        try:
            message = self.ask(request)
        except (EOFError, BrokenPipeError):
            self.ended = True
            raise ProgramGone from None
        sys.stdout.write(str(message[-1]))
        return message

    def described(self, names: list[str]) -> list[Any]:
        """What the program's names are; None for those that it does not define."""
        kind, *parts = self.asked(["names", names])
        if kind != "value":
            raise self.exception(*parts[:2])
        return list(self.read(parts[0])[0])

    def entry(self, *positional: Any, **named: Any) -> Any:
        """Call the function under test."""
        self.calls += 1
        return self.do("entry", *positional, **named)

    def read_changed(self, value: Any, changed: list[int], items: list[Any]) -> Any:
        """Read a result and put what became of the arguments into them."""
        root, table = value
        _, arguments = table[root[0]][1:]  # the root is the pair (result, arguments)
        references = table[arguments[0]][1:]
        mine = {}
        for reference, index in zip(references, changed, strict=True):
            row = table[reference[0]][0]
            if row == "object" or type(items[index]).__name__ == row:
                mine[reference[0]] = items[index]
        return self.read(value, mine)[0][0]

    def call(self, far: Far, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call something of the program; what a class makes is made by the tests."""
        self.calls += 1
        found = self.do("call", far, *positional, **named)
        if isinstance(found, Far) and type(found).__name__ == type(far).__name__:
            _set_made(found)
        return found

    def operate(self, name: str, operands: tuple[Any, ...]) -> Any:
        """An operator on something of the program; it is given no plain data to judge."""
        self.calls += 1
        with_data = not all(isinstance(each, Far) for each in operands)
        decides = len(operands) > 1 and name not in ("getitem", "setitem", "delitem")
        if decides and with_data and not all(map(_is_made, operands)):
            raise self.stop(
                f"the tests let the program's own object decide {name!r} with plain data"
            )
        found = self.do(name, *operands)
        if isinstance(found, Far) and all(map(_is_made, operands)):
            _set_made(found)
        return found

    def equal(self, far: Far, other: object, name: str) -> bool:
        """Whether two objects of the program are equal by its own word; data never is."""
        same = bool(self.do(name, far, other))
        if same and not isinstance(other, Far):
            raise self.stop(
                f"the program's own {type(far).__name__!r} says that it equals plain data"
            )
        return same

    def stop(self, reason: str) -> UnusableError:
        """The end of tests that decide nothing."""
        self.unusable = self.unusable or reason
        return UnusableError(reason)

    def exception(self, names: list[str], data: Any) -> Exception:
        """What the program raised, as the nearest class that the tests know."""
        (arguments, attributes, text), _ = self.read(data)
        for name in names:
            kind = self.raised.get(str(name)) or getattr(builtins, str(name), None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                break
        else:
            return RuntimeError(f"{names[0]}: {text}")
        if issubclass(kind, StopIteration) and self.last != "next":
            # it would end a loop early
            return RuntimeError(f"{names[0]}: {text}")
        made = kind.__new__(kind)
        made.args = tuple(arguments)
        vars(made).update(attributes, program_says=text)
        return made

    def bind(self, script: ScriptNames, entry_point: str) -> None:
        """Give the tests the program's names, and refuse tests that need what nobody has."""
        name, _, method = entry_point.partition(".")
        missing = script.needed - set(self.names)
        if method:
            missing.discard(name)
        needed = sorted(missing)
        found = dict(zip(needed, self.described(needed), strict=True))
        self.objects = any(found.get(each) is not None for each in script.as_classes)

        lacks_entry = not method and self.described([name]) == [None]
        if lacks_entry:
            self.calls += 1  # then what fails is the program's fault
        for each, kind in found.items():
            if lacks_entry and kind is None:
                self.names[each] = self.absent(each)
            else:
                self.bind_name(each, kind, script, entry_point)

        self.names["candidate"] = self.entry
        if method:
            self.names[name] = lambda: SimpleNamespace(**{method: self.entry})
        elif name not in script.as_classes and not self.is_exception(name):
            self.names[name] = self.entry

        for original, alias in script.aliases():
            if original in self.names:
                self.names[alias] = self.names[original]
        for module in script.module_names():
            self.names[module] = _Module(self)

    def is_exception(self, name: str) -> bool:
        """Whether a name is an exception of the program's."""
        return name in self.raised

    def bind_name(
        self, name: str, kind: Any, script: ScriptNames, entry_point: str
    ) -> None:
        """Bind one name: a class, a function or a value of the program."""
        match kind:
            case None if name in script.called and not self.is_slip(name, entry_point):
                self.names[name] = self.absent(name)
            case None:
                if not any(name in imported for imported in script.modules.values()):
                    self.stop(
                        f"the tests name {name!r}, which neither they nor the program define"
                    )
            case ("exception", *names):
                self.names[name] = self.exception_class([str(each) for each in names])
            case ("namedtuple", str(title), str(fields)):
                nothing = [None] * len(fields.split())
                self.names[name] = type(self.named_tuple(title, fields, nothing))
                self.classes[name] = self.names[name]
            case ("value", value):
                self.names[name] = value

    def is_slip(self, name: str, entry_point: str) -> bool:
        """Whether a name is that of a module, or nearly one that the tests have."""
        if name == entry_point:
            return False
        known = [entry_point, *(each for each in self.names if not each.startswith("_"))]
        close = import_module("difflib").get_close_matches(name, known, 1, NEAR_MISS)
        return bool(close) or name in sys.stdlib_module_names

    def absent(self, name: str) -> Callable[..., Any]:
        """What stands for a function that the program should define."""

        def missing(*_: Any, **__: Any) -> Any:
            self.calls += 1
            raise NameError(f"the program does not define {name!r}")

        return missing

    def exception_class(self, names: list[str]) -> type[Exception]:
        """A class for an exception of the program, derived as its own is."""
        kind: type[Exception] = Exception
        for name in reversed(names):
            known = getattr(builtins, name, None)
            if isinstance(known, type) and issubclass(known, Exception):
                kind = known
            elif name not in ("object", "BaseException"):
                kind = self.raised.setdefault(name, type(name, (kind,), {"__str__": _says}))
        return kind

    def answer(self, kind: str, *parts: Any) -> list[Any]:
        """Call a function of the tests for the program, or read a line for it."""
        try:
            if kind == "input":
                result: Any = builtins.input(*parts)
            else:
                (positional, named), _ = self.read(parts[1])
                result = self.given[parts[0]](*positional, **named)
            data, _ = self.write(result)
            return ["value", data]
        except Exception as error:
            data, _ = self.write((type(error).__name__, str(error)))
            return ["raise", data]


class _Module:
    """An absent module that the tests import: the program."""

    def __init__(self, tests: Tests) -> None:
        self._tests = tests

    def __getattr__(self, name: str) -> Any:
        if name not in self._tests.names:
            (kind,) = self._tests.described([name])
            self._tests.bind_name(name, kind, ScriptNames.read(f"{name}()"), name)
        return self._tests.names[name]


def _says(error: Exception) -> str:
    """What the program's own exception says as text."""
    return str(vars(error).get("program_says", Exception.__str__(error)))
