"""The kernel's isolation features by ctypes: namespaces, mounts, seccomp, Landlock, rlimits."""

import ctypes
import os
import resource
import struct
from collections.abc import Sequence
from functools import lru_cache
from math import ceil
from typing import Any

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

# Plain permission, by number on x86-64. No exec, no sockets, no ptrace, no mounts, no keys, no bpf,
# no io_uring, no System V or POSIX queues, no memfd (it escapes the memory limit), no clone3.
ALLOWED = """read=0 write=1 open=2 close=3 stat=4 fstat=5 lstat=6 poll=7 lseek=8 mmap=9 mprotect=10
munmap=11 brk=12 rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 pread64=17 pwrite64=18 readv=19
writev=20 access=21 pipe=22 select=23 sched_yield=24 mremap=25 madvise=28 dup=32 dup2=33 pause=34
nanosleep=35 getitimer=36 alarm=37 setitimer=38 getpid=39 sendfile=40 sendto=44 recvfrom=45
shutdown=48 exit=60 wait4=61 kill=62 uname=63 fsync=74 fdatasync=75 truncate=76
ftruncate=77 getdents=78 getcwd=79 chdir=80 fchdir=81 rename=82 mkdir=83 rmdir=84 creat=85 link=86
unlink=87 symlink=88 readlink=89 chmod=90 fchmod=91 umask=95 gettimeofday=96 getrlimit=97
getrusage=98 sysinfo=99 times=100 getuid=102 getgid=104 geteuid=107 getegid=108 getppid=110
getpgrp=111 setsid=112 getgroups=115 getresuid=118 getresgid=120 getpgid=121 getsid=124 capget=125
rt_sigpending=127 rt_sigtimedwait=128 rt_sigsuspend=130 sigaltstack=131 utime=132 statfs=137
fstatfs=138 getpriority=140 arch_prctl=158 setrlimit=160 gettid=186 time=201 futex=202
sched_getaffinity=204 getdents64=217 set_tid_address=218 restart_syscall=219 fadvise64=221
clock_gettime=228 clock_getres=229 clock_nanosleep=230 exit_group=231 epoll_wait=232 epoll_ctl=233
tgkill=234 utimes=235 waitid=247 openat=257 mkdirat=258 newfstatat=262 unlinkat=263 renameat=264
linkat=265 symlinkat=266 readlinkat=267 fchmodat=268 faccessat=269 pselect6=270 ppoll=271
set_robust_list=273 utimensat=280 epoll_pwait=281 eventfd2=290 epoll_create1=291 dup3=292 pipe2=293
preadv=295 pwritev=296 renameat2=316 getrandom=318 statx=332 rseq=334
close_range=436 faccessat2=439"""

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


def build_root(paths: Sequence[str]) -> None:
    """Replace the root by a read-only tmpfs that holds `paths` and an empty /tmp."""
    links = {path: os.readlink(path) for path in paths if os.path.islink(path)}
    sources = {path: os.open(path, os.O_PATH) for path in paths if path not in links}
    mount("none", "/", None, REC | PRIVATE)
    mount("tmpfs", "/tmp", b"tmpfs", NOSUID | NODEV, "mode=755,size=1m")  # hides what was there
    os.makedirs("/tmp/tmp")
    for path, source in sources.items():
        is_directory = os.path.isdir(f"/proc/self/fd/{source}")
        os.makedirs("/tmp" + (path if is_directory else os.path.dirname(path)), exist_ok=True)
        if not is_directory:
            os.close(os.open("/tmp" + path, os.O_CREAT | os.O_WRONLY))
        mount(f"/proc/self/fd/{source}", "/tmp" + path, None, BIND | REC)
        os.close(source)
    for path, target in {**links, "/dev/shm": "/tmp", "/dev/stdin": "/tmp/.stdin"}.items():
        os.symlink(target, "/tmp" + path)
    os.chdir("/tmp")
    system_call(PIVOT_ROOT, b".", b".")
    checked("umount2", b".", DETACH)
    os.chdir("/")
    attributes = struct.pack("QQQQ", RDONLY | NOSUID, 0, 0, 0)
    system_call(MOUNT_SETATTR, -100, b"/", AT_RECURSIVE, attributes, len(attributes))


def _bpf(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


@lru_cache(maxsize=2)
def seccomp_program(children: bool) -> tuple[Any, bytes]:
    """Return the allow-list as classic BPF, with or without leave to start processes, and its head.

    A binary tree over ranges of numbers: the kernel walks the filter for every number when it is
    installed, so a linear one costs each process 0.3 ms.
    """
    load, equal, at_least, mask, leave, every = 0x20, 0x15, 0x35, 0x54, 0x06, 0xFFFFFFFF
    allow, absent = [_bpf(leave, 0x7FFF0000)], [_bpf(leave, 0x50026)]
    refuse, kill = [_bpf(leave, 0x50001)], _bpf(leave, 0x80000000)

    def when(argument: int, bits: int, *values: int) -> list[bytes]:
        checks = [_bpf(equal, v, len(values) - i) for i, v in enumerate(values)]
        return [_bpf(load, 16 + 8 * argument), _bpf(mask, bits), *checks, *refuse, *allow]

    def tree(parts: list[tuple[int, list[bytes]]]) -> list[bytes]:
        if len(parts) == 1:
            return parts[0][1]
        left, right = tree(parts[: len(parts) // 2]), tree(parts[len(parts) // 2 :])
        return [_bpf(at_least, parts[len(parts) // 2][0], len(left)), *left, *right]

    thread, isolating = 0x10000, NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
    rules = {int(entry.split("=")[1]): allow for entry in ALLOWED.split()}
    rules |= {
        16: when(1, every, 0x5401, 0x541B, 0x5421, 0x5450, 0x5451),  # ioctl: no terminal input
        53: when(0, every, 1),  # socketpair: AF_UNIX, for asyncio
        56: when(0, isolating, 0) if children else when(0, isolating | thread, thread),  # clone
        72: when(1, every, *range(8), 1030),  # fcntl: no signals, leases, or size of a pipe
        157: when(0, every, 15, 16, GET_NO_NEW_PRIVS),  # prctl: thread names
        302: when(0, every, 0),  # prlimit64: of oneself
        435: absent,  # clone3, so that the C library falls back to clone
    }
    rules |= {57: allow, 58: allow} if children else {}
    parts = [(0, rules[0])]
    for number in range(1, 500):
        if rules.get(number, refuse) != parts[-1][1]:
            parts.append((number, rules.get(number, refuse)))
    head = [_bpf(load, 4), _bpf(equal, 0xC000003E, 1), kill, _bpf(load, 0)]  # x86-64 only
    code = ctypes.create_string_buffer(b"".join([*head, *tree(parts)]))
    return code, struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(code))


def seccomp(allowed: tuple[Any, bytes]) -> None:
    """Confine this process to the system calls allowed by what `seccomp_program` returned."""
    if MACHINE != "x86_64":
        raise OSError(f"no table of system calls for {MACHINE}")
    system_call(SECCOMP, 1, 0, allowed[1])


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
