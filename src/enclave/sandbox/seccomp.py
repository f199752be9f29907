"""Which system calls a sandbox may make, as data, and the filter that holds it to them.

An allowlist: what is not named gets EPERM, which ordinary programs survive. Five kinds are told apart:
`ALLOWED` go through; `CONDITIONAL` go through if their arguments pass; `ABSENT` get ENOSYS, so that libc falls back to
a call whose arguments a filter can see; `ASKED` wait for the word of whoever holds the filter's listener, for what they
ask is behind a pointer; `EXPLOITS` wait for their session's end. Calls of a foreign ABI (32-bit, x32) kill the process.
Numbers are in `syscalls`; the filter is classic BPF (seccomp(2), seccomp_unotify(2), linux/filter.h).
"""

import ctypes
import errno
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from enclave.sandbox import linux
from enclave.sandbox.syscalls import NUMBERS

ALLOWED: Final = frozenset(
    # files and directories
    """
    access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
    fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fdatasync fgetxattr flistxattr
    flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr
    lchown lgetxattr link linkat listxattr
    llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat newfstatat open openat openat2
    pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr rename
    renameat renameat2 rmdir sendfile setxattr splice stat statfs statx symlink symlinkat sync sync_file_range
    syncfs tee truncate umask unlink unlinkat utime utimensat utimes write writev
    """.split()
    # memory
    + """
    brk madvise membarrier mincore mlock mlock2 mlockall mprotect mremap msync munlock
    munlockall munmap pkey_alloc pkey_free pkey_mprotect
    """.split()
    # processes, signals, time; capset because ip and ping end when they cannot give up what they do not have
    + """
    alarm arch_prctl capget capset clock_getres clock_gettime clock_nanosleep execve execveat exit exit_group fork
    futex futex_waitv get_robust_list getcpu getegid geteuid getgid getgroups getitimer getpgid getpgrp getpid
    getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid gettid gettimeofday getuid
    ioprio_get kill nanosleep pause pidfd_open pidfd_send_signal prlimit64 restart_syscall rseq rt_sigaction
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_setaffinity sched_yield set_robust_list set_tid_address
    setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid
    setrlimit setsid setuid sigaltstack sysinfo tgkill time timer_create timer_delete timer_getoverrun
    timer_gettime timer_settime times tkill uname vfork wait4 waitid
    """.split()
    # waiting
    + """
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 pipe
    pipe2 poll ppoll pselect6 select signalfd signalfd4 timerfd_create timerfd_gettime timerfd_settime
    """.split()
    # sockets: what may be created is decided in CONDITIONAL
    + """
    accept accept4 bind getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg setsockopt shutdown
    """.split()
    # System V IPC, in a namespace of its own
    + "msgctl msgget msgrcv msgsnd semctl semget semop semtimedop shmat shmctl shmdt ".split()
)

ABSENT: Final[Mapping[str, str]] = {
    "clone3": "its flags are behind a pointer; libc falls back to clone",
    "io_uring_setup": "performs calls that no filter sees; libuv falls back to threads",
    "io_uring_enter": "as io_uring_setup",
    "io_uring_register": "as io_uring_setup",
}

EXPLOITS: Final = frozenset(
    "bpf delete_module finit_module init_module ioperm iopl kexec_file_load kexec_load open_by_handle_at"
    " userfaultfd".split()
)
"""Calls that no program makes but one that wants out: each ends its session, by name."""

_NAMESPACES: Final = (
    linux.CLONE_NEWNS
    | linux.CLONE_NEWCGROUP
    | linux.CLONE_NEWUTS
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWUSER
    | linux.CLONE_NEWPID
    | linux.CLONE_NEWNET
)


@dataclass(frozen=True, slots=True)
class Never:
    """Refuse when the argument has one of the `bits`, or is one of the `values`."""

    argument: int
    bits: int = 0
    values: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Only:
    """Let through what fits one of the alternatives: each names arguments and the values they may have."""

    alternatives: tuple[Mapping[int, tuple[int, ...]], ...]


_ORDINARY: Final = (0, 3, 5)
"""SCHED_OTHER, SCHED_BATCH, SCHED_IDLE (linux/sched.h)."""
_RESET_ON_FORK: Final = 0x40000000


@dataclass(frozen=True, slots=True)
class Ask:
    """Refuse when the argument `flags` has one of the `bits`; else ask.

    With a `pointer`, only if that argument is not null.
    """

    flags: int | None = None
    bits: int = 0
    pointer: int | None = None


_MSG_FASTOPEN: Final = 0x20000000
"""It connects from within a send (linux/socket.h), where nobody is asked."""

ASKED: Final[Mapping[str, Ask]] = {
    "connect": Ask(),
    "sendto": Ask(flags=3, bits=_MSG_FASTOPEN, pointer=4),
    "sendmsg": Ask(flags=2, bits=_MSG_FASTOPEN),
    "sendmmsg": Ask(flags=3, bits=_MSG_FASTOPEN),
}
"""Calls that may name an address of another machine."""


@dataclass(frozen=True, slots=True)
class Except:
    """Refuse what fits one of the alternatives, and let everything else through."""

    alternatives: tuple[Mapping[int, tuple[int, ...]], ...]


AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
_IP, _TCP, _UDP, _IPV6, _ROUTE = 0, 6, 17, 41, 0
_SOL_SOCKET: Final = 1
_HUGE_PAGES: Final = {"mmap": 0x40000, "memfd_create": 0x4, "shmget": 0x800}

CONDITIONAL: Final[Mapping[str, tuple[Never | Only | Except, str]]] = {
    "clone": (Never(0, bits=_NAMESPACES), "threads and processes, never namespaces"),
    "socket": (
        Only(
            (
                {0: (AF_UNIX,)},
                {0: (AF_INET, AF_INET6), 2: (0, _TCP, _UDP)},
                {0: (AF_NETLINK,), 2: (_ROUTE,)},
            )
        ),
        "AF_ALG, AF_VSOCK, AF_PACKET, MPTCP, SCTP and the rest of the zoo are where kernels break; libc lists"
        " interfaces by route netlink, which may change nothing without a capability",
    ),
    "socketpair": (Only(({0: (AF_UNIX,)},)), "as socket"),
    "personality": (Only(({0: (0, 0xFFFFFFFF)},)), "reading it, or the ordinary one; never without ASLR"),
    "sched_setscheduler": (
        Only(({1: (*_ORDINARY, *(policy | _RESET_ON_FORK for policy in _ORDINARY))},)),
        "ordinary, batch and idle: what makes a program wait longer; real time is never asked for",
    ),
    "fcntl": (
        Never(1, values=(1024, 1026)),
        "F_SETLEASE and F_NOTIFY watch files that others use too; so does inotify, which is not allowed at all",
    ),
    **{
        name: (
            Never(2 if name == "shmget" else 3 if name == "mmap" else 1, bits=bit),
            "huge pages are a host's reserve",
        )
        for name, bit in _HUGE_PAGES.items()
    },
    "prctl": (
        Only(({0: (1, 2, 3, 4, 15, 16, 21, 22, 23, 30, 36, 37, 38, 39, 40, 0x53564D41)},)),
        "names, death signals, dumpable, seccomp of one's own, subreapers, no_new_privs, names of mappings",
    ),
    "ioctl": (
        Only(
            (
                {
                    1: (
                        0x5401,
                        0x5413,
                        0x5421,
                        0x5450,
                        0x5451,
                        0x5452,
                        0x541B,
                        0x540F,
                        0x5410,
                        0x40049409,
                        0x8910,
                        0x8933,
                    )
                },
            )
        ),
        "TCGETS, TIOCGWINSZ, FIONBIO, FIONCLEX, FIOCLEX, FIOASYNC, FIONREAD, TIOCGPGRP, TIOCSPGRP, FICLONE, and"
        " SIOCGIFNAME, SIOCGIFINDEX: libc's names of interfaces; the rest of SIOC* would tell of the host's through a"
        " socket that the broker handed over",
    ),
    "setsockopt": (
        Except(
            (
                {1: (_SOL_SOCKET,), 2: (25, 26, 27, 44, 50, 51, 52, 62)},
                {1: (_TCP,), 2: (19, 23, 30, 31, 33, 34)},
                {1: (_IP,), 2: (4, 42, 46)},
                {1: (_IPV6,), 2: (6, 57)},
            )
        ),
        "filters (SO_ATTACH_* and SO_LOCK_FILTER) are programs for the kernel; TCP_REPAIR, TCP_FASTOPEN* and TCP_ULP"
        " change what a socket that the broker handed over is; SO_BINDTO*, IP_OPTIONS, IPV6_RTHDR and"
        " IPV6_2292PKTOPTIONS (source routes) choose where its packets go, MCAST_JOIN_* what the machine receives",
    ),
}

FIRST_UNKNOWN: Final = 454
"""Calls from here on are newer than this table (Linux 6.6): libc knows a way without them when it gets ENOSYS."""

ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32: Final = 0x40000000

_RET_KILL: Final = 0x80000000
RET_ASK: Final = 0x7FC00000
_RET_ERRNO: Final = 0x00050000
_RET_ALLOW: Final = 0x7FFF0000
EPERM: Final = _RET_ERRNO | errno.EPERM
ENOSYS: Final = _RET_ERRNO | errno.ENOSYS

_LOAD, _JUMP, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06

Instruction = tuple[int, int, int, int]


def _load_argument(index: int) -> Instruction:
    # The low half of seccomp_data.args[index]; every argument looked at is an int to the kernel.
    return (_LOAD, 0, 0, 16 + 8 * index)


def _check(rule: Never | Only | Except) -> list[Instruction]:
    """Instructions that return EPERM or ALLOW for one conditional call."""
    refuse, allow = (_RETURN, 0, 0, EPERM), (_RETURN, 0, 0, _RET_ALLOW)
    if isinstance(rule, Never):
        load = _load_argument(rule.argument)
        bits = [(_JSET, 0, 1, rule.bits), refuse] if rule.bits else []
        return [load, *bits, *[step for value in rule.values for step in ((_JEQ, 0, 1, value), refuse)], allow]
    fits, else_ = (allow, refuse) if isinstance(rule, Only) else (refuse, allow)
    return [step for alternative in rule.alternatives for step in _fits(alternative, fits)] + [else_]


def _ask(rule: Ask) -> list[Instruction]:
    """Instructions that ask whoever listens, if there is anything to ask."""
    flags = [] if rule.flags is None else [_load_argument(rule.flags), (_JSET, 0, 1, rule.bits), (_RETURN, 0, 0, EPERM)]
    if rule.pointer is None:
        return [*flags, (_RETURN, 0, 0, RET_ASK)]
    low, high = _load_argument(rule.pointer), (_LOAD, 0, 0, 16 + 8 * rule.pointer + 4)
    null = [low, (_JEQ, 0, 2, 0), high, (_JEQ, 1, 0, 0)]
    return [*flags, *null, (_RETURN, 0, 0, RET_ASK), (_RETURN, 0, 0, _RET_ALLOW)]


def _fits(alternative: Mapping[int, tuple[int, ...]], verdict: Instruction) -> list[Instruction]:
    """Instructions that return the verdict if every argument has one of its values, and else run on behind them."""
    code = [verdict]
    for argument, values in reversed(list(alternative.items())):
        tests = [(_JEQ, len(values) - index, 0, value) for index, value in enumerate(values)]
        code = [_load_argument(argument), *tests, (_JUMP, 0, 0, len(code)), *code]
    return code


def ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Sorted numbers as runs: (first, one past the last)."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs


def _search(edges: list[tuple[int, int]]) -> list[Instruction]:
    """A binary search over (edge, verdict): the verdict of the last edge that is not above the number."""
    if len(edges) == 1:
        return [(_RETURN, 0, 0, edges[0][1])]
    middle = len(edges) // 2
    low, high = _search(edges[:middle]), _search(edges[middle:])
    if len(low) <= 255:
        return [(_JGE, len(low), 0, edges[middle][0]), *low, *high]
    return [(_JGE, 0, 1, edges[middle][0]), (_JUMP, 0, 0, len(low)), *low, *high]


def program(machine: str) -> list[Instruction]:
    """The filter for one architecture, as (code, jump if true, jump if false, value)."""
    number = {name: pair[0 if machine == "x86_64" else 1] for name, pair in NUMBERS.items()}
    code: list[Instruction] = [
        (_LOAD, 0, 0, 4),
        (_JEQ, 1, 0, ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _RET_KILL),
        (_LOAD, 0, 0, 0),
    ]
    if machine == "x86_64":
        code += [(_JGE, 0, 1, _X32), (_RETURN, 0, 0, _RET_KILL)]
    bodies = {name: _check(rule) for name, (rule, _) in CONDITIONAL.items()}
    bodies |= {name: _ask(rule) for name, rule in ASKED.items()}
    for name, body in bodies.items():
        if (value := number[name]) is not None:
            code += [(_JEQ, 0, len(body), value), *body]
    return code + _search(_edges(number))


def _edges(number: Mapping[str, int | None]) -> list[tuple[int, int]]:
    allowed = [value for name in ALLOWED if (value := number[name]) is not None]
    absent = {value for name in ABSENT if (value := number[name]) is not None}
    exploits = {value for name in EXPLOITS if (value := number[name]) is not None}
    verdicts = dict.fromkeys(allowed, _RET_ALLOW) | dict.fromkeys(absent, ENOSYS) | dict.fromkeys(exploits, RET_ASK)
    edges = [(0, EPERM)]
    for value in sorted(verdicts):
        if edges[-1][0] == value:
            edges.pop()
        if not edges or edges[-1][1] != verdicts[value]:
            edges.append((value, verdicts[value]))
        edges.append((value + 1, EPERM))
    return [*[edge for edge in edges if edge[0] < FIRST_UNKNOWN], (FIRST_UNKNOWN, ENOSYS)]


def assemble(machine: str = linux.MACHINE) -> bytes:
    """The filter as the kernel takes it: an array of struct sock_filter."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program(machine))


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


_SET_MODE_FILTER: Final = 1
_NEW_LISTENER: Final = 8
_WAIT_KILLABLE_RECV: Final = 32
"""A call that has been taken up is not begun again for a signal; since Linux 5.19."""


def install(assembled: bytes) -> int:
    """Put the filter on the calling process and all it will start; no_new_privs must be set. Raises OSError.

    The descriptor that is returned tells of the calls that wait to be decided (seccomp_unotify(2)).
    """
    try:
        return _install(assembled, _NEW_LISTENER | _WAIT_KILLABLE_RECV)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return _install(assembled, _NEW_LISTENER)


def _install(assembled: bytes, flags: int) -> int:
    fprog = _Program(len(assembled) // 8, assembled)
    return linux.syscall(linux.SYS_SECCOMP[linux.MACHINE], _SET_MODE_FILTER, flags, ctypes.byref(fprog))
