"""A session's stream: its audit events and its output, told as frames that can be resumed at any of them.

A place in the stream is `<n>.<out>.<err>`: `n` frames of the log, `out` characters of stdout and `err` of stderr have
been sent. The log's frames follow from its events alone, and output lies between those of the opening events and those
of the closing ones, beside what the program attempted, so that a place means the same while the session runs, when it
is over, and after a restart. The end frame has the place of the frame before it: it says that nothing follows now, and
a session torn down later has more to tell.
"""

import asyncio
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple

from enclave.contracts.audit import Attempted, AuditEvent, CloneCompleted, CloneStarted, SandboxStarted, SessionCreated
from enclave.contracts.errors import EnclaveError, FieldProblem, InvalidRequest
from enclave.contracts.frames import EndFrame, PhaseFrame, StderrFrame, StdoutFrame, StreamFrame
from enclave.contracts.sessions import Session
from enclave.core.session import UNSETTLED
from enclave.orchestrator.expansion import expand

Channel = Literal["stdout", "stderr"]

MAX_CHUNK: Final = 32 * 1024
"""The most characters of one output frame."""

_BEFORE_THE_END: Final = (SessionCreated, CloneStarted, CloneCompleted, SandboxStarted, Attempted)
"""The events that output may follow, or lie beside: behind any other there is none. It begins behind SandboxStarted."""

_GRAIN: Final = 1024
_ORDERED: Final = 4096
_PLACE = re.compile(r"([0-9]{1,9})\.([0-9]{1,12})\.([0-9]{1,12})\Z")


class Chunk(NamedTuple):
    """Some characters of one channel, and where in it they start."""

    channel: Channel
    start: int
    text: str
    ts: datetime

    @property
    def stop(self) -> int:
        """Where the channel goes on."""
        return self.start + len(self.text)


@dataclass(frozen=True, slots=True)
class Place:
    """How much of a stream has been sent."""

    frames: int = 0
    stdout: int = 0
    stderr: int = 0


def parse_place(text: str | None) -> Place:
    """The place a resuming follower stands at; raises InvalidRequest."""
    if text is None:
        return Place()
    if (match := _PLACE.match(text)) is None:
        raise bad_place()
    return Place(*map(int, match.groups()))


def bad_place() -> InvalidRequest:
    """The error for a place that is in no stream or not in this one."""
    message = "is not a place in this stream; send an id as it was received"
    return InvalidRequest(
        "the stream cannot be resumed there", errors=(FieldProblem(field="Last-Event-ID", message=message),)
    )


class Stream:
    """What is told of one session, to any number of followers, each at its own pace."""

    def __init__(self) -> None:
        self.frames: list[StreamFrame] = []
        self.chunks: list[Chunk] = []
        self.output_begins_at: int | None = None
        self.output_ends_at: int | None = None
        self.end: EndFrame | None = None
        self.error: EnclaveError | None = None
        self.shortened = False
        self._untold: list[tuple[AuditEvent, Session]] = []
        self._written: dict[Channel, int] = {"stdout": 0, "stderr": 0}
        self._changed: asyncio.Future[None] | None = None

    def write(self, channel: Channel, text: str, ts: datetime) -> None:
        """Add output, before the events that close the log."""
        start = self._written[channel]
        self._written[channel] = start + len(text)
        for offset in range(0, len(text), MAX_CHUNK):
            self._append(Chunk(channel, start + offset, text[offset : offset + MAX_CHUNK], ts))
        self._wake()

    def publish(self, events: Iterable[AuditEvent], session: Session) -> None:
        """Add events that are durable; `session` is what they led to."""
        self._untold += [(event, session) for event in events]
        self._wake()

    def catch_up(self) -> None:
        """Make frames of what was published: only when someone reads, which for most sessions nobody does."""
        for event, session in self._untold:
            if self.output_ends_at is None and not opens(event):
                self.output_ends_at = len(self.frames)
            self._tell(expand(event, session.result))
            if isinstance(event, SandboxStarted):
                self.output_begins_at = len(self.frames)
        self._untold.clear()

    def has(self, place: "Place") -> bool:
        """Whether a follower can have been at a place; output that a crash took was sent to some and is no more."""
        self.catch_up()
        output = max(place.stdout - self._written["stdout"], place.stderr - self._written["stderr"]) > 0
        begun = self.output_begins_at is not None and place.frames >= self.output_begins_at
        too_early = not begun and (place.stdout > 0 or place.stderr > 0)
        return place.frames <= len(self.frames) and not too_early and (self.shortened or not output)

    def conclude(self, session: Session) -> None:
        """Add what a session printed that is over."""
        if session.result is not None and session.finished_at is not None:
            self.write("stdout", session.result.stdout, session.finished_at)
            self.write("stderr", session.result.stderr, session.finished_at)
            self.shortened = session.result.error is not None

    def fail(self, error: EnclaveError) -> None:
        """Break off: the rest cannot be told."""
        self.error = error
        self._wake()

    def printed(self, channel: Channel) -> str:
        """All of one channel."""
        return "".join([chunk.text for chunk in self.chunks if chunk.channel == channel])

    def changed(self) -> asyncio.Future[None]:
        """Done as soon as there is more. It is shared: wait for it, never cancel it."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        return self._changed

    def _tell(self, frames: tuple[StreamFrame, ...]) -> None:
        self.frames.extend(frames)
        for frame in frames:
            if isinstance(frame, PhaseFrame) and frame.phase not in UNSETTLED:
                self.end = EndFrame(phase=frame.phase, ts=frame.ts)

    def _wake(self) -> None:
        if self._changed is not None:
            waiting, self._changed = self._changed, None
            if not waiting.done():
                waiting.set_result(None)

    def _append(self, chunk: Chunk) -> None:
        # A program that prints byte by byte must not cost an object per byte; followers count characters, not chunks.
        place = self._mergeable(chunk)
        if place is None:
            self.chunks.append(chunk)
        else:
            self.chunks[place] = self.chunks[place]._replace(text=self.chunks[place].text + chunk.text)

    def _mergeable(self, chunk: Chunk) -> int | None:
        reach = 1 if len(self.chunks) < _ORDERED else 2
        for place in range(len(self.chunks) - 1, max(-1, len(self.chunks) - 1 - reach), -1):
            if self.chunks[place].channel == chunk.channel:
                return place if len(self.chunks[place].text) + len(chunk.text) <= _GRAIN else None
        return None


def told(session: Session, events: Iterable[AuditEvent]) -> Stream:
    """The stream of a session that is over, from what was kept of it."""
    stream = Stream()
    stream.publish(events, session)
    stream.conclude(session)
    return stream


def opens(event: AuditEvent) -> bool:
    """Whether an event is of a session that is not over yet."""
    return isinstance(event, _BEFORE_THE_END)


class Follower:
    """One reader of a stream. Iterate over it, or `take` what there is and wait for `changed`."""

    def __init__(self, stream: Stream, place: Place) -> None:
        if not stream.has(place):
            raise bad_place()
        self._stream = stream
        self._frames = place.frames
        self._sent: dict[Channel, int] = {"stdout": place.stdout, "stderr": place.stderr}
        self._next_chunk = 0
        self.over = False

    def changed(self) -> asyncio.Future[None]:
        """Done as soon as there is more than `take` gave. It is shared: wait for it, never cancel it."""
        return self._stream.changed()

    def take(self, most: int = 16) -> tuple[tuple[str, StreamFrame], ...]:
        """What there is to send now, at most so many frames, each with the place behind it; raises what broke it."""
        if self._stream.error is not None:
            raise self._stream.error
        self._stream.catch_up()
        return tuple([(self._place(), frame) for _, frame in zip(range(most), self._available(), strict=False)])

    def __aiter__(self) -> "Follower":
        return self

    async def __anext__(self) -> tuple[str, StreamFrame]:
        while not (taken := self.take(1)):
            if self.over:
                raise StopAsyncIteration
            await asyncio.wait((self.changed(),))
        return taken[0]

    def _place(self) -> str:
        return f"{self._frames}.{self._sent['stdout']}.{self._sent['stderr']}"

    def _available(self) -> Iterator[StreamFrame]:
        stream = self._stream
        running_until = len(stream.frames) if stream.output_ends_at is None else stream.output_ends_at
        yield from self._log(running_until)
        if stream.output_begins_at is not None and stream.output_begins_at <= self._frames <= running_until:
            yield from self._output()
        yield from self._log(len(stream.frames))
        if stream.end is not None and not self.over:
            self.over = True
            yield stream.end

    def _log(self, stop: int) -> Iterator[StreamFrame]:
        while self._frames < stop:
            self._frames += 1
            yield self._stream.frames[self._frames - 1]

    def _output(self) -> Iterator[StreamFrame]:
        chunks = self._stream.chunks
        # The last two chunks may have grown since they were sent.
        self._next_chunk = max(0, self._next_chunk - 2)
        while self._next_chunk < len(chunks):
            chunk = chunks[self._next_chunk]
            self._next_chunk += 1
            if self._sent[chunk.channel] < chunk.stop:
                yield self._unsent(chunk)

    def _unsent(self, chunk: Chunk) -> StreamFrame:
        text = chunk.text[max(0, self._sent[chunk.channel] - chunk.start) :]
        self._sent[chunk.channel] = chunk.stop
        kind = StdoutFrame if chunk.channel == "stdout" else StderrFrame
        return kind(chunk=text, ts=chunk.ts)
