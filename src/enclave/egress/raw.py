"""Connections that are handed over as they are, for rules on addresses: the sandbox gets the very socket.

It is a socket of this machine's network in hostile hands. It cannot be connected anew, since each connect of such a
session is made here and never by the kernel on the caller's word; and a filter that cannot be taken off lets through
only what comes from the peer that was allowed, so that it cannot listen either.
"""

import ctypes
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from enclave.egress.address import Internet

_SO_ATTACH_FILTER, _SO_LOCK_FILTER = 26, 44
_NETWORK_HEADER: Final = 0xFFF00000
"""SKF_NET_OFF of linux/filter.h: offsets from here are into the IP header; without it, into the TCP header."""
_LOAD_WORD, _LOAD_HALF, _JEQ, _RETURN = 0x20, 0x28, 0x15, 0x06

_CARRIED: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 4),
    (socket.SOL_SOCKET, socket.SO_LINGER, 8),
    (socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16),
    (socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16),
    (socket.SOL_SOCKET, socket.SO_OOBINLINE, 4),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 4),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 4),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 4),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 4),
)
"""What a program may have set on its socket before it connects, and finds on the one it gets: level, option, bytes."""


def twin_of(theirs: socket.socket, target: Internet) -> socket.socket:
    """A socket of this machine's network that looks like the caller's, bound to one peer, not connected yet.

    Raises OSError.
    """
    made = socket.socket(theirs.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        for level, option, size in _CARRIED:
            made.setsockopt(level, option, theirs.getsockopt(level, option, size))
        # With a port of its own it can never be bound to another, whatever becomes of the connection.
        made.bind(("::" if made.family == socket.AF_INET6 else "0.0.0.0", 0))  # noqa: S104  the source of a connect
        _bind_to_peer(made, target)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _bind_to_peer(sock: socket.socket, target: Internet) -> None:
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in peer_filter(target))
    held = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(held))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)


def peer_filter(target: Internet) -> list[tuple[int, int, int, int]]:
    """A filter (linux/filter.h) that lets through only TCP segments that come from the address and port."""
    packed = target.packed
    if len(packed) == 16 and packed.startswith(bytes(10) + b"\xff\xff"):
        packed = packed[12:]
    source = 12 if len(packed) == 4 else 8
    words = [int.from_bytes(packed[at : at + 4], "big") for at in range(0, len(packed), 4)]
    tests = [(_LOAD_HALF, 0, target.port)]
    tests += [(_LOAD_WORD, _NETWORK_HEADER + source + 4 * index, word) for index, word in enumerate(words)]
    code: list[tuple[int, int, int, int]] = []
    for index, (load, offset, value) in enumerate(tests):
        refuse = 2 * (len(tests) - index) - 1
        code += [(load, 0, 0, offset), (_JEQ, 0, refuse, value)]
    return [*code, (_RETURN, 0, 0, 0xFFFFFFFF), (_RETURN, 0, 0, 0)]


@dataclass(frozen=True, slots=True)
class Closed:
    """A TCP socket of this machine that is no more: its cookie, and what it carried."""

    cookie: int
    sent: int
    received: int


_NETLINK_SOCK_DIAG: Final = 4
_DESTROYED: Final = 0b101
"""The groups SKNLGRP_INET_TCP_DESTROY and SKNLGRP_INET6_TCP_DESTROY of linux/sock_diag.h."""
_NLMSG_HEADER, _DIAG_MESSAGE = 16, 72
_COOKIE_AT: Final = _NLMSG_HEADER + 44
_INET_DIAG_INFO: Final = 2
_BYTES_RECEIVED, _BYTES_SENT = 128, 200


class Obituaries:
    """Tells of TCP sockets as the kernel frees them (sock_diag(7)), which is how those handed over are followed."""

    def __init__(self, tell: Callable[[Closed], None]) -> None:
        self._tell = tell
        self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
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
    return Closed(cookie, 0, 0)
