"""The list of system calls that programs may make, as a filter that the kernel runs (classic BPF).

A binary tree over ranges of numbers: the kernel walks the filter for every number when it is
installed, so a linear one costs each process 0.3 ms.
"""

import ctypes
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from openqwq.sandbox import linux

# Plain permission, by number on x86-64. No exec, no sockets, no ptrace, no mounts, no keys, no bpf,
# no io_uring, no System V or POSIX queues, no memfd (it escapes the memory limit), no clone3, and
# nothing that tells how much memory or disk the host has free (sysinfo, statfs).
ALLOWED = """read=0 write=1 open=2 close=3 stat=4 fstat=5 lstat=6 poll=7 lseek=8 mmap=9 mprotect=10
munmap=11 brk=12 rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 pread64=17 pwrite64=18 readv=19
writev=20 access=21 pipe=22 select=23 sched_yield=24 mremap=25 madvise=28 dup=32 dup2=33 pause=34
nanosleep=35 getitimer=36 alarm=37 setitimer=38 getpid=39 sendfile=40 sendto=44 recvfrom=45
shutdown=48 exit=60 wait4=61 kill=62 uname=63 fsync=74 fdatasync=75 truncate=76
ftruncate=77 getdents=78 getcwd=79 chdir=80 fchdir=81 rename=82 mkdir=83 rmdir=84 creat=85 link=86
unlink=87 symlink=88 readlink=89 chmod=90 fchmod=91 umask=95 gettimeofday=96 getrlimit=97
getrusage=98 times=100 getuid=102 getgid=104 geteuid=107 getegid=108 getppid=110
getpgrp=111 setsid=112 getgroups=115 getresuid=118 getresgid=120 getpgid=121 getsid=124 capget=125
rt_sigpending=127 rt_sigtimedwait=128 rt_sigsuspend=130 sigaltstack=131 utime=132
getpriority=140 arch_prctl=158 setrlimit=160 gettid=186 time=201 futex=202
sched_getaffinity=204 getdents64=217 set_tid_address=218 restart_syscall=219
clock_gettime=228 clock_getres=229 clock_nanosleep=230 exit_group=231 epoll_wait=232 epoll_ctl=233
tgkill=234 utimes=235 waitid=247 openat=257 mkdirat=258 newfstatat=262 unlinkat=263 renameat=264
linkat=265 symlinkat=266 readlinkat=267 fchmodat=268 faccessat=269 pselect6=270 ppoll=271
set_robust_list=273 utimensat=280 epoll_pwait=281 eventfd2=290 epoll_create1=291 dup3=292 pipe2=293
preadv=295 pwritev=296 renameat2=316 getrandom=318 statx=332 rseq=334
close_range=436 faccessat2=439"""
IOCTL = 16
SOCKETPAIR = 53
CLONE = 56
FORK = 57
VFORK = 58
FCNTL = 72
PRCTL = 157
PRLIMIT = 302
CLONE3 = 435
TERMINAL_QUERIES = (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)  # none that puts input into one
UNIX_SOCKETS = 1  # for asyncio
DESCRIPTOR_COMMANDS = (0, 1, 2, 3, 4, 1030)  # no signals, leases, or size of a pipe
LOCK_COMMANDS = (6, 7)  # F_SETLK, F_SETLKW
# its own name stays: the kernel's log shows that of a process that crashes
PR_GET_NAME = 16
NEW_THREAD = 0x10000
NEW_NAMESPACES = (
    linux.NEWNS
    | linux.NEWCGROUP
    | linux.NEWUTS
    | linux.NEWIPC
    | linux.NEWUSER
    | linux.NEWPID
    | linux.NEWNET
)
NUMBERS = 500  # all below; what is above the table is refused too
WHOLE = 0xFFFFFFFF

# Opcodes
LOAD = 0x20
EQUAL = 0x15
AT_LEAST = 0x35
MASK = 0x54
RETURN = 0x06
# Where `struct seccomp_data` holds the number, the machine and the arguments
NUMBER = 0
ARCHITECTURE = 4
ARGUMENTS = 16
X86_64 = 0xC000003E
# Decisions, and the errors of a call that fails
KILL = 0x80000000
FAIL = 0x50000
ALLOW = 0x7FFF0000
EPERM = 1
ENOLCK = 37
ENOSYS = 38

Instructions = tuple[bytes, ...]  # instructions that end in a decision


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return one instruction; jumps count the instructions to leave out."""
    return struct.pack("HBBI", code, if_true, if_false, value)


def _decision(outcome: int) -> Instructions:
    return (_instruction(RETURN, outcome),)


ALLOWING = _decision(ALLOW)
REFUSING = _decision(FAIL | EPERM)
PRETENDING = _decision(FAIL | 0)  # the call returns 0 and does nothing
MISSING = _decision(FAIL | ENOSYS)


def _by_argument(
    argument: int,
    decisions: Iterable[tuple[Iterable[int], Instructions]],
    bits: int = WHOLE,
) -> Instructions:
    """Decide by the low 32 bits of an argument, or those of them in `bits`; refuse the rest."""
    block = [
        _instruction(LOAD, ARGUMENTS + 8 * argument),
        _instruction(MASK, bits),
    ]
    for values, decision in decisions:
        for value in values:
            block.append(_instruction(EQUAL, value, if_false=len(decision)))
            block.extend(decision)
    return (*block, *REFUSING)


def _only(argument: int, values: Iterable[int], bits: int = WHOLE) -> Instructions:
    """Allow a call where an argument is one of `values`."""
    return _by_argument(argument, [(values, ALLOWING)], bits)


def _rules(children: bool) -> dict[int, Instructions]:
    """Return what to do for each number that is not simply refused."""
    rules = {}
    for entry in ALLOWED.split():
        _, number = entry.split("=")
        rules[int(number)] = ALLOWING

    # A record lock would be one on the host's own file where it is on a library. One process
    # alone never waits for its own locks, so it does not notice that it has none.
    locking = _decision(FAIL | ENOLCK) if children else PRETENDING
    commands = [(DESCRIPTOR_COMMANDS, ALLOWING), (LOCK_COMMANDS, locking)]

    rules[FCNTL] = _by_argument(1, commands)
    rules[IOCTL] = _only(1, TERMINAL_QUERIES)
    rules[SOCKETPAIR] = _only(0, [UNIX_SOCKETS])
    rules[PRCTL] = _only(0, [PR_GET_NAME, linux.GET_NO_NEW_PRIVS])
    rules[PRLIMIT] = _only(0, [0])  # of oneself
    rules[CLONE3] = MISSING  # so that the C library falls back to clone
    if children:
        rules[CLONE] = _only(0, [0], NEW_NAMESPACES)
        rules[FORK] = ALLOWING
        rules[VFORK] = ALLOWING
    else:
        rules[CLONE] = _only(0, [NEW_THREAD], NEW_NAMESPACES | NEW_THREAD)
    return rules


def _ranges(rules: dict[int, Instructions]) -> list[tuple[int, Instructions]]:
    """Return the first number of each range of numbers with one rule, and that rule."""
    ranges = [(0, rules.get(0, REFUSING))]
    for number in range(1, NUMBERS):
        rule = rules.get(number, REFUSING)
        _, previous = ranges[-1]
        if rule != previous:
            ranges.append((number, rule))
    return ranges


def _tree(ranges: list[tuple[int, Instructions]]) -> Instructions:
    """Return the search for a number's range, followed by its rule."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    low = _tree(ranges[:middle])
    high = _tree(ranges[middle:])
    first_of_high, _ = ranges[middle]
    return (_instruction(AT_LEAST, first_of_high, if_true=len(low)), *low, *high)


@lru_cache(maxsize=2)
def seccomp_program(children: bool) -> tuple[Any, bytes]:
    """Return the filter and its header, with or without leave to start processes.

    The header points to the filter, which must be kept as long as it is used.
    """
    start = (
        _instruction(LOAD, ARCHITECTURE),
        _instruction(EQUAL, X86_64, if_true=1),
        *_decision(KILL),
        _instruction(LOAD, NUMBER),
    )
    instructions = (*start, *_tree(_ranges(_rules(children))))
    code = ctypes.create_string_buffer(b"".join(instructions))
    header = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(code))
    return code, header


def confine(allowed: tuple[Any, bytes]) -> None:
    """Confine this process to the system calls allowed by what `seccomp_program` returned."""
    if linux.MACHINE != "x86_64":
        raise OSError(f"no table of system calls for {linux.MACHINE}")
    _, header = allowed
    linux.system_call(linux.SECCOMP, 1, 0, header)
