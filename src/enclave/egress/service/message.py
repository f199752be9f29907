"""Reading HTTP/1.1 from a peer that nobody trusts: strict heads, bounded pieces, an end to every wait.

h11 parses; what it forgives is refused here first, because two parsers that forgive differently is how requests are
smuggled (RFC 9112, 2.2, 5.2, 6.1 and 11.2).
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Final, Protocol

import h11

from enclave.egress.service.outcome import Rejection

HEAD_BYTES: Final = 64 * 1024
"""The most a request line or status line with its headers may take; and trailers, which are read and dropped."""

HEADER_LINES: Final = 100
"""The most headers of a message: as many as Apache takes (LimitRequestFields). Each costs time that others wait for."""

EVENTS: Final = 128
"""The most chunks taken before others have their turn; a chunk may be a single byte."""

PIECE_BYTES: Final = 16 * 1024
"""The most that is read at once: one TLS record (RFC 8446, 5.1)."""

_HEAD: Final = re.compile(rb"(?:[\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*\r\n)+\r\n")
"""Lines that end in CRLF, hold no other control character than a tab, and do not begin with a blank (obs-fold)."""


class Source(Protocol):
    """What bytes come from: an asyncio.StreamReader, or a Channel."""

    async def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, nothing at the end; raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is read from, and the statuses that tell of its faults."""

    name: str
    malformed: int
    late: int


CALLER: Final = Peer("the request", malformed=400, late=408)
UPSTREAM: Final = Peer("the upstream's answer", malformed=502, late=504)


class Inbox:
    """The messages that arrive on one connection, one after another.

    Each is parsed by an h11 connection of its own, so that no state of one reaches the next.
    """

    def __init__(self, source: Source, peer: Peer) -> None:
        self._source = source
        self._peer = peer
        self._pending = bytearray()

    @property
    def empty(self) -> bool:
        """Whether nothing was read beyond the last message."""
        return not self._pending

    async def head(self, parser: h11.Connection) -> h11.Event | None:
        """The next request or response head; None if the peer closed before it. Waits without end; raises Rejection."""
        head = await self._raw_head()
        if head is None:
            return None
        self._check(head)
        parser.receive_data(head)
        event = self._parsed(parser)
        if not isinstance(event, h11.Request | h11.Response | h11.InformationalResponse):
            raise self.fault("is not HTTP/1.1")
        if event.http_version not in (b"1.0", b"1.1"):
            raise self.fault("is of another version than HTTP/1.0 or 1.1")
        return event

    async def piece(self, parser: h11.Connection, seconds: float) -> bytes:
        """The next piece of the body, nothing at its end; raises Rejection, for silence of `seconds` too."""
        if parser.their_state is not h11.SEND_BODY:
            return b""
        await asyncio.sleep(0)  # one fast connection must not keep the others waiting
        if self._pending:
            parser.receive_data(bytes(self._pending))
            self._pending.clear()
        while True:
            piece, over = self._drained(parser)
            if over:
                self._pending += parser.trailing_data[0]
            if piece or over:
                return piece
            parser.receive_data(await self._arriving(seconds))

    def fault(self, what: str) -> Rejection:
        """What to raise when the peer's message is not as it must be."""
        return Rejection(self._peer.malformed, f"{self._peer.name} {what}")

    def late(self, seconds: float) -> Rejection:
        """What to raise when nothing comes."""
        return Rejection(self._peer.late, f"{self._peer.name} did not come within {seconds:g} s")

    async def _arriving(self, seconds: float) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                return await self._source.read(PIECE_BYTES)
        except TimeoutError:
            raise self.late(seconds) from None
        except OSError:
            raise self.fault("was cut off") from None

    async def _read_if_open(self) -> bytes:
        try:
            return await self._source.read(PIECE_BYTES)
        except OSError:
            return b""

    async def _raw_head(self) -> bytes | None:
        seen = 0
        while (end := self._pending.find(b"\r\n\r\n", seen)) < 0 and len(self._pending) <= HEAD_BYTES:
            seen = max(0, len(self._pending) - 3)
            piece = await self._read_if_open()
            if not piece and not self._pending:
                return None
            if not piece:
                raise self.fault("was cut off")
            self._pending += piece
        if end < 0 or end + 4 > HEAD_BYTES:
            raise self.fault(f"has a head of more than {HEAD_BYTES >> 10} KiB")
        head = bytes(self._pending[: end + 4])
        del self._pending[: end + 4]
        return head

    def _check(self, head: bytes) -> None:
        if not _HEAD.fullmatch(head):
            raise self.fault("has a line in its head that is folded, or not ended by CRLF, or not text")
        first, *lines = head[:-4].split(b"\r\n")
        if len(lines) > HEADER_LINES:
            raise self.fault(f"has more than {HEADER_LINES} headers")
        names = [line.partition(b":")[0].lower() for line in lines]
        lengths, encodings = names.count(b"content-length"), names.count(b"transfer-encoding")
        if lengths + encodings > 1:
            raise self.fault("has more than one of Content-Length and Transfer-Encoding")
        if encodings and b"HTTP/1.0" in first:
            raise self.fault("has a Transfer-Encoding in HTTP/1.0")
        if any(b"," in line for line, name in zip(lines, names, strict=True) if name == b"content-length"):
            raise self.fault("has a list as Content-Length")

    def _parsed(self, parser: h11.Connection) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return parser.next_event()
        except h11.RemoteProtocolError:
            # Its text quotes the message, which may quote the secret.
            raise self.fault("is not valid HTTP/1.1") from None

    def _drained(self, parser: h11.Connection) -> tuple[bytes, bool]:
        """What has arrived of the body, and whether that is its end."""
        pieces: list[bytes] = []
        while len(pieces) < EVENTS:
            event = self._parsed(parser)
            if not isinstance(event, h11.Data):
                return b"".join(pieces), event is not h11.NEED_DATA
            pieces.append(bytes(event.data))
        return b"".join(pieces), False
