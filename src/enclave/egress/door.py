"""The broker's end of connections that it carries itself: a listening socket in the sandbox's own network.

The caller's socket is connected to it, so a carried connection never leaves that network as a socket: whatever hostile
hands do with it afterwards, it leads nowhere else. Hostile hands may also connect to the door by themselves; only the
addresses of service bindings answer there.
"""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from enclave.egress import apart

_ACCEPTS_AT_ONCE: Final = 16
_PAIR_SECONDS: Final = 5.0
_REST_SECONDS: Final = 0.5

Peer = tuple[str, int]


class Door:
    """Pairs sockets of a sandbox with sockets of ours. It owns the listening socket.

    `visited` is given connections that were made to one of the `addresses` directly.
    """

    def __init__(self, sock: socket.socket, visited: Callable[[socket.socket, str], None]) -> None:
        self._sock = sock
        self._visited = visited
        self._expected: dict[Peer, asyncio.Future[socket.socket]] = {}
        self._port = sock.getsockname()[1]
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Let nobody in any more."""
        self._loop.remove_reader(self._sock)
        self._sock.close()

    async def knock(self, theirs: socket.socket) -> "asyncio.Future[socket.socket]":
        """Begin to connect the caller's socket; our end of it comes. Raises OSError."""
        here = "::ffff:127.0.0.1" if theirs.family == socket.AF_INET6 else "127.0.0.1"
        arrived = self._expect(_bound(theirs, here))
        try:
            # Hostile hands can make it block and deaf to the answer: never on the loop.
            error = await apart.connect(theirs, (here, self._port))
            if error not in (0, errno.EINPROGRESS):
                raise OSError(error, os.strerror(error))
        except BaseException:
            _forgo(arrived)
            raise
        return arrived

    def _expect(self, peer: Peer) -> "asyncio.Future[socket.socket]":
        arrived: asyncio.Future[socket.socket] = self._loop.create_future()
        self._expected[peer] = arrived
        expiry = self._loop.call_later(_PAIR_SECONDS, _expire, arrived)

        def over(_: object) -> None:
            expiry.cancel()
            self._expected.pop(peer, None)

        arrived.add_done_callback(over)
        return arrived

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                ours, peer = self._sock.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._rest()
                return
            ours.setblocking(False)
            self._place(ours, _plain(peer))

    def _rest(self) -> None:
        # Nobody can be let in for want of a descriptor, and to look again and again would keep others waiting.
        self._loop.remove_reader(self._sock)
        self._loop.call_later(_REST_SECONDS, self._go_on)

    def _go_on(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock, self._accept)

    def _place(self, ours: socket.socket, peer: Peer) -> None:
        arrived = self._expected.get(peer)
        if arrived is not None and not arrived.done():
            with contextlib.suppress(OSError):
                ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            arrived.set_result(ours)
        else:
            self._visited(ours, _plain(ours.getsockname())[0])


def _forgo(arrived: "asyncio.Future[socket.socket]") -> None:
    if not arrived.cancel() and not arrived.cancelled() and arrived.exception() is None:
        arrived.result().close()


def _expire(arrived: "asyncio.Future[socket.socket]") -> None:
    if not arrived.done():
        arrived.set_exception(TimeoutError("the sandbox's own connection did not arrive"))


def _bound(theirs: socket.socket, host: str) -> Peer:
    """Where the caller's socket will come from: known before it comes. Raises OSError."""
    if theirs.getsockname()[1] == 0:
        theirs.bind((host, 0))
    return "127.0.0.1", int(theirs.getsockname()[1])


def _plain(address: Any) -> Peer:
    return str(address[0]).removeprefix("::ffff:"), int(address[1])
