"""What goes into the sandbox and what comes out: data only, never an expected output or verdict."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Protocol, Self, TypeVar, get_args, get_origin

from openqwq.sandbox.data import decode, encode
from openqwq.types import OpenQwQError, TestForm

T = TypeVar("T")
Status = Literal[
    "ok",  # ended by itself; for a script: the script ran to its end
    "compile_error",
    "runtime_error",  # an exception or a non-zero exit; `error` says which
    "timeout",  # wall or CPU
    "memory",
    "output_limit",
    "crashed",  # killed by a signal
    "unusable",  # the trusted tests of a script cannot run: never the program's fault
    "skipped",  # `stop_early` ended the run before this case
    "error",  # the sandbox itself failed: never the program's fault, never to be scored
]


def _check(record: Any) -> None:
    """Raise OpenQwQError naming a field of a dataclass whose value is not of its type."""
    for field in fields(record):
        value = getattr(record, field.name)
        if not _fits(value, field.type):
            rule = getattr(field.type, "__name__", field.type)
            if get_origin(field.type) is tuple:
                rule = "a list"
            raise OpenQwQError(f"{field.name} is {str(value)[:80]!r}: it must be {rule}")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, a literal, a union, or a tuple of one type."""
    kinds = get_args(kind) or (kind,)
    if get_origin(kind) is Literal:
        return value in kinds
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            return False
        return kinds[0] is Any or all(isinstance(part, kinds[0]) for part in value)
    if isinstance(value, bool):
        return bool in kinds
    if float in kinds and isinstance(value, int):
        return True
    return isinstance(value, kinds)


def _known(cls: Any, data: Any) -> dict[str, Any]:
    """Return a JSON object whose fields are all those of a dataclass; else raise OpenQwQError."""
    names = [field.name for field in fields(cls)]
    if not isinstance(data, dict) or not set(data) <= set(names):
        raise OpenQwQError(
            f"{cls.__name__} is {str(data)[:80]!r}: it must be a JSON object of {', '.join(names)}"
        )
    return dict(data)


@dataclass(frozen=True)
class Limits:
    """What one case (or one call of a session) may use: bytes, seconds (CPU rounded up).

    `memory_bytes` is address space per process; `processes` 1 forbids child processes (threads
    are allowed); `file_bytes` is the size of the private file system.
    """

    wall_seconds: float = 10.0
    cpu_seconds: float = 10.0
    memory_bytes: int = 512 * 2**20
    output_bytes: int = 2**20
    processes: int = 1
    file_bytes: int = 16 * 2**20
    open_files: int = 64

    def __post_init__(self) -> None:
        _check(self)
        for name, value in vars(self).items():
            if not 0 < value < float("inf"):
                raise OpenQwQError(
                    f"limits.{name} is {value!r}: it must be above 0 and finite"
                )

    def check(self, maximum: "Limits") -> None:
        """Raise OpenQwQError naming the first limit above `maximum`."""
        for name, value in vars(self).items():
            if value > getattr(maximum, name):
                rule = f"above the maximum {getattr(maximum, name)}: ask for less"
                raise OpenQwQError(f"limits.{name} is {value}, {rule} or raise the maximum")

    def at_most(self, maximum: "Limits") -> "Limits":
        """Return these limits, each lowered to `maximum` where it is above it."""
        highest = vars(maximum)
        return replace(
            self, **{name: min(own, highest[name]) for name, own in vars(self).items()}
        )

    def at_least(self, minimum: "Limits") -> "Limits":
        """Return these limits, each raised to `minimum` where it is below it."""
        lowest = vars(minimum)
        return replace(
            self, **{name: max(own, lowest[name]) for name, own in vars(self).items()}
        )

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read limits; a mistake is an OpenQwQError naming the field."""
        return cls(**_known(cls, data))


DEFAULT = Limits()
MAXIMUM = Limits(
    wall_seconds=60.0,
    cpu_seconds=60.0,
    memory_bytes=4 * 2**30,
    output_bytes=16 * 2**20,
    processes=16,
    file_bytes=256 * 2**20,
    open_files=256,
)
CASES = 1024  # the most that one request may hold
SOURCE_CHARACTERS = 2**20


@dataclass(frozen=True)
class Case:
    """One input: stdin text, or the arguments of a call (plain data, not only JSON's)."""

    stdin: str = ""
    arguments: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        _check(self)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {"stdin": self.stdin, "arguments": encode(self.arguments)}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read a case; raise OpenQwQError or ValueError for a mistake in it."""
        given = _known(cls, data)
        if "arguments" in given:
            given["arguments"] = decode(given["arguments"])
        return cls(**given)


@dataclass(frozen=True)
class RunRequest:
    """One hostile program and what to run it on; each case runs in its own process.

    `stdin`: a whole program per case. `call`: `entry_point` ("name" or "Class.method") is called
    with each case's arguments. `script`: the trusted test code `script` runs in a process of its
    own, where `candidate` and the entry point's name reach the program over a pipe of plain data;
    it makes one case result, `ok` if it ran to its end. `setup` is trusted code that both see.
    `stop_early` skips the cases after the first that is not ok. Without `limits` the sandbox's own
    hold. `packages` are those that the program needs: a sandbox without them refuses the request.
    """

    source: str
    form: TestForm = "stdin"
    cases: tuple[Case, ...] = (Case(),)
    limits: Limits | None = None
    entry_point: str | None = None
    script: str | None = None
    setup: str = ""
    stop_early: bool = False
    packages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self)
        if self.form != "stdin" and not self.entry_point:
            raise OpenQwQError(f"entry_point is missing: the form {self.form!r} calls it")
        scripted = self.form == "script"
        if scripted != (self.script is not None):
            raise OpenQwQError(
                f"script must be given for the form 'script' only, not {self.form}"
            )
        most = 1 if scripted else CASES
        if not 0 < len(self.cases) <= most:
            raise OpenQwQError(
                f"cases holds {len(self.cases)}: it must be from 1 to {most}"
            )
        for name in ("source", "setup", "script"):
            if len(getattr(self, name) or "") > SOURCE_CHARACTERS:
                raise OpenQwQError(f"{name} is longer than {SOURCE_CHARACTERS} characters")

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        cases = [case.to_json() for case in self.cases]
        limits = asdict(self.limits) if self.limits else None
        return {**vars(self), "limits": limits, "cases": cases}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read a request; every mistake in it is an OpenQwQError naming the field."""
        given = _known(cls, data)
        try:
            if given.get("limits") is not None:
                given["limits"] = Limits.from_json(given["limits"])
            if isinstance(given.get("packages"), list):
                given["packages"] = tuple(given["packages"])
            given["cases"] = tuple(map(Case.from_json, given.get("cases", [{}])))
            return cls(**given)
        except (TypeError, ValueError) as error:
            raise OpenQwQError(f"malformed request: {error}") from error

    @classmethod
    def known_good(cls, data: dict[str, Any]) -> Self:
        """Read what `from_json` has read before, without its checks."""
        cases = []
        for case in data["cases"]:
            arguments = decode(case["arguments"])
            cases.append(_filled(Case, {**case, "arguments": arguments}))
        limits = _filled(Limits, data["limits"]) if data["limits"] else None
        return _filled(cls, {**data, "limits": limits, "cases": tuple(cases)})


def _filled(kind: type[T], fields: dict[str, Any]) -> T:
    """Make an instance of a dataclass without its checks."""
    made = object.__new__(kind)
    vars(made).update(fields)
    return made


@dataclass(frozen=True)
class CaseResult:
    """What one case did. `value` is what a call returned; seconds are wall and CPU time.

    `error` is fit for a log: one line, with odd characters escaped; `stdout` and `stderr` are raw.
    """

    status: Status
    stdout: str = ""
    stderr: str = ""
    value: Any = None
    error: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {**vars(self), "value": encode(self.value)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read a result; raise ValueError where `value` is malformed."""
        return cls(**{**data, "value": decode(data.get("value") or encode(None))})


@dataclass(frozen=True)
class RunResult:
    """`status` is that of the first case that is not ok; `error` says why there are no cases."""

    status: Status
    cases: tuple[CaseResult, ...] = ()
    error: str = ""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {**vars(self), "cases": [case.to_json() for case in self.cases]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read a result; raise ValueError where a value is malformed."""
        return cls(**{**data, "cases": tuple(map(CaseResult.from_json, data["cases"]))})


class Session(Protocol):
    """A Python interpreter that keeps its variables between calls (the agent's tool)."""

    async def run(self, source: str) -> CaseResult:
        """Run `source`; a last expression is printed. After a time-out the session is closed."""
        ...

    async def close(self) -> None:
        """End the interpreter."""
        ...


class Sandbox(Protocol):
    """Where programs run: `LocalSandbox` or `RemoteSandbox`, both async context managers."""

    @property
    def limits(self) -> Limits:
        """The limits of requests and sessions that name none."""
        ...

    async def run(self, request: RunRequest) -> RunResult:
        """Run every case; concurrent calls wait their turn."""
        ...

    async def session(self, limits: Limits | None = None) -> Session:
        """Open a stateful session under `limits` per call."""
        ...
