"""The one read-only root that the launcher and every sandbox stand in.

It is built once, on a tmpfs of the launcher's own mount namespace, and the launcher itself moves into it: the host's
file system is in no mount table that a sandbox could inherit, and a new sandbox copies a dozen mounts, not a host's.
Every source is taken hold of before the first mount hides anything.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from enclave.sandbox import linux, template

_READ_ONLY: Final = linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV
_DEVICE: Final = linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NOEXEC
_STAGE: Final = "/tmp"  # noqa: S108  hidden by our own mount, in our own namespace

SOURCES: Final = "/.sources"
"""Where the sources of all sessions are in the launcher's root; each sandbox takes its own and detaches the rest."""

DEVICES: Final = ("null", "zero", "full", "random", "urandom")
_RUNTIME: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libexec", "share")
_MERGED: Final = ("bin", "sbin", "lib", "lib32", "lib64")

ETC: Final[Mapping[str, str]] = {
    "passwd": "sandbox:x:1000:1000:sandbox:/work:/bin/sh\n",
    "group": "sandbox:x:1000:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "hostname": "sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "resolv.conf": "",
    "machine-id": "",
}
"""All that libc needs of /etc, and nothing of the host's."""

COPIED: Final = ("ld.so.cache", "ssl/certs/ca-certificates.crt")
"""Host files of /etc that hold only public facts and that programs need as they are."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A host path that appears read-only inside, at the same path unless another is given."""

    path: str
    device: bool = False
    elsewhere: str | None = None

    @property
    def place(self) -> str:
        """Where it is inside."""
        return self.elsewhere or self.path


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the root is made of; `files` are written as given."""

    binds: tuple[Bind, ...]
    links: Mapping[str, str]
    directories: tuple[str, ...]
    files: Mapping[str, bytes]


def plan(
    prefixes: Sequence[str], files: Mapping[str, bytes], packages: str | None = None, sources: str | None = None
) -> Plan:
    """The root for interpreters installed under `prefixes`, with extra `files` by their absolute path.

    `packages` is the directory of a template's packages, `sources` that of the sessions' sources.
    """
    usr = [f"/usr/{name}" for name in _RUNTIME]
    own = [prefix for prefix in prefixes if not _covered(prefix)]
    plain = [f"/{name}" for name in _MERGED if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}")]
    binds = tuple(Bind(path) for path in [*usr, *own, *plain] if os.path.isdir(path))
    extra = tuple(
        Bind(path, elsewhere=place)
        for path, place in ((packages, template.PLACE), (sources, SOURCES))
        if path is not None
    )
    links = {f"/{name}": os.readlink(f"/{name}") for name in _MERGED if os.path.islink(f"/{name}")}
    etc = {f"/etc/{name}": text.encode() for name, text in ETC.items()}
    copied = {f"/etc/{name}": data for name in COPIED if (data := _read(f"/etc/{name}")) is not None}
    return Plan(
        binds=binds + extra + tuple(Bind(f"/dev/{name}", device=True) for name in DEVICES),
        links={**links, **_DEV_LINKS, "/var/tmp": "/tmp"},  # noqa: S108
        directories=("/proc", "/work", "/tmp", "/dev", "/sys"),  # noqa: S108
        files={**etc, **copied, **files},
    )


_DEV_LINKS: Final = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
    "/dev/shm": "/tmp",  # noqa: S108
}


def _covered(prefix: str) -> bool:
    return prefix == "/usr"


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def enter(root: Plan, *, keep_proc: bool) -> None:
    """Build the root in a new mount namespace and make it this process's own.

    `keep_proc` leaves the host's /proc at /.proc: without real root the kernel lets a new one be mounted only beside a
    fully visible old one (mount_too_revealing in fs/namespace.c); each sandbox detaches it.
    """
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    trees = [(bind, linux.open_tree(bind.path)) for bind in root.binds]
    proc = linux.open_tree("/proc") if keep_proc else None
    linux.mount("tmpfs", _STAGE, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=8m,mode=755")
    _fill(root)
    for bind, tree in trees:
        linux.mount_setattr(tree, _DEVICE if bind.device else _READ_ONLY)
        linux.move_mount(tree, _STAGE + bind.place)
        os.close(tree)
    if proc is not None:
        os.mkdir(f"{_STAGE}/.proc")
        linux.move_mount(proc, f"{_STAGE}/.proc")
        os.close(proc)
    os.chdir(_STAGE)
    linux.pivot_root_here()
    flags = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("none", "/", None, flags)


def _fill(root: Plan) -> None:
    os.umask(0o022)
    for path in root.directories:
        os.makedirs(_STAGE + path, exist_ok=True)
    for bind in root.binds:
        _mount_point(_STAGE + bind.place, directory=not bind.device)
    for path, target in root.links.items():
        os.makedirs(os.path.dirname(_STAGE + path), exist_ok=True)
        os.symlink(target, _STAGE + path)
    for path, data in root.files.items():
        os.makedirs(os.path.dirname(_STAGE + path), exist_ok=True)
        with open(_STAGE + path, "wb") as file:
            file.write(data)


def _mount_point(path: str, *, directory: bool) -> None:
    os.makedirs(path if directory else os.path.dirname(path), exist_ok=True)
    if not directory:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
