"""Connects within a sandbox, made here instead of by its own kernel call, for sessions that hold sockets of ours.

The kernel would make them with whatever the caller's arguments have become by then, and that could be a socket that was
handed over and an address that nobody allowed.
"""

import asyncio
import contextlib
import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from enclave.egress import apart, caller
from enclave.egress.address import Address, Internet, Local, Unspecified
from enclave.egress.notification import Call, Gone, Listener

_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose connect it is, and where to learn whether it still waits."""

    call: Call
    listener: Listener

    def file(self, path: bytes) -> int:
        """The socket file that a path means to the caller. Raises OSError and Gone."""
        fd = caller.socket_file(self.call, path)
        if not self.listener.waits(self.call):
            # The number of its thread may have been another's by then, and the file anybody's.
            os.close(fd)
            raise Gone
        return fd


async def connect(who: Caller, theirs: socket.socket, address: Address) -> None:
    """Connect a copy of the caller's socket to a place within the sandbox.

    Raises OSError, as the kernel would, and Gone.
    """
    with not_blocking(theirs) as blocked:
        if isinstance(address, Local) and theirs.family == socket.AF_UNIX:
            await _connect_local(who, theirs, address)
        elif isinstance(address, Internet) and theirs.family == address.family:
            await _connect_internet(theirs, address, wait=blocked)
        elif isinstance(address, Unspecified) and theirs.family in _INTERNET:
            _disconnect(theirs)
        else:
            raise OSError(errno.EAFNOSUPPORT, "connect")


@contextlib.contextmanager
def not_blocking(sock: socket.socket) -> Iterator[bool]:
    """Keep calls on the caller's socket from waiting for a while; tells whether they did."""
    blocked = os.get_blocking(sock.fileno())
    os.set_blocking(sock.fileno(), False)
    try:
        yield blocked
    finally:
        os.set_blocking(sock.fileno(), blocked)


async def _connect_local(who: Caller, theirs: socket.socket, address: Local) -> None:
    if address.path.startswith(b"\0"):
        _check(await apart.connect(theirs, address.path))
        return
    file = who.file(address.path)
    try:
        # Made with our rights, not the caller's: only to what is the caller's own.
        if os.fstat(file).st_uid != os.fstat(theirs.fileno()).st_uid:
            raise OSError(errno.EACCES, "connect")
        _check(await apart.connect(theirs, f"/proc/self/fd/{file}"))
    finally:
        os.close(file)


async def _connect_internet(theirs: socket.socket, address: Internet, *, wait: bool) -> None:
    error = await apart.connect(theirs, address.for_connect())
    if error == errno.EINPROGRESS and wait:
        await writable_end(theirs)
        error = theirs.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    _check(error)


def _check(error: int) -> None:
    if error:
        raise OSError(error, os.strerror(error))


async def writable_end(sock: socket.socket) -> None:
    """Return when a connect that is under way is over."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    watched = os.dup(sock.fileno())
    loop.add_writer(watched, lambda: None if over.done() else over.set_result(None))
    try:
        await over
    finally:
        loop.remove_writer(watched)
        os.close(watched)


def _disconnect(theirs: socket.socket) -> None:
    nothing = bytes(16)
    if _libc.connect(theirs.fileno(), nothing, len(nothing)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
