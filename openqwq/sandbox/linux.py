"""The kernel's isolation features by ctypes: namespaces, mounts, seccomp, Landlock, rlimits."""

import ctypes
import os
import resource
import struct
from collections.abc import Mapping, Sequence
from math import ceil

from openqwq.sandbox.protocol import Limits

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, NOEXEC, NOATIME = 1, 2, 4, 8, 0x400
BIND, REC, PRIVATE = 0x1000, 0x4000, 0x40000
DETACH, AT_RECURSIVE = 2, 0x8000
PDEATHSIG, DUMPABLE, NO_NEW_PRIVS, GET_NO_NEW_PRIVS, CAPABILITY_VERSION = 1, 4, 38, 39, 0x20080522
CLONE, CAPSET, PIVOT_ROOT, PRCTL, SECCOMP, CLOSE_RANGE = 56, 126, 155, 157, 317, 436
MOUNT_SETATTR, LANDLOCK = 442, 444
NOBODY, INSIDE = 65534, 1000  # the user, outside (started by root) and inside
MACHINE = os.uname().machine
CAPABILITIES = struct.pack("Ii", CAPABILITY_VERSION, 0)  # of this process
THREADS = 64  # what a program may start beyond its processes

libc = ctypes.CDLL(None, use_errno=True)
_python = ctypes.PyDLL(None, use_errno=True)  # calls that keep the interpreter's lock
_system_call = libc["syscall"]
_system_call.restype = ctypes.c_long


def checked(name: str, *arguments: int | bytes | None) -> int:
    """Call a libc function, integers as longs; raise OSError naming it where it returns -1."""
    function = getattr(libc, name)
    function.restype = ctypes.c_long
    result: int = function(*[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result == -1:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def system_call(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call, integers as 32 bits; `checked` would touch 60 more pages of a fork."""
    result: int = _system_call(number, *arguments)
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"system call {number}: {os.strerror(error)}")
    return result


def mount(source: str, target: str, kind: bytes | None, flags: int, options: str = "") -> None:
    """Call mount(2)."""
    checked("mount", source.encode(), target.encode(), kind, flags, options.encode())


def fork(flags: int = 0) -> int:
    """Like `os.fork`, with the child in new namespaces if `flags` has `CLONE_NEW*` bits.

    `os.fork` takes no flags, and `unshare` of a pid namespace works once per process. Python's
    own fork hooks are left out: we fork single-threaded processes only, which leaves nothing to
    repair, and they cost 0.5 ms of page faults (and reseed `random`, which we want repeatable).
    """
    pid: int = _python.syscall(CLONE, flags | 17, 0, 0, 0, 0) if flags else _python.fork()
    if pid < 0:
        raise OSError(ctypes.get_errno(), f"fork: {os.strerror(ctypes.get_errno())}")
    return pid


def new_user_namespace(process: int, uid: int, gid: int, flags: int = 0) -> None:
    """Enter a user namespace where `uid` is an ordinary user; `process` is an fd of /proc/self."""
    checked("unshare", NEWUSER | flags)
    texts = {"setgroups": "deny", "uid_map": f"{INSIDE} {uid} 1", "gid_map": f"{INSIDE} {gid} 1"}
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
    mount("tmpfs", "/tmp", b"tmpfs", NOSUID | NODEV, "mode=755,size=1m")  # hides what was there
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
    checked("umount2", b".", DETACH)
    os.chdir("/")
    attributes = struct.pack("QQQQ", RDONLY | NOSUID, 0, 0, 0)
    system_call(MOUNT_SETATTR, -100, b"/", AT_RECURSIVE, attributes, len(attributes))


def landlock_rules(readable: Sequence[str], writable: str) -> int:
    """Return a descriptor of rules: file access to these trees only, no TCP, no foreign signals."""
    abi = system_call(LANDLOCK, None, 0, 1)
    files = 2 ** (13 if abi == 1 else 14 if abi == 2 else 15 if abi < 5 else 16) - 1
    fields = [files] + ([3] if abi >= 4 else []) + ([3] if abi >= 6 else [])
    attributes = struct.pack(f"{len(fields)}Q", *fields)
    rules = system_call(LANDLOCK, attributes, len(attributes), 0)
    nodes = 0x1 | 0x40 | 0x200 | 0x800  # execution, devices and sockets
    grants = {path: 0b1101 for path in readable if not os.path.islink(path)}
    for path, access in {**grants, "/dev/null": 0b110, writable: files & ~nodes}.items():
        parent = os.open(path, os.O_PATH)
        system_call(LANDLOCK + 1, rules, 1, struct.pack("=Qi", access, parent), 0)
        os.close(parent)
    return rules


def landlock(rules: int) -> None:
    """Confine this process by what `landlock_rules` returned."""
    system_call(LANDLOCK + 2, rules, 0)


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
    checked("prctl", DUMPABLE, 0, 0, 0, 0)
    checked("prctl", NO_NEW_PRIVS, 1, 0, 0, 0)


def drop_capabilities() -> None:
    """Give up every capability."""
    system_call(CAPSET, CAPABILITIES, bytes(24))


def powerless() -> bool:
    """Whether this process has no capability and can gain none."""
    sets = ctypes.create_string_buffer(24)
    checked("capget", CAPABILITIES, ctypes.addressof(sets))
    return not any(sets.raw) and checked("prctl", GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1
