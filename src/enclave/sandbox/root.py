"""The one read-only root that the launcher and every sandbox stand in.

It is built once, on a tmpfs of the launcher's own mount namespace, and the launcher itself moves into it: the host's
file system is in no mount table that a sandbox could inherit, and a new sandbox copies a dozen mounts, not a host's.
Every source is taken hold of before the first mount hides anything.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from enclave.sandbox import linux, template

_READ_ONLY: Final = linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV
_DEVICE: Final = linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NOEXEC
_STAGE: Final = "/tmp"  # noqa: S108  hidden by our own mount, in our own namespace

SOURCES: Final = "/.sources"
"""Where the sources of all sessions are in the launcher's root; each sandbox takes its own and detaches the rest."""

DEVICES: Final = ("null", "zero", "full", "random", "urandom")
_RUNTIME: Final = ("bin", "include", "sbin", "lib", "lib32", "lib64", "libexec", "share")
_MERGED: Final = ("bin", "sbin", "lib", "lib32", "lib64")

_SERVICES: Final = (
    *(("echo", "7/tcp"), ("echo", "7/udp"), ("daytime", "13/tcp"), ("daytime", "13/udp"), ("ftp", "21/tcp")),
    *(("ssh", "22/tcp"), ("telnet", "23/tcp"), ("smtp", "25/tcp"), ("domain", "53/tcp"), ("domain", "53/udp")),
    *(("http", "80/tcp"), ("pop3", "110/tcp"), ("ntp", "123/udp"), ("imap", "143/tcp"), ("ldap", "389/tcp")),
    *(("https", "443/tcp"), ("https", "443/udp"), ("submission", "587/tcp"), ("imaps", "993/tcp")),
    *(("mysql", "3306/tcp"), ("postgresql", "5432/tcp"), ("http-alt", "8080/tcp")),
)

ETC: Final[Mapping[str, str]] = {
    # Root and nobody own what a listing shows: programs that pack files ask for their names.
    "passwd": (
        "root:x:0:0:root:/:/usr/sbin/nologin\n"
        "sandbox:x:1000:1000:sandbox:/work:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
    ),
    "group": "root:x:0:\nsandbox:x:1000:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "hostname": "sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    # The names that getaddrinfo(3) and getservbyname(3) are asked for (IANA).
    "protocols": "ip 0 IP\nicmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6 41 IPv6\nipv6-icmp 58 IPv6-ICMP\n",
    "services": "".join(f"{name} {port}\n" for name, port in _SERVICES),
    "resolv.conf": "",
    "machine-id": "",
}
"""All that libc needs of /etc, and nothing of the host's."""

COPIED: Final = ("ld.so.cache", "ssl/certs/ca-certificates.crt", "ssl/openssl.cnf")
"""Host files of /etc that hold only public facts and that programs need as they are."""


@dataclass(frozen=True, slots=True)
class Extras:
    """What a launcher's root has beside the runtime.

    `packages` is the directory of a template's packages, `sources` that of the sessions' sources, `links` are more
    links by their absolute path.
    """

    packages: str | None = None
    sources: str | None = None
    links: Mapping[str, str] = field(default_factory=dict)


_NOTHING: Final = Extras()


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


def plan(prefixes: Sequence[str], files: Mapping[str, bytes], extras: Extras = _NOTHING) -> Plan:
    """The root for interpreters installed under `prefixes`, with extra `files` by their absolute path."""
    usr = [f"/usr/{name}" for name in _RUNTIME]
    own = [prefix for prefix in prefixes if not _covered(prefix)]
    plain = [f"/{name}" for name in _MERGED if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}")]
    binds = tuple(Bind(path) for path in [*usr, *own, *plain] if os.path.isdir(path))
    taken = ((extras.packages, template.PLACE), (extras.sources, SOURCES))
    extra = tuple(Bind(path, elsewhere=place) for path, place in taken if path is not None)
    merged = {f"/{name}": os.readlink(f"/{name}") for name in _MERGED if os.path.islink(f"/{name}")}
    etc = {f"/etc/{name}": text.encode() for name, text in ETC.items()}
    copied = {f"/etc/{name}": data for name in COPIED if (data := _read(f"/etc/{name}")) is not None}
    return Plan(
        binds=binds + extra + tuple(Bind(f"/dev/{name}", device=True) for name in DEVICES),
        links={**merged, **_LINKS, **_alternatives(), **extras.links},
        directories=("/proc", "/work", "/tmp", "/dev", "/sys"),  # noqa: S108
        files={**etc, **copied, **files},
    )


_LINKS: Final = {
    "/etc/os-release": "/usr/lib/os-release",
    "/var/tmp": "/tmp",  # noqa: S108
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
    "/dev/shm": "/tmp",  # noqa: S108
}


_ALTERNATIVES: Final = "/etc/alternatives"
"""Where Debian keeps which awk, cc or BLAS is meant: what /usr links to, and only links back into it."""


def _alternatives() -> dict[str, str]:
    try:
        names = os.listdir(_ALTERNATIVES)
    except OSError:
        return {}
    paths = [f"{_ALTERNATIVES}/{name}" for name in names]
    links = {path: os.readlink(path) for path in paths if os.path.islink(path)}
    return {path: target for path, target in links.items() if target.startswith("/usr/")}


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
