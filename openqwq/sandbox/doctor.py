"""Which layers hold, each tried from inside a confined process, and what each level requires."""

import os
import platform
import resource
import socket
from collections.abc import Callable, Mapping
from functools import partial

from openqwq.sandbox import linux
from openqwq.sandbox.packages import THREADS
from openqwq.sandbox.protocol import Limits
from openqwq.types import OpenQwQError

REMEDIES: Mapping[str, str] = {
    "namespaces": "Linux 5.12 or newer with user.max_user_namespaces above 0 and (Ubuntu) "
    "kernel.apparmor_restrict_unprivileged_userns=0; in a container --privileged, or "
    "--security-opt seccomp=unconfined --security-opt apparmor=unconfined; not a root without "
    "CAP_SETFCAP or with one user mapped: there start it as an ordinary user",
    "root": "Linux 5.12 or newer, with a /tmp that can be mounted on",
    "privileges": "Linux 5.12 or newer, without inherited capabilities",
    "landlock": "Linux 5.13 or newer with landlock in its boot option lsm=",
    "seccomp": "an x86-64 Linux with CONFIG_SECCOMP_FILTER",
    "limits": "a process that may lower its own resource limits",
    "descriptors": "a process started without inherited files",
    "environment": "a process started with a clean environment",
}
# that programs may see
VARIABLES = {"PYTHONHASHSEED", "LANG", "LC_CTYPE", "HOME", *THREADS}
LEVELS: Mapping[str, frozenset[str]] = {
    "full": frozenset(REMEDIES),
    "no-landlock": frozenset(REMEDIES) - {"landlock"},
}


def require_platform() -> None:
    """Raise OpenQwQError where no layer can hold: anywhere but on Linux on x86-64."""
    system = platform.system()
    machine = platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        raise OpenQwQError(
            "the sandbox isolates programs with namespaces, seccomp and Landlock of Linux on "
            f"x86-64, and this is {system} on {machine}: run what executes programs on such a "
            "machine or in its container (docs/install.md). All else works here"
        )


def require(level: str, report: Mapping[str, str]) -> None:
    """Raise OpenQwQError naming the first layer of `level` that does not hold, and its remedy."""
    if level not in LEVELS:
        raise OpenQwQError(f"level is {level!r}: it must be one of {', '.join(LEVELS)}")
    for layer in REMEDIES:
        if layer in LEVELS[level] and report[layer]:
            weaker = [name for name, layers in LEVELS.items() if layer not in layers]
            raise OpenQwQError(
                f"the sandbox layer {layer!r} is missing ({report[layer]}). It needs "
                f"{REMEDIES[layer]}. Levels without it, by name: {', '.join(weaker) or 'none'}"
            )


def report(found: Mapping[str, str]) -> str:
    """Say for each layer whether it holds, else why not and what it needs; then the levels."""
    lines = []
    for layer, problem in found.items():
        if problem:
            lines.append(f"{layer:<14} missing: {problem}")
            lines.append(f"{'':<14} it needs {REMEDIES[layer]}")
        else:
            lines.append(f"{layer:<14} holds")
    levels = [name for name, layers in LEVELS.items() if not any(map(found.get, layers))]
    lines.append(f"levels that hold here: {', '.join(levels) or 'none'}")
    return "\n".join(lines)


def inspect(
    steps: Mapping[str, Callable[[list[int]], None]], files: list[int]
) -> dict[str, str]:
    """Confine this process by `steps`, then try what each layer forbids; "" means it holds."""
    failed: dict[str, str] = {}
    lonely = [name for _, name in socket.if_nameindex()] == ["lo"]
    for layer, step in steps.items():
        try:
            step(files)
        except OSError as error:
            failed[layer] = str(error)
    linux.set_limits(Limits(open_files=50))
    holds = {
        "namespaces": lonely and os.getppid() == 1,
        "root": _refused(partial(os.mkdir, "/x")),
        "privileges": os.getuid() == linux.INSIDE and linux.powerless(),
        "landlock": _refused(partial(os.listdir, "/")),
        "seccomp": _refused(socket.socket),
        "limits": resource.getrlimit(resource.RLIMIT_NOFILE) == (50, 50),
        "descriptors": all(_refused(partial(os.fstat, number)) for number in range(4, 50)),
        "environment": set(os.environ) <= VARIABLES,
    }
    for layer, held in holds.items():
        if not held:
            failed.setdefault(layer, "what it forbids was possible")
    return {layer: failed.get(layer, "") for layer in holds}


def _refused(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return True
    return False
