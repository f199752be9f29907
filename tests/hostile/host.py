"""The host's side: things that are really there to be found, and are gone afterwards."""

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

_PLACES: Final = ("/root", "/tmp", "/home", "/opt", "/work")
_NAMESPACES: Final = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
KEYS: Final = tuple(range(0x7E570001, 0x7E570008))
"""System V keys that probes use."""


@contextlib.contextmanager
def facts() -> Iterator[Mapping[str, object]]:
    """Canary files, listeners and identifiers of the host, as probes find them in `HOST`."""
    with contextlib.ExitStack() as stack:
        canaries = {place.strip("/"): stack.enter_context(_canary(place)) for place in _PLACES}
        directory = stack.enter_context(_open_directory())
        abstract = f"enclave-canary-{os.getpid()}"
        stack.enter_context(_listener(socket.AF_UNIX, f"\0{abstract}"))
        stack.enter_context(_listener(socket.AF_UNIX, f"{directory}/socket"))
        os.chmod(f"{directory}/socket", 0o777)
        four = stack.enter_context(_listener(socket.AF_INET, ("127.0.0.1", 0)))
        six = stack.enter_context(_listener(socket.AF_INET6, ("::1", 0)))
        stack.enter_context(_segment(KEYS[0]))
        yield {
            "canary": canaries,
            "abstract": abstract,
            "socket": f"{directory}/socket",
            "port": four.getsockname()[1],
            "port6": six.getsockname()[1],
            "pid": os.getpid(),
            "hostname": socket.gethostname(),
            "address": _address(),
            "repo": str(Path(__file__).parent.parent.parent),
            "ns": {name: os.readlink(f"/proc/self/ns/{name}") for name in _NAMESPACES},
            "keys": KEYS,
        }


@contextlib.contextmanager
def _canary(place: str) -> Iterator[str]:
    path = Path(place, f"enclave-canary-{os.getpid()}")
    with contextlib.suppress(OSError):
        path.write_text("a secret of the host\n")
        path.chmod(0o666)
    try:
        yield str(path)
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def _open_directory() -> Iterator[str]:
    base = "/opt" if os.access("/opt", os.W_OK) else "/tmp"
    path = f"{base}/enclave-canaries-{os.getpid()}"
    os.mkdir(path)
    os.chmod(path, 0o777)
    try:
        yield path
    finally:
        for name in os.listdir(path):
            os.unlink(f"{path}/{name}")
        os.rmdir(path)


@contextlib.contextmanager
def _listener(family: int, address: str | tuple[str, int]) -> Iterator[socket.socket]:
    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen(64)
        yield listener


@contextlib.contextmanager
def _segment(key: int) -> Iterator[None]:
    libc = ctypes.CDLL(None)
    segment = libc.shmget(key, 4096, 0o1666)
    try:
        yield
    finally:
        libc.shmctl(segment, 0, None)


def remove_ipc() -> None:
    """Remove what probes made in the host's own IPC namespace, when a mutation let them."""
    libc = ctypes.CDLL(None)
    for key in KEYS[1:]:
        libc.shmctl(libc.shmget(key, 0, 0), 0, None)
        libc.semctl(libc.semget(key, 0, 0), 0, 0)
        libc.msgctl(libc.msgget(key, 0), 0, None)


def _address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a route is looked up, nothing is sent
        except OSError:
            return "127.0.0.2"
        return str(probe.getsockname()[0])
