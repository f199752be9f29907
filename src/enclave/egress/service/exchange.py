"""One request of a sandbox, and its answer: checked, changed on the way out, scrubbed on the way back."""

import asyncio
import contextlib
import socket
import struct
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import h11

from enclave.egress.service.message import HEAD_BYTES, Inbox
from enclave.egress.service.outcome import Call, Departed, Rejection, Report, phrase, refusal
from enclave.egress.service.rewrite import Headers, Route
from enclave.egress.service.upstream import Channel, Connect, Limits, Pool

_REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})  # RFC 9110, 9.2.2
_FRAMING: Final = (b"content-length", b"transfer-encoding")


@dataclass(frozen=True, slots=True)
class Line:
    """What a connection's exchanges share: the way to the upstream, and the way back to the sandbox."""

    route: Route
    pool: Pool
    limits: Limits
    connect: Connect
    inbox: Inbox
    writer: asyncio.StreamWriter

    async def write(self, data: bytes) -> None:
        """Send to the sandbox, waiting while it takes nothing; raises Departed."""
        try:
            self.writer.write(data)
            async with asyncio.timeout(self.limits.idle_seconds):
                await self.writer.drain()
        except OSError:  # TimeoutError is one
            raise Departed from None

    def cut(self) -> None:
        """Reset the connection to the sandbox: ended in the usual way, what was said could look complete."""
        with contextlib.suppress(OSError):
            to_reset = struct.pack("ii", 1, 0)  # socket(7), SO_LINGER
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, to_reset)
        self.writer.transport.abort()


class Stale(Exception):
    """A kept connection was closed by the upstream before it took a request that may be repeated."""


class Exchange:
    """A request and its answer; `run` is all there is to it."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._caller = h11.Connection(h11.SERVER, HEAD_BYTES)
        self._method = self._path = ""
        self._status: int | None = None
        self._sent = self._received = 0

    async def run(self, report: Report) -> bool:
        """Serve one request, report it, and say whether another may follow."""
        request = await self._request()
        if request is None:
            return False
        began = time.monotonic()
        error = await self._outcome(request)
        report(self._call(time.monotonic() - began, error))
        return self._caller.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}

    def _call(self, seconds: float, error: str | None) -> Call:
        route = self._line.route
        method, path = (route.scrub.whole(text.encode()).decode() for text in (self._method, self._path))
        return Call(route.grant.name, method, path, self._status, self._sent, self._received, seconds, error)

    async def _request(self) -> h11.Request | Rejection | None:
        seconds = self._line.limits.request_seconds
        try:
            async with asyncio.timeout(seconds):
                head = await self._line.inbox.head(self._caller)
        except TimeoutError:
            return None if self._line.inbox.empty else self._line.inbox.late(seconds)
        except Rejection as rejection:
            return rejection
        return head if isinstance(head, h11.Request) else None

    async def _outcome(self, request: h11.Request | Rejection) -> str | None:
        try:
            if isinstance(request, Rejection):
                raise request
            await self._serve(request)
        except Rejection as rejection:
            await self._reject(rejection)
            return rejection.why
        except Departed:
            self._line.cut()
            return "the sandbox ended the connection, or took nothing"
        return None

    async def _reject(self, rejection: Rejection) -> None:
        if self._caller.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return self._line.cut()
        self._status = rejection.status
        with contextlib.suppress(Departed):
            await self._line.write(refusal(self._caller, rejection, self._method))

    async def _serve(self, request: h11.Request) -> None:
        target = request.target.decode("ascii")
        self._method, self._path = request.method.decode("ascii"), target.partition("?")[0]
        framing = [(name, value) for name, value in request.headers if name in _FRAMING]
        if not framing:
            # There is no body: with that said, another request may follow even if this one is refused.
            await self._line.inbox.piece(self._caller, self._line.limits.idle_seconds)
        self._line.route.check(self._method, target)
        _check_expectations(request)
        headers = [*self._line.route.headers(request.headers.raw_items()), *framing]
        outgoing = h11.Request(method=request.method, target=self._line.route.target(target), headers=headers)
        try:
            await self._attempt(outgoing, fresh=False)
        except Stale:
            await self._attempt(outgoing, fresh=True)

    async def _attempt(self, outgoing: h11.Request, *, fresh: bool) -> None:
        async with self._line.pool.channel(self._line.connect, fresh=fresh) as channel:
            upstream = h11.Connection(h11.CLIENT, HEAD_BYTES)
            upload = asyncio.create_task(self._upload(outgoing, channel, upstream))
            try:
                answer = await self._answer(channel, upstream, upload)
                await self._download(answer, channel, upstream)
            except Rejection:
                _raise_if_failed(upload)
                raise
            finally:
                await _stopped(upload)
            done = upstream.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}
            channel.is_done = done and channel.inbox.empty

    async def _upload(self, outgoing: h11.Request, channel: Channel, upstream: h11.Connection) -> None:
        """Send the request. An upstream that takes no more of it may yet answer why."""
        try:
            await self._push(channel, upstream.send(outgoing))
            if self._caller.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                await self._line.write(self._caller.send(go_on))
            while piece := await self._line.inbox.piece(self._caller, self._line.limits.idle_seconds):
                await self._push(channel, upstream.send(h11.Data(data=piece)))
                self._sent += len(piece)
            await self._push(channel, upstream.send(h11.EndOfMessage()))
        except OSError:
            upstream.send_failed()
        except (Rejection, Departed):
            channel.shut()  # or the answer to half a request would be waited for
            raise

    async def _push(self, channel: Channel, data: bytes) -> None:
        seconds = self._line.limits.idle_seconds
        try:
            async with asyncio.timeout(seconds):
                await channel.send(data)
        except TimeoutError:
            raise Rejection(504, f"the upstream took nothing for {seconds:g} s") from None

    async def _answer(self, channel: Channel, upstream: h11.Connection, upload: asyncio.Task[None]) -> h11.Response:
        """The head of the answer, which may come before the request is through."""
        seconds = self._line.limits.answer_seconds
        head = asyncio.create_task(self._final_head(channel, upstream))
        try:
            await asyncio.wait([upload, head], return_when=asyncio.FIRST_COMPLETED)
            async with asyncio.timeout(seconds):
                return await head
        except TimeoutError:
            raise channel.inbox.late(seconds) from None
        finally:
            await _stopped(head)

    async def _final_head(self, channel: Channel, upstream: h11.Connection) -> h11.Response:
        # A 101 is not valid for h11: no other protocol was proposed.
        while not isinstance(head := await channel.inbox.head(upstream), h11.Response):
            if head is None and channel.was_kept and self._is_repeatable():
                raise Stale
            if not isinstance(head, h11.InformationalResponse):
                raise channel.inbox.fault("was cut off")
        if head.status_code > 599 or head.status_code == HTTPStatus.PARTIAL_CONTENT:
            # A part was not asked for; it could begin or end within the secret.
            raise channel.inbox.fault(f"has the status {head.status_code}")
        return head

    def _is_repeatable(self) -> bool:
        is_whole = self._caller.their_state in (h11.DONE, h11.MUST_CLOSE)
        return self._method in _REPEATABLE and is_whole and not self._sent

    async def _download(self, answer: h11.Response, channel: Channel, upstream: h11.Connection) -> None:
        head = h11.Response(
            status_code=answer.status_code,
            headers=[*self._line.route.returned(answer.headers.raw_items()), *self._described(answer, channel.inbox)],
            reason=phrase(answer.status_code),
        )
        self._status = answer.status_code
        stream = self._line.route.scrub.stream()
        await self._line.write(self._caller.send(head))
        while piece := await channel.inbox.piece(upstream, self._line.limits.idle_seconds):
            self._received += len(piece)
            await self._line.write(self._caller.send(h11.Data(data=stream.feed(piece))))
        rest = self._caller.send(h11.Data(data=stream.end())) + self._caller.send(h11.EndOfMessage())
        await self._line.write(rest)

    def _described(self, answer: h11.Response, inbox: Inbox) -> Headers:
        """The length of a body that does not come. One that does is in chunks: scrubbed, it may have another."""
        if self._method == "HEAD" or answer.status_code == HTTPStatus.NOT_MODIFIED:
            return [(name, value) for name, value in answer.headers if name == b"content-length"]
        codings = [value.lower() for name, value in answer.headers if name == b"content-encoding"]
        if any(coding != b"identity" for coding in codings) and answer.status_code != HTTPStatus.NO_CONTENT:
            # Identity was asked for. To decode it would be to trust a bomb, to pass it on to pass the secret on.
            raise inbox.fault("is compressed, though it was asked not to be")
        return []


def _check_expectations(request: h11.Request) -> None:
    for name, value in request.headers:
        if name == b"upgrade":
            raise Rejection(400, "the request would switch to another protocol")
        if name == b"expect" and value.lower() != b"100-continue":
            raise Rejection(417, "only 100-continue can be expected")


def _raise_if_failed(task: asyncio.Task[None]) -> None:
    """Raise what a task that is over raised: it is why the other one failed."""
    if task.done() and (failure := task.exception()):
        raise failure from None


async def _stopped(task: asyncio.Task[Any]) -> None:
    """End a task, whatever became of it."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()
