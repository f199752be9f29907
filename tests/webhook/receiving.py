"""A receiver of webhooks: a real HTTPS server in threads of this process, which answers as the test says."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trustme

NAME: Final = "hooks.example.org"
OK: Final = b"HTTP/1.1 204 No Content\r\n\r\n"


@dataclass(frozen=True)
class Received:
    target: str
    headers: Mapping[str, str]
    body: bytes


Answering = Callable[[socket.socket, Received], None]


def says(answer: bytes) -> Answering:
    return lambda connection, _: connection.sendall(answer)


@dataclass
class Site:
    """A receiver on 127.0.0.1; `authorities` is a file of the certificates that it is trusted by."""

    port: int
    authorities: Path
    answer: Answering = field(default_factory=lambda: says(OK))
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def url(self, path: str = "/in") -> str:
        return f"https://{NAME}:{self.port}{path}"


@contextmanager
def receiving(place: Path, name: str = NAME, *, tls: bool = True) -> Iterator[Site]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        authorities = place / f"authority-of-{listener.getsockname()[1]}.pem"
        authority.cert_pem.write_to_path(authorities)
        site = Site(listener.getsockname()[1], authorities)
        threading.Thread(target=_accept, args=(listener, context if tls else None, site), daemon=True).start()
        yield site
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, context: ssl.SSLContext | None, site: Site) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        site.connections += 1
        threading.Thread(target=_serve, args=(connection, context, site), daemon=True).start()


def _serve(connection: socket.socket, context: ssl.SSLContext | None, site: Site) -> None:
    with suppress(OSError), connection:
        spoken = context.wrap_socket(connection, server_side=True) if context else connection
        with spoken:
            received = _read(spoken)
            site.received.append(received)
            site.arrived.release()
            site.answer(spoken, received)


def _read(connection: socket.socket) -> Received:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (piece := connection.recv(65536)):
            raise OSError
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return Received(first.split()[1], headers, body)


def until_closed(connection: socket.socket, _: Received) -> None:
    """Say nothing, for as long as the sender waits."""
    with suppress(OSError):
        connection.recv(1)
