"""A call keeps pieces of a body, never the body, whichever side sends without end and whichever takes nothing.

The two ends are threads with blocking sockets that send one and the same block: nothing of theirs is counted.
"""

import asyncio
import contextlib
import dataclasses
import socket
import threading
import tracemalloc
from collections.abc import Callable

import pytest

from enclave.egress.service.binding import READ_LIMIT, Binding, Call
from tests.egress.rig import GRANT, HOST, QUICK, served_by, trusting

pytestmark = pytest.mark.anyio

BOUND = 256 * 1024
MUCH = 32 * 1024 * 1024
BLOCK = b"x" * 65536
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"

End = Callable[[socket.socket], None]


def sending(head: bytes) -> End:
    def act(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in range(MUCH // len(BLOCK)):
            connection.sendall(BLOCK)

    return act


def upstream_sending(connection: socket.socket) -> None:
    connection.recv(65536)
    sending(HEAD)(connection)
    connection.unwrap()  # type: ignore[attr-defined]


def taking_nothing_after(head: bytes) -> End:
    def act(connection: socket.socket) -> None:
        connection.sendall(head)
        stopped.wait()

    return act


def taking_all_after(head: bytes) -> End:
    def act(connection: socket.socket) -> None:
        connection.sendall(head)
        taken = bytearray(65536)
        while connection.recv_into(taken):
            pass

    return act


stopped = threading.Event()
GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % MUCH


def begun(act: End, connect: Callable[[], socket.socket]) -> threading.Thread:
    def run() -> None:
        with contextlib.suppress(OSError), connect() as connection:
            act(connection)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("client", "upstream", "moved"),
    [
        (taking_all_after(GET), upstream_sending, "received"),
        (taking_nothing_after(GET), upstream_sending, None),
        (sending(POST), taking_all_after(b""), None),
        (sending(POST), taking_nothing_after(b""), None),
    ],
    ids=["an answer that is taken", "an answer that is not", "a request that is taken", "a request that is not"],
)
async def test_a_call_is_bounded(client: End, upstream: End, moved: str | None) -> None:
    stopped.clear()
    calls: list[Call] = []
    over = asyncio.Event()
    binding = Binding(
        dataclasses.replace(GRANT, url=f"https://{HOST}"),
        context=trusting(),
        limits=dataclasses.replace(QUICK, idle_seconds=0.3, answer_seconds=0.3),
    )
    listener = socket.create_server(("127.0.0.1", 0))

    async def connect(_host: str, _port: int) -> socket.socket:
        connection = socket.socket()
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, listener.getsockname())
        return connection

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tracemalloc.start()
        try:
            await binding.serve(reader, writer, connect, calls.append)
        finally:
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            over.set()

    peaks: list[int] = []
    async with await asyncio.start_server(served, "127.0.0.1", 0, limit=READ_LIMIT) as server:
        there = begun(upstream, lambda: served_by().wrap_socket(listener.accept()[0], server_side=True))
        here = begun(client, lambda: socket.create_connection(server.sockets[0].getsockname()))
        try:
            async with asyncio.timeout(20):
                await over.wait()
        finally:
            stopped.set()
    binding.close()
    await asyncio.to_thread(here.join)
    await asyncio.to_thread(there.join)
    listener.close()

    assert peaks[0] < BOUND
    assert len(calls) == 1
    if moved is not None:
        assert getattr(calls[0], moved) == MUCH
