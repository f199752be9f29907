"""Connections to a binding's upstream: TLS over a socket that was checked, kept for the next call.

TLS runs over memory (ssl.MemoryBIO) and reads only when it is asked to: what an upstream sends without end waits in the
kernel, and an idle connection can be looked at before it is used again.
"""

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from enclave.egress.service.message import PIECE_BYTES, UPSTREAM, Inbox
from enclave.egress.service.outcome import Rejection

Connect = Callable[[str, int], Awaitable[socket.socket]]
"""Opens a TCP connection to a host and a port, having checked the addresses; raises OSError or Refused."""


class Refused(Exception):
    """A connection that may not be made. The text says why; the sandbox is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long anything is waited for, in seconds, and how much is kept.

    `request_seconds` is for a whole request head, the wait for it on a kept connection included. `answer_seconds` is
    from the end of the request to the end of the response head, `idle_seconds` the longest silence within a body.
    `calls` run at once, `kept` connections wait for the next call, each for `kept_seconds`: less than servers wait
    (uvicorn and Node close after 5), so that few are closed while they are picked up.
    """

    connect_seconds: float = 10.0
    request_seconds: float = 60.0
    answer_seconds: float = 30.0
    idle_seconds: float = 30.0
    calls: int = 32
    kept: int = 8
    kept_seconds: float = 4.0


@functools.cache
def trust(extra: str | None = None) -> ssl.SSLContext:
    """Verification against the system's store and, if named, the certificates of a PEM file; TLS 1.2 or newer."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    if extra is not None:
        context.load_verify_locations(extra)
    return context


class Channel:
    """One connection. One task may send while another reads."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self.inbox = Inbox(self, UPSTREAM)
        self.was_kept = False
        self.is_done = False

    async def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Negotiate TLS with the host; raises OSError (ssl.SSLError) if that fails or it is not who it should be."""
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._take_in()
            else:
                return await self._flush()

    async def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, nothing at the end. An end that TLS did not announce is an error: raises OSError."""
        if self._tls is None:
            return await self._loop.sock_recv(self._socket, size)
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                # Nothing that TLS wants to say here (an answer to a new key) cannot wait for the next send: flushing
                # now could cut into what another task sends.
                await self._take_in()

    async def send(self, data: bytes) -> None:
        """Send all of it; raises OSError."""
        if self._tls is None:
            return await self._loop.sock_sendall(self._socket, data)
        for at in range(0, len(data), PIECE_BYTES):
            self._tls.write(data[at : at + PIECE_BYTES])
            await self._flush()

    def quiet(self) -> bool:
        """Whether nothing has arrived that nobody asked for, not even the end."""
        try:
            arrived = self._socket.recv(PIECE_BYTES)
        except BlockingIOError:
            return self._tls is None or not self._readable()
        except OSError:
            return False
        if self._tls is None or not arrived:
            return False
        self._incoming.write(arrived)
        return not self._readable()

    def shut(self) -> None:
        """End it for a task that still reads from it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it; harmless if it is."""
        self._socket.close()

    def _readable(self) -> bool:
        """Whether there is more than TLS's own messages, such as a ticket."""
        assert self._tls is not None  # noqa: S101 - for the type checker
        try:
            self._tls.read(1)
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            return True
        return True

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._loop.sock_sendall(self._socket, self._outgoing.read())

    async def _take_in(self) -> None:
        arrived = await self._loop.sock_recv(self._socket, PIECE_BYTES)
        if arrived:
            self._incoming.write(arrived)
        else:
            self._incoming.write_eof()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an upstream is; `context` is None without TLS."""

    host: str
    port: int
    context: ssl.SSLContext | None


class Pool:
    """The connections to one upstream for one grant: a bounded number at once, some kept a while for the next call."""

    def __init__(self, origin: Origin, limits: Limits) -> None:
        self._origin = origin
        self._limits = limits
        self._kept: list[tuple[Channel, asyncio.TimerHandle]] = []
        self._turns = asyncio.Semaphore(limits.calls)
        self._closed = False

    @contextlib.asynccontextmanager
    async def channel(self, connect: Connect, *, fresh: bool = False) -> AsyncIterator[Channel]:
        """A connection for one call, kept afterwards if `is_done`; raises Rejection if there is none."""
        seconds = self._limits.connect_seconds
        try:
            async with asyncio.timeout(seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise Rejection(503, f"{self._limits.calls} calls of this binding are already under way") from None
        try:
            channel = (None if fresh else self._idle()) or await self._opened(connect)
            try:
                yield channel
            finally:
                self._put_back(channel)
        finally:
            self._turns.release()

    def close(self) -> None:
        """Close what is kept, and keep nothing more."""
        self._closed = True
        while self._kept:
            self._pop().close()

    def _idle(self) -> Channel | None:
        while self._kept:
            if (channel := self._pop()).quiet():
                return channel
            channel.close()
        return None

    def _pop(self) -> Channel:
        channel, expiry = self._kept.pop()
        expiry.cancel()
        return channel

    def _put_back(self, channel: Channel) -> None:
        if self._closed or not channel.is_done or len(self._kept) >= self._limits.kept:
            return channel.close()
        channel.was_kept, channel.is_done = True, False
        expiry = asyncio.get_running_loop().call_later(self._limits.kept_seconds, self._expire, channel)
        self._kept.append((channel, expiry))

    def _expire(self, channel: Channel) -> None:
        self._kept = [kept for kept in self._kept if kept[0] is not channel]
        channel.close()

    async def _opened(self, connect: Connect) -> Channel:
        origin, seconds = self._origin, self._limits.connect_seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._connected(connect)
        except Refused as refused:
            raise Rejection(403, f"{origin.host} may not be connected to: {refused}") from None
        except TimeoutError:
            raise Rejection(504, f"{origin.host}:{origin.port} did not answer within {seconds:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise Rejection(502, f"the certificate of {origin.host} is not trusted: {error.verify_message}") from None
        except ssl.SSLError as error:
            raise Rejection(502, f"no TLS with {origin.host}: {error.reason}") from None
        except OSError as error:
            raise Rejection(
                502, f"no connection to {origin.host}:{origin.port}: {error.strerror or type(error).__name__}"
            ) from None

    async def _connected(self, connect: Connect) -> Channel:
        channel = Channel(await connect(self._origin.host, self._origin.port))
        if self._origin.context is None:
            return channel
        try:
            await channel.secure(self._origin.context, self._origin.host)
        except BaseException:
            channel.close()
            raise
        return channel
