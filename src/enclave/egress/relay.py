"""Bytes from one socket to another and back, moved by the kernel (splice(2)), and counted."""

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_CHUNK: Final = 1 << 20
_PIPE_BYTES: Final = 1 << 18


@dataclass(slots=True)
class Moved:
    """How much went each way."""

    sent: int = 0
    received: int = 0


async def relay(inside: socket.socket, outside: socket.socket, moved: Moved) -> None:
    """Move bytes both ways until both are at their end or one breaks; `moved` counts as it goes. Closes neither."""

    def out(count: int) -> None:
        moved.sent += count

    def back(count: int) -> None:
        moved.received += count

    flows = [asyncio.ensure_future(_flow(inside, outside, out)), asyncio.ensure_future(_flow(outside, inside, back))]
    try:
        await asyncio.gather(*flows)
    except OSError:
        pass
    finally:
        for flow in flows:
            flow.cancel()
        await asyncio.gather(*flows, return_exceptions=True)


async def _flow(source: socket.socket, target: socket.socket, count: Callable[[int], None]) -> None:
    await readable(source)
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _widen(writer)
        while moved := await _fill(source, writer):
            await _empty(reader, target, moved)
            count(moved)
    finally:
        os.close(reader)
        os.close(writer)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _widen(pipe: int) -> None:
    # Beyond a user's allowance the kernel refuses, and the smaller pipe serves.
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


async def _fill(source: socket.socket, writer: int) -> int:
    while True:
        try:
            return os.splice(source.fileno(), writer, _CHUNK, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
        except BlockingIOError:
            await readable(source)


async def _empty(reader: int, target: socket.socket, left: int) -> None:
    while left:
        try:
            left -= os.splice(reader, target.fileno(), left, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
        except BlockingIOError:
            await writable(target)


async def readable(sock: socket.socket) -> None:
    """Return when there is something to read, or an end."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock.fileno(), _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock.fileno())


async def writable(sock: socket.socket) -> None:
    """Return when there is room to write, or an error."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(sock.fileno(), _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_writer(sock.fileno())


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
