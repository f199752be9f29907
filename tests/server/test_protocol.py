"""The raw protocol: heads without end, and what is not HTTP."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from enclave.serve import embedded
from enclave.server.protocol import MAX_HEAD_BYTES


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with embedded() as credential:
        at = urlsplit(credential.base_url)
        yield str(at.hostname), int(at.port or 0)


def exchange(address: tuple[str, int], pieces: Iterator[bytes]) -> tuple[int, bytes]:
    """Send until the server answers or closes; how much was sent, and all it said."""
    sent, said = 0, b""
    with closing(socket.create_connection(address, timeout=10)) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                sent += len(piece)
        except OSError:
            pass
        try:
            while part := connection.recv(65536):
                said += part
        except OSError:
            pass
    return sent, said


def header_without_end() -> Iterator[bytes]:
    yield b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: "
    for _ in range(400):
        yield b"a" * 65536


def headers_without_end() -> Iterator[bytes]:
    yield b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
    for number in range(100_000):
        yield b"X-%d: y\r\n" % number * 20


def trailers_without_end() -> Iterator[bytes]:
    yield b"POST /sessions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    for number in range(100_000):
        yield b"X-%d: y\r\n" % number * 20


@pytest.mark.parametrize("endless", [header_without_end, headers_without_end, trailers_without_end])
def test_a_head_without_end_is_cut_off(address: tuple[str, int], endless: "type[Iterator[bytes]]") -> None:
    sent, _ = exchange(address, endless())

    # What is on the way and in the kernel's buffers is more than what the server takes.
    assert sent < MAX_HEAD_BYTES + (16 << 20)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"NONSENSE\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /sessions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_not_http_is_answered_with_a_problem(address: tuple[str, int], nonsense: bytes) -> None:
    _, said = exchange(address, iter([nonsense]))

    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["code"] == "invalid_request"


def test_an_ordinary_request_is_answered(address: tuple[str, int]) -> None:
    _, said = exchange(address, iter([b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]))

    assert said.startswith(b"HTTP/1.1 200 ")
