"""What TCP sockets of this machine carry and carried, as the kernel tells of them (sock_diag(7), linux/inet_diag.h).

A socket that was handed over is nobody's here any more: it is asked for by the kernel's own number of it.
"""

import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from enclave.egress.address import Internet
from enclave.egress.caller import cookie_of


@dataclass(frozen=True, slots=True)
class Closed:
    """A TCP socket of this machine that is no more: its cookie, and what it carried, as the kernel counts it.

    That is sequence numbers: the peer's end is one among those received.
    """

    cookie: int
    sent: int
    received: int


@dataclass(frozen=True, slots=True)
class Identity:
    """What the kernel finds a connected socket by."""

    family: int
    source: bytes
    target: bytes
    ports: tuple[int, int]
    cookie: int


def identity_of(sock: socket.socket, target: Internet) -> Identity:
    """The identity of a socket that is connected to the target, or will be."""
    host, port = sock.getsockname()[:2]
    source = socket.inet_pton(sock.family, host)
    return Identity(sock.family, source, target.packed, (port, target.port), cookie_of(sock))


_NETLINK_SOCK_DIAG: Final = 4
_DESTROYED: Final = 0b101
"""The groups SKNLGRP_INET_TCP_DESTROY and SKNLGRP_INET6_TCP_DESTROY of linux/sock_diag.h."""
_NLMSG_HEADER, _DIAG_MESSAGE = 16, 72
_COOKIE_AT: Final = _NLMSG_HEADER + 44
_INET_DIAG_INFO: Final = 2
_BYTES_RECEIVED, _BYTES_SENT = 128, 200


_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_ALL_STATES: Final = 0xFFFFFFFF


def measure(which: Identity) -> Closed | None:
    """What a socket has carried so far; None if the kernel has it no more, and tells of it as of one that is closed."""
    ports = struct.pack("!HH", *which.ports)
    addresses = which.source.ljust(16, b"\0") + which.target.ljust(16, b"\0")
    request = struct.pack("=BBBBI", which.family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), 0, _ALL_STATES)
    body = request + ports + addresses + struct.pack("=IQ", 0, which.cookie)
    header = struct.pack("=IHHII", _NLMSG_HEADER + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    with contextlib.suppress(OSError), _netlink() as asked:
        asked.send(header + body)
        if (found := _closed(asked.recv(8192))) is not None and found.cookie == which.cookie:
            return found
    return None


def _netlink() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)


class Obituaries:
    """Tells of TCP sockets as the kernel frees them (sock_diag(7)), which is how those handed over are followed."""

    def __init__(self, tell: Callable[[Closed], None]) -> None:
        self._tell = tell
        self.sock = _netlink()
        self.sock.setblocking(False)
        self.sock.bind((0, _DESTROYED))

    def read(self) -> None:
        """Read what there is."""
        while True:
            try:
                message = self.sock.recv(8192)
            except BlockingIOError:
                return
            except OSError:
                continue  # more were freed than there was room for; those are told without bytes at the session's end
            if (closed := _closed(message)) is not None:
                self._tell(closed)

    def close(self) -> None:
        """Listen no more."""
        self.sock.close()


def _closed(message: bytes) -> Closed | None:
    if len(message) < _NLMSG_HEADER + _DIAG_MESSAGE:
        return None
    cookie = struct.unpack_from("=Q", message, _COOKIE_AT)[0]
    at = _NLMSG_HEADER + _DIAG_MESSAGE
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if kind == _INET_DIAG_INFO and length >= 4 + _BYTES_SENT + 16:
            info = message[at + 4 : at + length]
            sent, again = struct.unpack_from("=QQ", info, _BYTES_SENT)
            return Closed(cookie, sent - again, struct.unpack_from("=Q", info, _BYTES_RECEIVED)[0])
        at += max(4, length + 3 & ~3)
    return None  # what is in TIME_WAIT has no figures any more
