"""Calls on sockets that a sandbox has too, made by threads of their own: none of them may keep the broker waiting.

Whether a call waits is a flag of the open file, which hostile hands can change in the middle of it, and the last to
close a socket with SO_LINGER waits (socket(7)), which they can make the broker be.
"""

import asyncio
import contextlib
import os
import socket
import struct
import threading
from typing import Any, Final


class Shared(socket.socket):
    """A socket that hostile hands hold as well. Closing it never waits."""

    def close(self) -> None:
        """Close it, a connection in a thread that may linger."""
        stream = self.type == socket.SOCK_STREAM and self.family != socket.AF_UNIX
        if (fd := self.detach()) < 0:
            return
        if not stream:
            os.close(fd)
            return
        if threading.active_count() > _MOST_THREADS:
            _abort_on_close(fd)
        threading.Thread(target=os.close, args=(fd,), daemon=True).start()


_MOST_THREADS: Final = 1000


def _abort_on_close(fd: int) -> None:
    # So many linger that somebody means it: from now on none does.
    with contextlib.suppress(OSError):
        copy = socket.socket(fileno=os.dup(fd))
        copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        copy.close()


async def connect(sock: socket.socket, address: object) -> int:
    """Connect: 0, or the number of the error, which is EINPROGRESS if the socket did not wait."""
    over: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    # A copy, for the other may be closed while the call still waits.
    copy = socket.socket(fileno=os.dup(sock.fileno()))
    threading.Thread(target=_connect, args=(copy, address, over), daemon=True).start()
    return await over


def _connect(copy: socket.socket, address: Any, over: "asyncio.Future[int]") -> None:
    with copy:
        error = copy.connect_ex(address)
    with contextlib.suppress(RuntimeError):  # the broker has ended
        over.get_loop().call_soon_threadsafe(_settle, over, error)


def _settle(over: "asyncio.Future[int]", error: int) -> None:
    if not over.done():
        over.set_result(error)
