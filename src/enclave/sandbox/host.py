"""How the launcher takes the host's files out of its own reach before it builds anything.

An interpreter that runs names the file it was started from, and so does every process forked from it, wherever its root
is (`/proc/self/exe`). Started over from a mount that is read-only, it names one that cannot be changed through it.
"""

import os
import sys
from typing import NoReturn

from enclave.sandbox import cgroup, linux

STANDING = "stand"
"""The argument that says that this has been done."""


def start_over_read_only() -> NoReturn:
    """Enter a mount namespace in which all is read-only but the cgroups, and execute this program in it again.

    An ordinary user becomes root of a user namespace of their own first. Raises OSError.
    """
    if os.geteuid() != 0:
        become_root_of_own()
    mounts = own_mounts()
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount_setattr_at("/", set=linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID)
    for path in {*mounts.v1.values(), *([mounts.v2] if mounts.v2 else [])}:
        linux.mount_setattr_at(path, clear=linux.MOUNT_ATTR_RDONLY)
    os.execv(sys.executable, [*sys.orig_argv, STANDING])  # noqa: S606  itself


def own_mounts() -> cgroup.Mounts:
    """Where the cgroup file systems are for this process."""
    with open("/proc/self/mountinfo") as mounts, open("/proc/self/cgroup") as groups:
        return cgroup.read_mounts(mounts.read(), groups.read())


def become_root_of_own() -> None:
    """Become root of a new user namespace in which there is no other id. Raises OSError."""
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWUSER)
    for file, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{file}", "w") as target:
            target.write(text)
