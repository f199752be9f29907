"""A session's stream as server-sent events."""

import asyncio
from typing import Final

from starlette.types import Receive, Scope, Send

from enclave.contracts.frames import StreamFrame
from enclave.contracts.operations import STREAM_SESSION
from enclave.orchestrator.stream import Follower

PING_SECONDS: Final = 15.0
"""How long a stream may be silent before a comment shows that it is alive."""

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """An answer that goes on until the stream has ended or the client has gone.

    The client sets the pace: no frame is made before the one ahead of it is written.
    """

    def __init__(self, follower: Follower, ping_seconds: float = PING_SECONDS) -> None:
        self._follower = follower
        self._ping_seconds = ping_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; returns when the stream is over."""
        await send({"type": "http.response.start", "status": STREAM_SESSION.status, "headers": list(_HEADERS)})
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await self._tell(gone, send)
        finally:
            gone.cancel()

    async def _tell(self, gone: asyncio.Future[None], send: Send) -> None:
        while not gone.done() and not self._follower.over:
            if taken := await self._follower.take():
                await _write(send, b"".join([encode(place, frame) for place, frame in taken]))
            else:
                await self._wait(gone, send)
        await _write(send, b"", more=False)

    async def _wait(self, gone: asyncio.Future[None], send: Send) -> None:
        happened, _ = await asyncio.wait(
            (self._follower.changed(), gone), timeout=self._ping_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if not happened:
            await _write(send, b": ping\n\n")


def encode(place: str, frame: StreamFrame) -> bytes:
    """A frame as an event. ASCII only: some clients take a hostile U+2028 for the end of a line."""
    data = frame.__pydantic_serializer__.to_json(frame, ensure_ascii=True)
    return b"id: %b\nevent: message\ndata: %b\n\n" % (place.encode(), data)


async def _write(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
