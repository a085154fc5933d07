"""A worker's start: its namespaces and root, what programs import, and its two processes."""

import os
import random
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module

from openqwq.sandbox import linux, program
from openqwq.sandbox.doctor import VARIABLES
from openqwq.sandbox.init import KILL, Zygote, occupy
from openqwq.sandbox.packages import PACKAGES, import_packages
from openqwq.sandbox.seccomp import seccomp_program
from openqwq.sandbox.supervisor import Supervisor

LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
IMPORTED = ("bisect", "functools", "heapq", "itertools", "math", "operator", "string")


def main(
    descriptor: int, layers: frozenset[str], packages: dict[str, str], imports: list[str]
) -> None:
    """Enter the namespaces, fork the zygote, then serve one run or session at a time.

    `packages` are the entries of /packages with their sources; `imports` the modules to import.
    """
    channel = socket.socket(fileno=descriptor)
    occupy()
    # pid 1 is immune to signals it does not handle
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    last_pid = open_last_pid()
    sys.path[:] = filter(os.path.isdir, sys.path)
    readable = library_directories()
    places = {path: path for path in (*readable, *DEVICES)}
    if packages:
        for name, source in packages.items():
            places[f"{PACKAGES}/{name}"] = source
        readable.append(PACKAGES)
        sys.path.append(PACKAGES)

    try:
        enter(places)
    except OSError as error:
        program.send(descriptor, {"namespaces": str(error)})
        return
    linux.libc_call("prctl", linux.PDEATHSIG, KILL, 0, 0, 0)
    try:
        import_packages(imports)
    except ImportError as error:
        program.send(descriptor, {"packages": str(error)})
        return
    warm_up()

    zygote, zygotes_end = socket.socketpair()
    if linux.fork() == 0:
        zygote.close()
        channel.close()
        Zygote(layers, last_pid).serve(zygotes_end)
        os._exit(0)
    zygotes_end.close()

    # a program that writes goes on; else it would wait for us each time
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    supervisor = Supervisor(channel, layers, readable, zygote)
    program.send(descriptor, {})
    while channel.recv(1, socket.MSG_PEEK):
        supervisor.serve()


def open_last_pid() -> int | None:
    """Open the file that sets the next process number; None where it cannot be written."""
    try:
        return os.open("/proc/sys/kernel/ns_last_pid", os.O_WRONLY)
    except OSError:  # a read-only /proc/sys, or a kernel without it
        return None


def library_directories() -> list[str]:
    """Return the directories of libraries that are here, without those inside another one."""
    paths = {*LIBRARIES, os.path.join(sys.base_prefix, "lib"), *sys.path}
    found = []
    for path in sorted(paths):
        inside = any(path.startswith(f"{other}/") for other in paths)
        if not inside and os.path.exists(path):
            found.append(path)
    return found


def warm_up() -> None:
    """Make once, for all the forks to have, what every program uses."""
    for name in IMPORTED:
        import_module(name)
    for children in (False, True):
        seccomp_program(children)
    program.open_streams()
    os.environ["HOME"] = "/tmp"
    for name in set(os.environ) - VARIABLES:  # LD_BIND_NOW, and what imports have set
        del os.environ[name]
    random.seed(0)  # a program that draws numbers gets the same verdict every time


def enter(paths: dict[str, str]) -> None:
    """Take the minimal root, an unprivileged host user, and empty namespaces of every kind."""
    process = os.open("/proc/self", os.O_PATH)
    with open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")
    try:
        linux.libc_call(
            "unshare", linux.NEWNS
        )  # real root: mount first, then become nobody
    except PermissionError:
        linux.new_user_namespace(process, os.geteuid(), os.getegid(), linux.NEWNS)
        linux.build_root(paths)
    else:
        linux.build_root(paths)
        # named in the error where root is one of a container
        linux.libc_call("setgroups", 0, None)
        linux.libc_call("setresgid", linux.NOBODY, linux.NOBODY, linux.NOBODY)
        linux.libc_call("setresuid", linux.NOBODY, linux.NOBODY, linux.NOBODY)
        linux.libc_call("prctl", linux.DUMPABLE, 1, 0, 0, 0)  # else uid_map belongs to root
        linux.new_user_namespace(process, linux.NOBODY, linux.NOBODY)
    os.close(process)
    others = linux.NEWNS | linux.NEWCGROUP | linux.NEWUTS | linux.NEWIPC | linux.NEWNET
    linux.libc_call("unshare", others)
    linux.libc_call("sethostname", b"sandbox", len("sandbox"))
