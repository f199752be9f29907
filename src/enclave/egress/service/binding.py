"""Serving a binding: the sandbox's plain HTTP/1.1 in, the upstream's HTTPS out, the secret added on the way.

    sandbox ──HTTP──▶ Inbox ──▶ Route.check, .target, .headers ──▶ Channel ──TLS──▶ upstream
    sandbox ◀─HTTP── Scrub.stream ◀── Route.returned ◀── Inbox ◀── Channel ◀──TLS── upstream

Bodies stream, and each side is read only as fast as the other takes: a call keeps a few pieces of 16 KiB, never a body.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any, Final

import h11

from enclave.core.grant import Grant
from enclave.egress.service.exchange import Exchange, Line
from enclave.egress.service.message import CALLER, PIECE_BYTES, Inbox
from enclave.egress.service.outcome import Call, Rejection, Report, refusal
from enclave.egress.service.rewrite import route
from enclave.egress.service.scrub import Unusable
from enclave.egress.service.upstream import Connect, Limits, Origin, Pool, Refused, trust

__all__ = ["READ_LIMIT", "Binding", "Call", "Connect", "Limits", "Refused", "Services", "Unusable", "trust"]

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


class Services:
    """The bindings of one session, by the address in its own network at which each answers.

    They share no connection with another session's, however equal their grants are.
    """

    def __init__(self, places: Mapping[str, Grant], context: ssl.SSLContext, connect: Connect, report: Report) -> None:
        self._places = places
        self._context = context
        self._connect = connect
        self._report = report
        self._bindings: dict[str, Binding] = {}

    async def serve(self, address: str, client: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the calls of a connection that was made to an address; one of nobody's is closed.

        A grant that cannot be used is answered with 502 and why.
        """
        grant = self._places.get(address)
        if grant is None:
            writer.close()
            return
        try:
            binding = self._bindings.get(address) or Binding(grant, context=self._context)
        except Unusable as unusable:
            await self._refuse(grant, unusable, client, writer)
            return
        self._bindings[address] = binding
        await binding.serve(client, writer, self._connect, self._report)

    def close(self) -> None:
        """Let go of every connection that is kept."""
        for binding in self._bindings.values():
            binding.close()

    async def _refuse(
        self, grant: Grant, unusable: Unusable, client: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._report(Call(grant.name, "", "", 502, 0, 0, 0.0, str(unusable)))
        rejection = Rejection(502, f"the binding {grant.name} cannot be used: {unusable}")
        writer.write(refusal(h11.Connection(h11.SERVER), rejection))
        await _leave(client, writer, Limits().idle_seconds)
        writer.close()


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
