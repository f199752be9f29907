"""A second wall around the file system: what a sandbox may do beneath each place, whatever the mounts say.

landlock(7). Init enters the domain, all it starts inherit it. Should a mount be laid out wrongly, the root still cannot
be written; the kernel also refuses every change of mounts, and `ptrace`, signals and abstract sockets across the edge.
Network rights are left alone: a sandbox's loopback is its own, and there is no other way out.
"""

import ctypes
import errno
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from enclave.sandbox import linux

EXECUTE: Final = 1 << 0
WRITE_FILE: Final = 1 << 1
READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3
MAKE_CHAR: Final = 1 << 6
MAKE_BLOCK: Final = 1 << 11
TRUNCATE: Final = 1 << 14
IOCTL_DEV: Final = 1 << 15

OLDEST: Final = 2
"""The first refuses to move files between directories, which ordinary programs do."""

_RIGHTS: Final = {2: 14, 3: 15, 5: 16}
"""How many of the rights on files each ABI knows, from the one that brought them (landlock(7), VERSIONS)."""

_SCOPES: Final = {6: 0b11}
"""LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and LANDLOCK_SCOPE_SIGNAL."""

# The same on every architecture, as all calls since Linux 5.1.
_SYS_CREATE_RULESET, _SYS_ADD_RULE, _SYS_RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION, _RULE_PATH_BENEATH = 1, 1

_LOOK: Final = EXECUTE | READ_FILE | READ_DIR
_USE: Final = WRITE_FILE | TRUNCATE | IOCTL_DEV

RULES: Final[Mapping[str, int]] = {
    "/": _LOOK,
    # Programs write /dev/null, and names, oom_score_adj and the like below /proc/self; nothing can be made in either.
    "/dev": _USE,
    "/proc": _USE,
    # The interpreter that a guest was forked from is on a mount that its root does not reach.
    "/proc/self/exe": EXECUTE | READ_FILE,
}
"""What is allowed beneath each place, beside what is allowed above it."""

OWN: Final = ~(MAKE_CHAR | MAKE_BLOCK)
"""What is allowed beneath the places that are a sandbox's own: all but devices."""


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


@dataclass(frozen=True, slots=True)
class Domain:
    """What a domain decides about, and what it then allows; whatever is not handled is not its business."""

    files: int
    scopes: int
    rules: Mapping[str, int]
    own: int


def abi() -> int:
    """The version of Landlock that the running kernel has; 0 if it has none, or was booted without."""
    try:
        return linux.syscall(_SYS_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return 0
        raise


def plan(version: int) -> Domain:
    """The most that an ABI can hold, which is not older than the oldest that is used."""
    files = (1 << max(count for since, count in _RIGHTS.items() if since <= version)) - 1
    scopes = max((bits for since, bits in _SCOPES.items() if since <= version), default=0)
    return Domain(files, scopes, {place: rights & files for place, rights in RULES.items()}, OWN & files)


@functools.cache
def domain() -> Domain | None:
    """That of every sandbox on this kernel; asked once in the launcher, the answer is kept."""
    version = abi()
    return plan(version) if version >= OLDEST else None


def enter(chosen: Domain | None, own: Sequence[str]) -> None:
    """Hold the calling process and all it will start to a domain; no_new_privs must be set. Raises OSError.

    A rule is about what is mounted at its place now, which is why each sandbox makes its own.
    """
    if chosen is None:
        return
    attributes = _Ruleset(chosen.files, 0, chosen.scopes)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    ruleset = linux.syscall(_SYS_CREATE_RULESET, ctypes.byref(attributes), size, 0)
    for place, rights in {**chosen.rules, **dict.fromkeys(own, chosen.own)}.items():
        beneath = os.open(place, os.O_PATH | os.O_CLOEXEC)
        linux.syscall(_SYS_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(_PathBeneath(rights, beneath)), 0)
        os.close(beneath)
    linux.syscall(_SYS_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
