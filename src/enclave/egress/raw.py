"""Connections that are handed over as they are, for rules on addresses: the sandbox gets the very socket.

It is a socket of this machine's network in hostile hands. It cannot be connected anew, since each connect of such a
session is made here and never by the kernel on the caller's word; and a filter that cannot be taken off lets through
only what comes from the peer that was allowed, so that it cannot listen either.
"""

import ctypes
import errno
import functools
import secrets
import socket
import struct
from typing import Final

from enclave.egress.address import Internet
from enclave.egress.apart import Shared

_SO_ATTACH_FILTER, _SO_LOCK_FILTER = 26, 44
_NETWORK_HEADER: Final = 0xFFF00000
"""SKF_NET_OFF of linux/filter.h: offsets from here are into the IP header; without it, into the TCP header."""
_TRIES: Final = 64
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
    made = Shared(theirs.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        for level, option, size in _CARRIED:
            made.setsockopt(level, option, theirs.getsockopt(level, option, size))
        _bind_for_good(made)
        _bind_to_peer(made, target)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


def _bind_for_good(sock: socket.socket) -> None:
    # A port that was asked for by its number is kept whatever becomes of the connection (SOCK_BINDPORT_LOCK in
    # net/ipv4/af_inet.c): in other hands the socket can never be bound to another.
    first, last = _local_ports()
    host = "::" if sock.family == socket.AF_INET6 else "0.0.0.0"  # noqa: S104  the source of a connect
    for left in reversed(range(_TRIES)):
        try:
            sock.bind((host, first + secrets.randbelow(last - first + 1)))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not left:
                raise
        else:
            return


@functools.cache
def _local_ports() -> tuple[int, int]:
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first, last = map(int, file.read().split())
    return first, last


def available() -> bool:
    """Whether this kernel lets this user hold a socket to one peer; without that none is handed over."""
    with socket.socket() as probe:
        try:
            _bind_to_peer(probe, Internet(bytes(4), 1))
        except OSError:
            return False
        return True


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
