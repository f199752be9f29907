"""A session's stream: its audit events and its output, told as frames that can be resumed at any of them.

A place in the stream is `<n>.<out>.<err>`: `n` frames of the log, `out` characters of stdout and `err` of stderr have
been sent. The log's frames follow from its events alone, and output lies between those of the opening events and those
of the closing ones, beside what the program attempted, so that a place means the same while the session runs, when it
is over, and after a restart. The end frame has the place of the frame before it: it says that nothing follows now, and
a session torn down later has more to tell.
"""

import asyncio
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from enclave.contracts.audit import Attempted, AuditEvent, CloneCompleted, CloneStarted, SandboxStarted, SessionCreated
from enclave.contracts.errors import EnclaveError, FieldProblem, InvalidRequest
from enclave.contracts.frames import EndFrame, PhaseFrame, StderrFrame, StdoutFrame, StreamFrame
from enclave.contracts.sessions import Session
from enclave.core.session import UNSETTLED
from enclave.orchestrator.expansion import expand
from enclave.orchestrator.transcript import Live, Transcript, kept, rest_of
from enclave.store.base import Channel, Chunk, Journal

_BEFORE_THE_END: Final = (SessionCreated, CloneStarted, CloneCompleted, SandboxStarted, Attempted)
"""The events that output may follow, or lie beside: behind any other there is none. It begins behind SandboxStarted."""

_PLACE = re.compile(r"([0-9]{1,9})\.([0-9]{1,12})\.([0-9]{1,12})\Z")


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

    def __init__(self, transcript: Transcript) -> None:
        self.transcript = transcript
        self.frames: list[StreamFrame] = []
        self.output_begins_at: int | None = None
        self.output_ends_at: int | None = None
        self.end: EndFrame | None = None
        self.error: EnclaveError | None = None
        self.shortened = False
        self._untold: list[tuple[AuditEvent, Session]] = []
        self._changed: asyncio.Future[None] | None = None

    def publish(self, events: Iterable[AuditEvent], session: Session) -> None:
        """Add events that are durable; `session` is what they led to."""
        self._untold += [(event, session) for event in events]
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None:
            waiting, self._changed = self._changed, None
            if not waiting.done():
                waiting.set_result(None)

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
        """Whether a follower can have been at a place; output that a power cut took was sent to some and is no more."""
        self.catch_up()
        totals = self.transcript.totals
        output = place.stdout > totals["stdout"] or place.stderr > totals["stderr"]
        begun = self.output_begins_at is not None and place.frames >= self.output_begins_at
        too_early = not begun and (place.stdout > 0 or place.stderr > 0)
        return place.frames <= len(self.frames) and not too_early and (self.shortened or not output)

    def fail(self, error: EnclaveError) -> None:
        """Break off: the rest cannot be told."""
        self.error = error
        self._wake()

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


class LiveStream(Stream):
    """The stream of a session that runs."""

    transcript: Live

    def __init__(self, journal: Journal) -> None:
        super().__init__(Live(journal, self._wake))

    def publish(self, events: Iterable[AuditEvent], session: Session) -> None:
        """Add events that are durable; with the last of them, all that was printed is."""
        if session.phase not in UNSETTLED:
            self.transcript.release()
        super().publish(events, session)

    def fail(self, error: EnclaveError) -> None:
        """Break off: the rest cannot be told."""
        self.transcript.release()
        super().fail(error)

    def changed(self) -> asyncio.Future[None]:
        """Done as soon as there is more. It is shared: wait for it, never cancel it."""
        self.transcript.want()
        return super().changed()


def told(session: Session, events: Iterable[AuditEvent], journalled: Sequence[Chunk] = ()) -> Stream:
    """The stream of a session that is over, from what was kept of it."""
    stream = Stream(kept(session, journalled))
    stream.publish(events, session)
    stream.shortened = session.result is not None and session.result.error is not None
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
        self._chunks: deque[Chunk] = deque()
        self._read_to = 0
        self._read_all = False
        self.over = False

    def changed(self) -> asyncio.Future[None]:
        """Done as soon as there is more than `take` gave. It is shared: wait for it, never cancel it."""
        return self._stream.changed()

    async def take(self, most: int = 16) -> tuple[tuple[str, StreamFrame], ...]:
        """What there is to send now, at most so many frames, each with the place behind it; raises what broke it."""
        taken: list[tuple[str, StreamFrame]] = []
        while True:
            if self._stream.error is not None:
                raise self._stream.error
            self._stream.catch_up()
            taken += [(self._place(), frame) for frame in islice(self._available(), most - len(taken))]
            if len(taken) == most or not await self._read():
                return tuple(taken)

    def __aiter__(self) -> "Follower":
        return self

    async def __anext__(self) -> tuple[str, StreamFrame]:
        while not (taken := await self.take(1)):
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
        if self._beside_output():
            yield from self._output()
            if not self._read_all:
                return
        yield from self._log(len(stream.frames))
        if stream.end is not None and not self.over:
            self.over = True
            yield stream.end

    def _beside_output(self) -> bool:
        """Whether output lies here: behind the frame it begins at, and before those that close the log."""
        begin, end = self._stream.output_begins_at, self._stream.output_ends_at
        return begin is not None and begin <= self._frames and (end is None or self._frames <= end)

    async def _read(self) -> bool:
        """Read on in the transcript; False if there is nothing to be read now."""
        if self._read_all or not self._beside_output():
            return False
        transcript = self._stream.transcript
        over = transcript.over
        chunks, self._read_to = await transcript.read(self._read_to)
        self._chunks.extend(chunks)
        self._read_all = over and not chunks
        return self._read_all or len(chunks) > 0

    def _log(self, stop: int) -> Iterator[StreamFrame]:
        while self._frames < stop:
            self._frames += 1
            yield self._stream.frames[self._frames - 1]

    def _output(self) -> Iterator[StreamFrame]:
        while self._chunks:
            chunk = rest_of(self._chunks.popleft(), self._sent)
            if chunk is not None:
                self._sent[chunk.channel] = chunk.stop
                kind = StdoutFrame if chunk.channel == "stdout" else StderrFrame
                yield kind(chunk=chunk.text, ts=chunk.ts)
