"""The walls, put up from inside by the process that will be the sandbox's init, in an order that matters.

Nothing here may be skipped on failure: an OSError ends the process before any code has reached it.
"""

import fcntl
import os
import resource
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from enclave.guest import python
from enclave.sandbox import landlock, linux, root, seccomp

INSIDE_ID: Final = 1000
HOME: Final = "/work"
RESOLVER: Final = ("127.0.0.1", 53)
"""Where libc asks for names when it is told nothing else (resolv.conf(5))."""
_TMP: Final = "/tmp"  # noqa: S108  the sandbox's own

_OWN_NAMESPACES: Final = (
    linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS | linux.CLONE_NEWCGROUP
)

MASKED: Final = (
    "/proc/buddyinfo",
    "/proc/cgroups",
    "/proc/cmdline",
    "/proc/diskstats",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/pagetypeinfo",
    "/proc/partitions",
    "/proc/softirqs",
    "/proc/swaps",
    "/proc/sys/kernel/random/boot_id",
    "/proc/zoneinfo",
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/kmsg",
    "/proc/kallsyms",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/kpagecgroup",
    "/proc/sched_debug",
    "/proc/slabinfo",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmallocinfo",
    "/proc/config.gz",
    "/proc/modules",
)
"""Files of /proc that tell of the host or command it; they read as empty."""

READ_ONLY: Final = ("/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs")

_RLIMIT_SIGPENDING: Final = 11  # asm-generic/resource.h; counts POSIX timers too

RLIMITS: Final = (
    (resource.RLIMIT_CORE, (0, 0)),
    (resource.RLIMIT_NOFILE, (1024, 4096)),
    (resource.RLIMIT_MSGQUEUE, (0, 0)),
    (_RLIMIT_SIGPENDING, (1024, 1024)),
    (resource.RLIMIT_MEMLOCK, (65536, 65536)),
)


@dataclass(frozen=True, slots=True)
class Walls:
    """How one sandbox is closed off. `uid` None keeps the launcher's own id, the only one an ordinary user has.

    `sources` says whether the launcher's root has the sources of all sessions, `source` which of them is its own.
    """

    uid: int | None
    disk_bytes: int
    entrances: Sequence[int]
    filter: bytes
    masked: tuple[str, ...]
    keep_proc: bool
    sources: bool = False
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Openings:
    """What init keeps of a sandbox for who watches over it, as descriptors.

    The listener tells of calls that wait to be decided, `resolver` is the socket where the sandbox looks for its name
    server, and `work` the directory that its program works in.
    """

    listener: int
    resolver: int
    work: int


def put_up(walls: Walls) -> Openings:
    """Isolate the calling process, which must be the first of its PID namespace. Raises OSError."""
    linux.unshare(_OWN_NAMESPACES)
    _mount(walls)
    work = os.open(HOME, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    _start_loopback()
    resolver = _bind(RESOLVER, socket.SOCK_DGRAM)
    socket.sethostname("sandbox")
    _limit()
    _drop_identity(walls.uid)
    linux.drop_capabilities()
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    # After the change of ids, which clears it (prctl(2)).
    linux.prctl(linux.PR_SET_PDEATHSIG, 9)
    landlock.enter(landlock.domain(), own=(_TMP, HOME))
    return Openings(seccomp.install(walls.filter), resolver, work)


def join(entrances: Sequence[int]) -> None:
    """Enter the sandbox's cgroup; before `put_up`, so that the cgroup namespace is rooted there. Raises OSError."""
    for entrance in entrances:
        os.write(entrance, b"0")
        os.close(entrance)


def _mount(walls: Walls) -> None:
    quiet = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("proc", "/proc", "proc", quiet | linux.MS_NOEXEC)
    if walls.keep_proc:
        linux.umount("/.proc")
    for path in READ_ONLY:
        _freeze(path)
    # After what is frozen, which would hide a mask below it.
    for path in walls.masked:
        linux.mount("/dev/null", path, None, linux.MS_BIND)
    owner = f"uid={walls.uid or 0},gid={walls.uid or 0}"
    inodes = max(1024, walls.disk_bytes // 4096)
    linux.mount("tmpfs", _TMP, "tmpfs", quiet, f"size={walls.disk_bytes},nr_inodes={inodes},mode=1777,{owner}")
    os.mkdir(f"{_TMP}/.work", 0o755)
    os.chown(f"{_TMP}/.work", walls.uid or 0, walls.uid or 0)
    linux.mount(f"{_TMP}/.work", HOME, None, linux.MS_BIND)
    if walls.source is not None:
        os.mkdir(python.SOURCE)
        # A bind has the flags of the mount it is made from: read-only, no devices, no set-user-ID.
        linux.mount(f"{root.SOURCES}/{walls.source}", python.SOURCE, None, linux.MS_BIND)
    if walls.sources:
        linux.umount(root.SOURCES)
    os.chdir(HOME)


def existing(paths: Sequence[str]) -> tuple[str, ...]:
    """Those of the paths that this kernel has; asked once, while the launcher still sees a /proc."""
    return tuple(path for path in paths if os.path.exists(path))


def _freeze(path: str) -> None:
    try:
        linux.mount(path, path, None, linux.MS_BIND)
    except FileNotFoundError:
        return
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount("none", path, None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | flags)


_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def _start_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack_from("16sh", fcntl.ioctl(probe, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(probe, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def _bind(address: tuple[str, int], kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as made:
        made.bind(address)
        return made.detach()


def _limit() -> None:
    for which, bounds in RLIMITS:
        most = resource.getrlimit(which)[1]
        hard = bounds[1] if most == resource.RLIM_INFINITY else min(bounds[1], most)
        resource.setrlimit(which, (min(bounds[0], hard), hard))


def _drop_identity(uid: int | None) -> None:
    outside = 0 if uid is None else uid
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    linux.unshare(linux.CLONE_NEWUSER)
    # A process that is not dumpable does not own its files in /proc (proc(5)); nothing hostile runs here yet.
    linux.prctl(linux.PR_SET_DUMPABLE, 1)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{INSIDE_ID} {outside} 1")
    _write("/proc/self/gid_map", f"{INSIDE_ID} {outside} 1")
    linux.prctl(linux.PR_SET_DUMPABLE, 0)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
