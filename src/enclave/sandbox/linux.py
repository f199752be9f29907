"""The system calls that Python does not offer, with the constants they need.

Numbers and flags are those of the kernel's uapi headers (linux/sched.h, linux/mount.h, linux/prctl.h,
linux/capability.h, linux/openat2.h); each function is named for its manual page in section 2. All raise OSError.
"""

import ctypes
import functools
import os
import platform
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)

CLONE_PARENT: Final = 0x00008000
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2

MOUNT_ATTR_RDONLY: Final = 1
MOUNT_ATTR_NOSUID: Final = 2
MOUNT_ATTR_NODEV: Final = 4
MOUNT_ATTR_NOEXEC: Final = 8

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH: Final = 4

_PROT_READ_WRITE: Final = 1 | 2
_PROT_READ_EXEC: Final = 1 | 4
_MAP_PRIVATE_ANONYMOUS: Final = 0x02 | 0x20
_RSEQ_FLAG_UNREGISTER: Final = 1
_RSEQ_SIGNATURE: Final = 0x53053053  # of x86 (sys/rseq.h of glibc)
RESOLVE_NO_XDEV: Final = 1
RESOLVE_NO_MAGICLINKS: Final = 2
RESOLVE_NO_SYMLINKS: Final = 4
RESOLVE_BENEATH: Final = 8

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_NAME: Final = 15
PR_CAPBSET_DROP: Final = 24
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

_CAPABILITY_VERSION_3: Final = 0x20080522
_SYS_CLONE: Final = {"x86_64": 56, "aarch64": 220}
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_PIDFD_OPEN: Final = 434
_SYS_CLOSE_RANGE: Final = 436
_SYS_OPENAT2: Final = 437
_SYS_PIDFD_GETFD: Final = 438
_SYS_MOUNT_SETATTR: Final = 442
_SYS_RSEQ: Final = {"x86_64": 334, "aarch64": 293}
_SYS_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}
SYS_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}

MACHINE: Final = platform.machine()


def check(result: int, what: str) -> int:
    """The result of a call, or the OSError it set."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def syscall(number: int, *args: object) -> int:
    """Any system call by its number."""
    return check(_libc.syscall(ctypes.c_long(number), *args), f"syscall {number}")


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags` for new ones."""
    check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def fork_sibling() -> int:
    """Fork a process that is not the caller's child but its parent's (clone with CLONE_PARENT); 0 in the new one.

    What libc and the interpreter do at a fork is not done: there must be but this thread, and the new process must only
    fork in the usual way, execute something, or end.
    """
    return syscall(_SYS_CLONE[MACHINE], ctypes.c_ulong(CLONE_PARENT), None, None, None, None)


def setns(fd: int, kind: int) -> None:
    """Enter the namespace behind `fd`."""
    check(_libc.setns(fd, kind), "setns")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Attach a file system, or change one that is attached."""
    check(
        _libc.mount(
            source.encode(),
            target.encode(),
            kind.encode() if kind else None,
            ctypes.c_ulong(flags),
            data.encode() if data else None,
        ),
        target,
    )


def umount(target: str) -> None:
    """Detach what is mounted at `target`, at once for this namespace."""
    check(_libc.umount2(target.encode(), MNT_DETACH), target)


def open_tree(path: str) -> int:
    """A detached copy of the mounts at and below `path`, as a descriptor (open_tree with OPEN_TREE_CLONE)."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE
    return syscall(_SYS_OPEN_TREE, AT_FDCWD, path.encode(), ctypes.c_uint(flags))


def move_mount(tree: int, target: str) -> None:
    """Attach a detached tree at `target`."""
    syscall(_SYS_MOVE_MOUNT, tree, b"", AT_FDCWD, target.encode(), MOVE_MOUNT_F_EMPTY_PATH)


def mount_setattr(tree: int, attributes: int) -> None:
    """Set mount attributes on a whole tree (mount_setattr with AT_RECURSIVE)."""
    settings = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    flags = ctypes.c_uint(AT_EMPTY_PATH | AT_RECURSIVE)
    syscall(_SYS_MOUNT_SETATTR, tree, b"", flags, ctypes.byref(settings), ctypes.c_size_t(32))


def pivot_root_here() -> None:
    """Make the working directory the root, and leave nothing of the old root behind (pivot_root(".", "."))."""
    syscall(_SYS_PIVOT_ROOT[MACHINE], b".", b".")
    umount(".")
    os.chdir("/")


def mount_setattr_at(path: str, *, set: int = 0, clear: int = 0) -> None:
    """Set and clear mount attributes on the mount at `path` and all below it."""
    settings = (ctypes.c_uint64 * 4)(set, clear, 0, 0)
    flags = ctypes.c_uint(AT_RECURSIVE)
    syscall(_SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, ctypes.byref(settings), ctypes.c_size_t(32))


def prctl(option: int, value: int | bytes = 0, third: int = 0) -> None:
    """Change a property of the calling process."""
    argument = value if isinstance(value, bytes) else ctypes.c_ulong(value)
    check(_libc.prctl(option, argument, ctypes.c_ulong(third), 0, 0), f"prctl {option}")


def openat2(directory: int, name: str, flags: int, resolve: int) -> int:
    """A descriptor of what has this name in a directory, and is reached as `resolve` allows."""
    how = (ctypes.c_uint64 * 3)(flags, 0, resolve)
    place = os.fsencode(name)
    return syscall(_SYS_OPENAT2, directory, place, ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))


def pidfd_open(pid: int) -> int:
    """A descriptor of a process."""
    return syscall(_SYS_PIDFD_OPEN, ctypes.c_int(pid), ctypes.c_uint(0))


def pidfd_getfd(process: int, fd: int) -> int:
    """A copy of a descriptor that another process has."""
    return syscall(_SYS_PIDFD_GETFD, process, fd, ctypes.c_uint(0))


def close_range(first: int, last: int) -> None:
    """Close every descriptor from `first` to `last`."""
    syscall(_SYS_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), 0)


def close_all_but(kept: set[int]) -> None:
    """Close every descriptor that is not in `kept`."""
    below = 0
    for fd in sorted(kept):
        if fd > below:
            close_range(below, fd - 1)
        below = fd + 1
    close_range(below, 0xFFFFFFFF)


def map_private(size: int) -> int:
    """The address of new memory of this process's own (mmap)."""
    _libc.mmap.restype = ctypes.c_void_p
    address = _libc.mmap(None, ctypes.c_size_t(size), _PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS, -1, ctypes.c_long(0))
    check(-1 if address == ctypes.c_void_p(-1).value else 0, "mmap")
    return int(address)


def make_executable(address: int, size: int) -> None:
    """Have memory hold code, and not be written to any more (mprotect)."""
    check(_libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), _PROT_READ_EXEC), "mprotect")


def leave_rseq() -> bool:
    """Take back the area that libc gave the kernel to write to (rseq(2)); False if it cannot be.

    The kernel writes there after it has interrupted the thread, and kills a process that has unmapped it. Where the
    area is, glibc says (2.35 and newer; libraries that do not say register none). How much of it was registered, it
    does not say: at first all of the original 32 bytes (linux/rseq.h).
    """
    try:
        offset = ctypes.c_ssize_t.in_dll(_libc, "__rseq_offset").value
        size = ctypes.c_uint.in_dll(_libc, "__rseq_size").value
    except ValueError:
        return True
    _libc.pthread_self.restype = ctypes.c_void_p
    area = ctypes.c_void_p(_libc.pthread_self() + offset)
    number = ctypes.c_long(_SYS_RSEQ[MACHINE])
    return size == 0 or any(
        _libc.syscall(number, area, length, _RSEQ_FLAG_UNREGISTER, _RSEQ_SIGNATURE) == 0 for length in (32, size)
    )


def drop_capabilities() -> None:
    """Give up every capability in every set, for good."""
    for capability in range(last_capability() + 1):
        prctl(PR_CAPBSET_DROP, capability)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)(0, 0, 0, 0, 0, 0)
    check(_libc.capset(ctypes.byref(header), ctypes.byref(none)), "capset")


def is_real_root() -> bool:
    """Whether this process is root of the whole machine, not only of a user namespace (user_namespaces(7))."""
    with open("/proc/self/uid_map") as file:
        return os.geteuid() == 0 and file.read().split() == ["0", "0", "4294967295"]


@functools.cache
def last_capability() -> int:
    """The highest capability this kernel has; ask once while /proc is there, the answer is kept."""
    with open("/proc/sys/kernel/cap_last_cap") as file:
        return int(file.read())
