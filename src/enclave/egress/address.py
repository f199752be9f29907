"""The addresses that a sandbox hands to the kernel: bytes of the hostile side, read in one way only."""

import socket
import struct
from dataclasses import dataclass
from typing import Final

MAX_ADDRESS: Final = 128
"""struct sockaddr_storage."""


@dataclass(frozen=True, slots=True)
class Unspecified:
    """AF_UNSPEC: forget the peer."""


@dataclass(frozen=True, slots=True)
class Local:
    """AF_UNIX; `path` as it came, beginning with a null byte if it is abstract."""

    path: bytes


@dataclass(frozen=True, slots=True)
class Internet:
    """AF_INET and AF_INET6: 4 or 16 bytes of address, and what goes with it."""

    packed: bytes
    port: int
    scope: int = 0

    @property
    def family(self) -> socket.AddressFamily:
        """Of which family it is."""
        return socket.AF_INET if len(self.packed) == 4 else socket.AF_INET6

    def for_connect(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """As Python's sockets take it."""
        host = socket.inet_ntop(self.family, self.packed)
        return (host, self.port) if len(self.packed) == 4 else (host, self.port, 0, self.scope)


@dataclass(frozen=True, slots=True)
class Unknown:
    """Any other family, or too short for its own."""

    family: int


Address = Unspecified | Local | Internet | Unknown


def parse(data: bytes) -> Address:
    """Read a struct sockaddr of linux/in.h, in6.h or un.h. Never raises."""
    if len(data) < 2:
        return Unknown(-1)
    family = struct.unpack_from("=H", data)[0]
    if family == socket.AF_UNSPEC:
        return Unspecified()
    if family == socket.AF_UNIX and len(data) > 2:
        return Local(_path(data[2:110]))
    if family == socket.AF_INET and len(data) >= 16:
        return Internet(data[4:8], int.from_bytes(data[2:4], "big"))
    if family == socket.AF_INET6 and len(data) >= 24:
        scope = struct.unpack_from("=I", data, 24)[0] if len(data) >= 28 else 0
        return Internet(data[8:24], int.from_bytes(data[2:4], "big"), scope)
    return Unknown(family)


def _path(raw: bytes) -> bytes:
    return raw if raw.startswith(b"\0") else raw.split(b"\0", 1)[0]


def parse_message(data: bytes) -> tuple[int, int]:
    """Where a struct msghdr says that its address is, and how long it is: (0, 0) for none."""
    pointer, length = struct.unpack_from("=QI", data)
    return (pointer, length) if pointer and length else (0, 0)
