"""The kernel's isolation features by ctypes: namespaces, mounts, seccomp, Landlock, rlimits."""

import ctypes
import os
import resource
import struct
from collections.abc import Mapping, Sequence
from math import ceil
from signal import SIGCHLD
from typing import Any

from openqwq.sandbox.protocol import Limits

# Namespaces, for clone(2) and unshare(2).
NEWNS = 0x20000
NEWCGROUP = 0x2000000
NEWUTS = 0x4000000
NEWIPC = 0x8000000
NEWUSER = 0x10000000
NEWPID = 0x20000000
NEWNET = 0x40000000

# Flags of mount(2), umount2(2) and mount_setattr(2).
RDONLY = 1
NOSUID = 2
NODEV = 4
NOEXEC = 8
NOATIME = 0x400
BIND = 0x1000
REC = 0x4000
PRIVATE = 0x40000
DETACH = 2
AT_RECURSIVE = 0x8000

# Operations of prctl(2).
PDEATHSIG = 1
DUMPABLE = 4
NO_NEW_PRIVS = 38
GET_NO_NEW_PRIVS = 39

# Numbers of system calls on x86-64.
CLONE = 56
CAPSET = 126
PIVOT_ROOT = 155
PRCTL = 157
SECCOMP = 317
CLOSE_RANGE = 436
MOUNT_SETATTR = 442
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_ADD_RULE = 445
LANDLOCK_RESTRICT_SELF = 446

# Rights of Landlock: bits of file access, in the order that its versions brought them.
LANDLOCK_VERSION = 1  # the flag that asks for it
EXECUTE = 0x1
WRITE_FILE = 0x2
READ_FILE = 0x4
READ_DIRECTORY = 0x8
MAKE_SPECIAL = 0x40 | 0x200 | 0x800  # character devices, sockets, block devices
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # by version; 16 from the fifth on
NETWORK_RIGHTS = 3  # bind and connect
SCOPES = 3  # abstract sockets and signals
UNDER_PATH = 1  # a kind of rule

NOBODY = 65534  # the user outside, where root started us
INSIDE = 1000  # the user inside
MACHINE = os.uname().machine
CAPABILITY_VERSION = 0x20080522
CAPABILITIES = struct.pack("Ii", CAPABILITY_VERSION, 0)  # of this process
THREADS = 64  # what a program may start beyond its processes

libc = ctypes.CDLL(None, use_errno=True)
_python = ctypes.PyDLL(None, use_errno=True)  # calls that keep the interpreter's lock
_system_call = libc["syscall"]
_system_call.restype = ctypes.c_long


def libc_call(name: str, *arguments: int | bytes | None) -> int:
    """Call a libc function, integers as longs; raise OSError naming it where it returns -1."""
    function = getattr(libc, name)
    function.restype = ctypes.c_long
    converted: list[Any] = []
    for argument in arguments:
        if isinstance(argument, int):
            converted.append(ctypes.c_long(argument))
        else:
            converted.append(argument)
    result: int = function(*converted)
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


def system_call(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call, integers as 32 bits; `libc_call` would touch 60 more pages of a fork."""
    result: int = _system_call(number, *arguments)
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"system call {number}: {os.strerror(error)}")
    return result


def mount(
    source: str, target: str, kind: bytes | None, flags: int, options: str = ""
) -> None:
    """Call mount(2)."""
    libc_call("mount", source.encode(), target.encode(), kind, flags, options.encode())


def fork(flags: int = 0) -> int:
    """Like `os.fork`, with the child in new namespaces if `flags` has `CLONE_NEW*` bits.

    `os.fork` takes no flags, and `unshare` of a pid namespace works once per process. Python's
    own fork hooks are left out: we fork single-threaded processes only, which leaves nothing to
    repair, and they cost 0.5 ms of page faults (and reseed `random`, which we want repeatable).
    """
    pid: int = (
        _python.syscall(CLONE, flags | SIGCHLD, 0, 0, 0, 0) if flags else _python.fork()
    )
    if pid < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"fork: {os.strerror(error)}")
    return pid


def new_user_namespace(process: int, uid: int, gid: int, flags: int = 0) -> None:
    """Enter a user namespace where `uid` is an ordinary user; `process` is an fd of /proc/self."""
    libc_call("unshare", NEWUSER | flags)
    texts = {
        "setgroups": "deny",
        "uid_map": f"{INSIDE} {uid} 1",
        "gid_map": f"{INSIDE} {gid} 1",
    }
    for name, text in texts.items():
        file = os.open(name, os.O_WRONLY, dir_fd=process)
        try:
            os.write(file, text.encode())
        except OSError as error:  # root without CAP_SETFCAP, which a container may lack
            raise OSError(error.errno, f"{name}: {error.strerror}") from error
        os.close(file)


def build_root(paths: Mapping[str, str]) -> None:
    """Replace the root by a read-only tmpfs with an empty /tmp and `paths`: place, then source."""
    links = {}
    sources = {}
    for place, source in paths.items():
        if os.path.islink(source):
            links[place] = os.readlink(source)
        else:
            sources[place] = os.open(source, os.O_PATH)
    mount("none", "/", None, REC | PRIVATE)
    # hides what was there
    mount("tmpfs", "/tmp", b"tmpfs", NOSUID | NODEV, "mode=755,size=1m")
    os.makedirs("/tmp/tmp")
    for place, file in sources.items():
        if os.path.isdir(f"/proc/self/fd/{file}"):
            os.makedirs("/tmp" + place, exist_ok=True)
        else:
            os.makedirs("/tmp" + os.path.dirname(place), exist_ok=True)
            os.close(os.open("/tmp" + place, os.O_CREAT | os.O_WRONLY))
        mount(f"/proc/self/fd/{file}", "/tmp" + place, None, BIND | REC)
        os.close(file)
    for place, target in {**links, "/dev/shm": "/tmp", "/dev/stdin": "/tmp/.stdin"}.items():
        os.symlink(target, "/tmp" + place)
    os.chdir("/tmp")
    system_call(PIVOT_ROOT, b".", b".")
    libc_call("umount2", b".", DETACH)
    os.chdir("/")
    attributes = struct.pack("QQQQ", RDONLY | NOSUID, 0, 0, 0)
    system_call(MOUNT_SETATTR, -100, b"/", AT_RECURSIVE, attributes, len(attributes))


def landlock_rules(readable: Sequence[str], writable: str) -> int:
    """Return a descriptor of rules: file access to these trees only, no TCP, no foreign signals."""
    version = system_call(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_VERSION)
    files = 2 ** FILE_RIGHTS.get(version, 16) - 1
    handled = [files]
    if version >= 4:
        handled.append(NETWORK_RIGHTS)
    if version >= 6:
        handled.append(SCOPES)
    attributes = struct.pack(f"{len(handled)}Q", *handled)
    rules = system_call(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)

    grants = {}
    for path in readable:
        if not os.path.islink(path):
            grants[path] = EXECUTE | READ_FILE | READ_DIRECTORY
    grants["/dev/null"] = READ_FILE | WRITE_FILE
    grants[writable] = files & ~(EXECUTE | MAKE_SPECIAL)
    for path, access in grants.items():
        parent = os.open(path, os.O_PATH)
        rule = struct.pack("=Qi", access, parent)
        system_call(LANDLOCK_ADD_RULE, rules, UNDER_PATH, rule, 0)
        os.close(parent)
    return rules


def landlock(rules: int) -> None:
    """Confine this process by what `landlock_rules` returned."""
    system_call(LANDLOCK_RESTRICT_SELF, rules, 0)


def set_common_limits(limits: Limits) -> None:
    """Set the resource limits that pid 1 of a run can bear, for all its forks to have."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes, limits.file_bytes))
    processes = limits.processes + THREADS
    resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))


def set_limits(limits: Limits) -> None:
    """Set the resource limits of this process alone."""
    cpu = ceil(limits.cpu_seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits.open_files, limits.open_files))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))


def gain_no_privileges() -> None:
    """Give up gaining capabilities, locking memory, and the interest of the host in a crash."""
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK):
        resource.setrlimit(kind, (0, 0))
    libc_call("prctl", DUMPABLE, 0, 0, 0, 0)
    libc_call("prctl", NO_NEW_PRIVS, 1, 0, 0, 0)


def drop_capabilities() -> None:
    """Give up every capability."""
    system_call(CAPSET, CAPABILITIES, bytes(24))


def powerless() -> bool:
    """Whether this process has no capability and can gain none."""
    sets = ctypes.create_string_buffer(24)
    libc_call("capget", CAPABILITIES, ctypes.addressof(sets))
    return not any(sets.raw) and libc_call("prctl", GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1
