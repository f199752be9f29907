"""Serving a binding: the sandbox's plain HTTP/1.1 in, the upstream's HTTPS out, the secret added on the way.

    sandbox ──HTTP──▶ Inbox ──▶ Route.check, .target, .headers ──▶ Channel ──TLS──▶ upstream
    sandbox ◀─HTTP── Scrub.stream ◀── Route.returned ◀── Inbox ◀── Channel ◀──TLS── upstream

Bodies stream, and each side is read only as fast as the other takes: a call keeps a few pieces of 16 KiB, never a body.
"""

import asyncio
import ssl
from typing import Any, Final

import h11

from enclave.core.binding import Grant
from enclave.egress.exchange import Exchange, Line
from enclave.egress.message import CALLER, PIECE_BYTES, Inbox
from enclave.egress.outcome import Call, Rejection, Report, refusal
from enclave.egress.rewrite import route
from enclave.egress.scrub import Unusable
from enclave.egress.upstream import Connect, Limits, Origin, Pool, Refused, trust

__all__ = ["READ_LIMIT", "Binding", "Call", "Connect", "Limits", "Refused", "Unusable", "forget", "serve", "trust"]

READ_LIMIT: Final = 16 * 1024
"""The `limit` to make a sandbox's StreamReader with. It keeps up to twice that and a piece; with it a call stays below
256 KiB, with asyncio's default of 64 KiB it does not."""

LINGER_SECONDS: Final = 1.0
"""How long what a sandbox still sends is read and dropped after a last answer. A socket closed with unread data resets
the connection, which would take the answer away (RFC 9112, 9.6)."""


class Binding:
    """One grant in use, with its connections; raises Unusable if the grant cannot be used, saying why.

    `context` is what certificates are verified by, `trust()` if not given; `trust(file)` adds those of a private CA.
    """

    def __init__(self, grant: Grant, *, context: ssl.SSLContext | None = None, limits: Limits | None = None) -> None:
        self._route = route(grant)
        self._limits = limits or Limits()
        tls = (context or trust()) if self._route.tls else None
        self._pool = Pool(Origin(self._route.host, self._route.port, tls), self._limits)

    async def serve(
        self, client: asyncio.StreamReader, writer: asyncio.StreamWriter, connect: Connect, report: Report
    ) -> None:
        """Answer the calls of one connection, one after another, until either side ends it; close it.

        `report` is told of every call. Never raises for what either side sends.
        """
        _read_in_pieces(writer)
        line = Line(self._route, self._pool, self._limits, connect, Inbox(client, CALLER), writer)
        try:
            while await Exchange(line).run(report):
                pass
            await _leave(client, writer, self._limits.idle_seconds)
        finally:
            writer.close()

    def close(self) -> None:
        """Close the connections that wait for another call; calls under way end by themselves."""
        self._pool.close()


_bindings: Final[dict[int, Binding]] = {}


async def serve(
    client: asyncio.StreamReader, writer: asyncio.StreamWriter, grant: Grant, connect: Connect, report: Report
) -> None:
    """`Binding.serve` for a grant, whose connections are kept until `forget(grant)`.

    They belong to the grant as an object: two sessions share none, however equal their grants are. A grant that cannot
    be used is answered with 502 and why.
    """
    try:
        binding = _bindings.get(id(grant)) or _bindings.setdefault(id(grant), Binding(grant))
    except Unusable as unusable:
        report(Call(grant.name, "", "", 502, 0, 0, 0.0, str(unusable)))
        rejection = Rejection(502, f"the binding {grant.name} cannot be used: {unusable}")
        writer.write(refusal(h11.Connection(h11.SERVER), rejection))
        await _leave(client, writer, Limits().idle_seconds)
        return writer.close()
    await binding.serve(client, writer, connect, report)


def forget(grant: Grant) -> None:
    """Let go of what is kept for a grant, its secret too; to be called when its session is over."""
    if binding := _bindings.pop(id(grant), None):
        binding.close()


def _read_in_pieces(writer: asyncio.StreamWriter) -> None:
    """Make asyncio take no more at once than a piece; its own default is 256 KiB, for each connection of a sandbox."""
    transport: Any = writer.transport
    transport.max_size = PIECE_BYTES


async def _leave(client: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """See to it that all that was said arrives."""
    writer.transport.set_write_buffer_limits(0)
    try:
        async with asyncio.timeout(seconds):
            await writer.drain()
        writer.write_eof()
        async with asyncio.timeout(LINGER_SECONDS):
            while await client.read(PIECE_BYTES):
                pass
    except OSError:  # TimeoutError is one
        writer.transport.abort()
