"""What a session printed, in its order, to be read from any place on.

Nothing is read here that would not be there after a crash. While the session runs that is what its journal has; what
was printed since is held until it is written, at once if somebody waits for it. A session that is over before anything
was written needs no journal: its result has it all, and is durable with its end.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

from enclave.contracts.errors import Unavailable
from enclave.contracts.sessions import Session
from enclave.orchestrator.ending import Printed
from enclave.store.base import Channel, Chunk, Journal

MAX_CHUNK: Final = 32 * 1024
"""The most characters of one chunk."""

FLUSH_SECONDS: Final = 0.1
"""How long what is printed waits to be written, unless somebody waits for it."""

_FLUSH_CHARS: Final = 64 * 1024
_RETRY_SECONDS: Final = 1.0
_GRAIN: Final = 1024
_ORDERED: Final = 4096
"""How many chunks there may be until small ones are made fewer, at the cost of the order of the two channels."""

_END: Final = sys.maxsize
_PART: Final = 64

_log = logging.getLogger(__name__)


class Transcript(Protocol):
    """What was printed. `totals` are the characters of each channel; `over` says that no more will come."""

    totals: dict[Channel, int]
    over: bool

    async def read(self, place: int) -> tuple[Sequence[Chunk], int]:
        """Some chunks from a place on, 0 or one that was answered, and the place behind them; none if there is no more
        now. Raises Unavailable."""
        ...


class Kept:
    """The transcript of a session that is over."""

    over = True

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = chunks
        self.totals = totals_of(chunks)

    async def read(self, place: int) -> tuple[Sequence[Chunk], int]:
        """Some chunks from a place on."""
        chunks = self._chunks[place : place + _PART]
        return chunks, place + len(chunks)


class Live:
    """The transcript of a session that runs. `wake` is called when there is more to be read."""

    def __init__(self, journal: Journal, wake: Callable[[], None]) -> None:
        self.totals: dict[Channel, int] = {"stdout": 0, "stderr": 0}
        self.over = False
        self._journal = journal
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._held: list[Chunk] = []
        self._weight = 0
        self._count = 0
        self._leaving: Sequence[Chunk] = ()
        self._written: asyncio.Future[int] | None = None
        self._stop = 0
        self._latest: tuple[int, Sequence[Chunk]] = (0, ())
        self._wanted = False
        self._failed = False
        self._ending = False
        self._timer: asyncio.TimerHandle | None = None
        self._ts: datetime | None = None
        self._all: Printed | None = None

    @property
    def held(self) -> int:
        """How many chunks are in memory."""
        return len(self._held) + len(self._leaving) + len(self._latest[1])

    def write(self, channel: Channel, text: str, ts: datetime) -> None:
        """Add what was printed."""
        start, self._ts = self.totals[channel], ts
        self.totals[channel] = start + len(text)
        self._weight += len(text)
        for chunk in cut(Chunk(channel, start, text, ts)):
            self._hold(chunk)
        self._plan()

    def want(self) -> None:
        """Somebody waits for more."""
        self._wanted = True
        self._plan()

    async def flush(self) -> None:
        """Return when what is held has been written, or cannot be."""
        self._failed = False
        self._flush()
        while self._written is not None and not self._failed:
            await asyncio.wait((self._written,))
            self._flush()

    async def finish(self) -> Printed:
        """All that was printed, now that nothing more comes."""
        self._ending = True
        if self._all is None:
            if self._stop or self._written is not None:
                await self.flush()
                self._all = await self._read_back()
            else:
                self._all = joined(self._held)
            self._cancel_timer()
        return self._all

    def keep_order(self) -> None:
        """Have the order of the two channels kept, if there are two: no result tells it. Nobody waits for it."""
        if all(self.totals.values()):
            self._flush()

    def release(self) -> None:
        """The session's end is durable, and all that it printed with it."""
        self.over = True
        self._wake = _nobody

    async def read(self, place: int) -> tuple[Sequence[Chunk], int]:
        """Some chunks from a place on."""
        if place == self._latest[0] and self._latest[1]:
            return self._latest[1], self._stop
        if place < self._stop:
            return await self._read_journal(place)
        held = (*self._leaving, *self._held) if self.over and place < _END else ()
        return held, _END if held else place

    async def _read_journal(self, place: int) -> tuple[Sequence[Chunk], int]:
        try:
            chunks, behind = await self._journal.read(place)
            if chunks:
                return chunks, behind
            raise Unavailable("the output of the session was damaged")
        except Unavailable:
            if self._all is None:
                raise
        # It was removed under a slow reader: the result has it, though not the order.
        return whole(self._all, self._ts) if self._ts else (), _END

    async def _read_back(self) -> Printed:
        chunks: list[Chunk] = []
        place = 0
        try:
            while place < self._stop:
                part, place = await self._journal.read(place)
                chunks += part
                if not part:
                    raise Unavailable("it was damaged")
        except Unavailable as error:
            _log.error("the output of a session is lost in part: %r", error, exc_info=error)
        return joined((*chunks, *self._leaving, *self._held))

    def _hold(self, chunk: Chunk) -> None:
        # A program that prints byte by byte must not cost a record per byte; followers count characters, not chunks.
        place = self._mergeable(chunk)
        if place is None:
            self._held.append(chunk)
            self._count += 1
        else:
            self._held[place] = self._held[place]._replace(text=self._held[place].text + chunk.text)

    def _mergeable(self, chunk: Chunk) -> int | None:
        reach = 1 if self._count < _ORDERED else 2
        for place in range(len(self._held) - 1, max(-1, len(self._held) - 1 - reach), -1):
            if self._held[place].channel == chunk.channel:
                return place if len(self._held[place].text) + len(chunk.text) <= _GRAIN else None
        return None

    def _plan(self) -> None:
        """See to it that what is held is written: now, or soon, or when it goes again."""
        if self._written is not None or not self._held:
            return
        now = self._weight >= _FLUSH_CHARS or (self._wanted and self._count < _ORDERED)
        if now and not self._failed:
            self._flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(_RETRY_SECONDS if self._failed else FLUSH_SECONDS, self._flush)

    def _flush(self) -> None:
        self._cancel_timer()
        if self._written is None and self._held:
            self._leaving, self._held, self._weight = self._held, [], 0
            self._written = asyncio.ensure_future(self._journal.append(self._leaving, sync=not self._ending))
            self._written.add_done_callback(self._land)

    def _land(self, written: asyncio.Future[int]) -> None:
        leaving, self._leaving, self._written = self._leaving, (), None
        error = Unavailable("it was given up") if written.cancelled() else written.exception()
        if error is not None and not self._failed:
            _log.error(
                "what a session prints cannot be written, and is held until it can be: %r", error, exc_info=error
            )
        self._failed = error is not None
        if self._failed:
            self._held = [*leaving, *self._held]
        else:
            small = sum(len(chunk.text) for chunk in leaving) <= _FLUSH_CHARS
            self._latest = (self._stop, leaving if small and self._wanted else ())
            self._stop = written.result()
        self._wanted = False
        self._wake()
        if self._all is None:
            self._plan()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def cut(chunk: Chunk) -> Iterable[Chunk]:
    """A chunk in pieces of bounded size."""
    channel, start, text, ts = chunk
    for offset in range(0, len(text), MAX_CHUNK):
        yield Chunk(channel, start + offset, text[offset : offset + MAX_CHUNK], ts)


def joined(chunks: Sequence[Chunk]) -> Printed:
    """All of each channel."""
    return Printed(_text(chunks, "stdout"), _text(chunks, "stderr"))


def _text(chunks: Sequence[Chunk], channel: Channel) -> str:
    return "".join([chunk.text for chunk in chunks if chunk.channel == channel])


def whole(printed: Printed, ts: datetime) -> Sequence[Chunk]:
    """All of each channel as chunks, one channel after the other: their order is not known."""
    channels: tuple[tuple[Channel, str], ...] = (("stdout", printed.stdout), ("stderr", printed.stderr))
    return [chunk for channel, text in channels for chunk in cut(Chunk(channel, 0, text, ts))]


def totals_of(chunks: Sequence[Chunk]) -> dict[Channel, int]:
    """How many characters of each channel there are up to the last chunk of it."""
    totals: dict[Channel, int] = {"stdout": 0, "stderr": 0}
    for chunk in chunks:
        totals[chunk.channel] = chunk.stop
    return totals


def kept(session: Session, journalled: Sequence[Chunk]) -> Kept:
    """The transcript of a session that is over: in the journal's order, if its result bears that out."""
    if session.result is None or session.finished_at is None:
        return Kept(())
    printed = Printed(session.result.stdout, session.result.stderr)
    known = journalled if _bears_out(printed, journalled) else ()
    sent = totals_of(known)
    rest = [unsent for chunk in whole(printed, session.finished_at) if (unsent := rest_of(chunk, sent)) is not None]
    return Kept([*known, *rest])


def rest_of(chunk: Chunk, sent: Mapping[Channel, int]) -> Chunk | None:
    """What of a chunk has not been sent; None if all has."""
    seen = sent[chunk.channel] - chunk.start
    if seen <= 0:
        return chunk
    return chunk._replace(start=chunk.start + seen, text=chunk.text[seen:]) if seen < len(chunk.text) else None


async def everything(journal: Journal) -> Sequence[Chunk]:
    """All that a journal has, in order, up to where it was damaged. Raises Unavailable."""
    chunks: list[Chunk] = []
    place = 0
    while (part := await journal.read(place))[0]:
        chunks += part[0]
        place = part[1]
    return chunks


def _bears_out(printed: Printed, journalled: Sequence[Chunk]) -> bool:
    found = joined(journalled)
    in_order = totals_of(journalled) == {"stdout": len(found.stdout), "stderr": len(found.stderr)}
    return in_order and printed.stdout.startswith(found.stdout) and printed.stderr.startswith(found.stderr)


def _nobody() -> None:
    pass
