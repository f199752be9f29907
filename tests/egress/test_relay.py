"""Bytes between two sockets: whole, in order, counted, and never held in bulk."""

import asyncio
import contextlib
import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from enclave.egress.relay import Moved, relay

pytestmark = pytest.mark.anyio

MUCH = 8 << 20
CHUNK = 1 << 16


@dataclass
class Between:
    """Two ends, and what goes from one to the other: `client` is the inside's, `server` the outside's."""

    client: socket.socket
    server: socket.socket
    work: "asyncio.Task[None]"
    moved: Moved = field(default_factory=Moved)


def pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other = listener.accept()[0]
    one.setblocking(False)
    other.setblocking(False)
    return one, other


@contextlib.asynccontextmanager
async def between() -> AsyncIterator[Between]:
    (client, inside), (outside, server) = pair(), pair()
    with client, inside, outside, server:
        moved = Moved()
        made = Between(client, server, asyncio.ensure_future(relay(inside, outside, moved)), moved)
        try:
            async with asyncio.timeout(30):
                yield made
        finally:
            made.work.cancel()
            await asyncio.gather(made.work, return_exceptions=True)


async def say(sock: socket.socket, size: int) -> str:
    """Send that much of no pattern, and end; its digest."""
    loop, digest = asyncio.get_running_loop(), hashlib.sha256()
    for _ in range(0, size, CHUNK):
        part = os.urandom(CHUNK)
        digest.update(part)
        await loop.sock_sendall(sock, part)
    sock.shutdown(socket.SHUT_WR)
    return digest.hexdigest()


async def hear(sock: socket.socket) -> str:
    loop, digest = asyncio.get_running_loop(), hashlib.sha256()
    while data := await loop.sock_recv(sock, CHUNK):
        digest.update(data)
    return digest.hexdigest()


async def test_bytes_arrive_whole_both_ways_and_are_counted() -> None:
    async with between() as at:
        sent, received, answered, returned = await asyncio.gather(
            say(at.client, MUCH), hear(at.server), say(at.server, MUCH // 2), hear(at.client)
        )
        await at.work

    assert (received, returned) == (sent, answered)
    assert at.moved == Moved(MUCH, MUCH // 2)


@pytest.mark.parametrize("first", ["client", "server"])
async def test_one_side_may_end_and_go_on_listening(first: str) -> None:
    async with between() as at:
        ends, goes_on = (at.client, at.server) if first == "client" else (at.server, at.client)
        ends.shutdown(socket.SHUT_WR)
        assert await asyncio.get_running_loop().sock_recv(goes_on, 1) == b""

        sent, received = await asyncio.gather(say(goes_on, MUCH), hear(ends))
        await at.work

    assert received == sent


async def test_a_break_on_one_side_ends_both() -> None:
    async with between() as at:
        at.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        at.server.close()
        await at.work

    assert at.moved == Moved()


async def test_what_is_not_read_is_not_taken() -> None:
    """Of an end that reads nothing, the sender is stopped when sockets and pipe are full, whatever more it has."""
    async with between() as at:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(at.client, bytes(64 << 20)), 0.5)

        assert not at.work.done()
        assert at.moved.sent < 16 << 20


async def test_a_relay_that_is_broken_off_keeps_nothing_open() -> None:
    before = set(os.listdir("/proc/self/fd"))
    async with between() as at:
        await asyncio.get_running_loop().sock_sendall(at.client, b"ping")
        assert await asyncio.get_running_loop().sock_recv(at.server, 4) == b"ping"

    assert set(os.listdir("/proc/self/fd")) <= before
