"""Connections that rules on names allow: carried by the broker once the first bytes have named one of those hosts."""

import asyncio
import contextlib
import socket
from collections.abc import Collection
from typing import Final

from enclave.core.egress import normalise_name
from enclave.egress import sniff
from enclave.egress.relay import Moved, readable, relay, writable

HELLO_SECONDS: Final = 10.0
"""How long a client may take to say whom its connection is for."""


class Refused(Exception):
    """The first bytes were for nobody that this connection may be for; `name` is what they named, if anything."""

    def __init__(self, why: str, name: str | None = None) -> None:
        super().__init__(why)
        self.name = name


async def carry(inside: socket.socket, outside: socket.socket, hello: bytes, moved: Moved) -> None:
    """Pass on what the client began with, then move bytes until both ends are done."""
    with contextlib.suppress(OSError):
        await _send(outside, hello)
        moved.sent += len(hello)
        await relay(inside, outside, moved)


async def hello(inside: socket.socket, names: Collection[str]) -> tuple[str, bytes]:
    """The host that the client names, one of `names`, and what it has said so far. Raises Refused and OSError."""
    data = b""
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            while (asked := sniff.named(data)) is None:
                data += await _receive(inside, sniff.MAX_HELLO - len(data))
    except sniff.Unreadable as error:
        raise Refused(str(error)) from None
    except TimeoutError:
        raise Refused(f"the connection did not name a host within {HELLO_SECONDS:g} seconds") from None
    return _checked(asked, names), data


def _checked(asked: str, names: Collection[str]) -> str:
    with contextlib.suppress(ValueError):
        if (name := normalise_name(asked)) in names:
            return name
    raise Refused("the connection is for another host than its address was looked up for", asked)


async def _receive(sock: socket.socket, most: int) -> bytes:
    if most <= 0:
        raise Refused("the first message is too long")
    while True:
        try:
            data = sock.recv(most)
        except BlockingIOError:
            await readable(sock)
            continue
        if not data:
            raise Refused("the connection ended before it named a host")
        return data


async def _send(sock: socket.socket, data: bytes) -> None:
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            await writable(sock)
