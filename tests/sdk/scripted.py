"""A server that plays recorded answers over real sockets: whole, slow, cut off, or garbage."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from enclave.contracts.wire import Wire


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """Pieces sent one by one; a callable is called in its turn. `drop` hangs up afterwards."""

    pieces: tuple[bytes | Callable[[], object], ...]
    drop: bool = False


@dataclass
class Scripted:
    """The server, and what it was asked."""

    base_url: str
    replies: list[Reply]
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0


def raw(status: int, body: bytes, *, kind: str = "application/json", headers: str = "") -> Reply:
    """An answer with exactly this body."""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return Reply((head.encode() + body,))


def ok(value: Wire, status: int = 200) -> Reply:
    """An answer that holds a value."""
    return raw(status, value.model_dump_json().encode())


def problem(status: int, code: str, detail: str, **more: Any) -> Reply:
    """A refusal."""
    body = {"type": f"urn:enclave:{code}", "title": code, "status": status, "detail": detail, "code": code} | more
    return raw(status, json.dumps(body).encode(), kind="application/problem+json")


def cut_off(reply: Reply, keep: int) -> Reply:
    """The same answer, with the connection lost near its end."""
    return Reply((b"".join(piece for piece in reply.pieces if isinstance(piece, bytes))[:keep],), drop=True)


def events(*frames: bytes | Callable[[], object], drop: bool = False) -> Reply:
    """A stream of events, each in a chunk of its own; with `drop`, cut off where they end."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = tuple(b"%x\r\n%s\r\n" % (len(one), one) if isinstance(one, bytes) else one for one in frames)
    return Reply((head, *chunks, *(() if drop else (b"0\r\n\r\n",))), drop=drop)


def event(frame: Wire, place: str) -> bytes:
    """A frame as it is sent."""
    return f"id: {place}\nevent: message\ndata: {frame.model_dump_json()}\n\n".encode()


@contextmanager
def scripted(*replies: Reply) -> Iterator[Scripted]:
    """A server that gives these answers in turn, whatever it is asked."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Scripted(f"http://127.0.0.1:{listener.getsockname()[1]}", list(replies))
    open_connections: list[socket.socket] = []
    thread = threading.Thread(target=_accept, args=(listener, server, open_connections))
    thread.start()
    try:
        yield server
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in open_connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        thread.join()


def _accept(listener: socket.socket, server: Scripted, open_connections: list[socket.socket]) -> None:
    threads = []
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            server.connections += 1
            open_connections.append(connection)
            threads.append(threading.Thread(target=_converse, args=(connection, server)))
            threads[-1].start()
    for thread in threads:
        thread.join()


def _converse(connection: socket.socket, server: Scripted) -> None:
    with connection, connection.makefile("rb") as reader, suppress(OSError):
        while (asked := _read(reader)) is not None:
            server.asked.append(asked)
            reply = server.replies.pop(0) if server.replies else raw(500, b"nothing left to say")
            for piece in reply.pieces:
                if isinstance(piece, bytes):
                    connection.sendall(piece)
                else:
                    piece()
            if reply.drop:
                return


def _read(reader: Any) -> Asked | None:
    line = reader.readline().decode().split()
    if not line:
        return None
    headers = {}
    while (text := reader.readline().decode().strip()) != "":
        name, _, value = text.partition(":")
        headers[name.lower()] = value.strip()
    return Asked(line[0], line[1], headers, reader.read(int(headers.get("content-length", 0))))
