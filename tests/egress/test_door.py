"""Who is let in at a door: the socket that was brought to it, and it alone."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from enclave.egress.door import Door

pytestmark = pytest.mark.anyio


@dataclass
class Entrance:
    """A door, its port, and who came to it unasked."""

    door: Door
    port: int
    visits: "asyncio.Queue[tuple[socket.socket, str]]" = field(default_factory=asyncio.Queue)


@pytest.fixture
async def entrance() -> AsyncIterator[Entrance]:
    listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    visits: asyncio.Queue[tuple[socket.socket, str]] = asyncio.Queue()
    port = listening.getsockname()[1]
    made = Entrance(Door(listening, lambda sock, address: visits.put_nowait((sock, address))), port, visits)
    yield made
    made.door.close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_a_socket_that_is_brought_is_paired_with_ours(entrance: Entrance, family: int) -> None:
    with socket.socket(family) as theirs:
        theirs.setblocking(False)
        with await (await entrance.door.knock(theirs)) as ours:
            assert ours.getpeername()[1] == theirs.getsockname()[1]
            assert not ours.getblocking()
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert entrance.visits.empty()


async def test_each_of_many_is_paired_with_its_own(entrance: Entrance) -> None:
    brought = [socket.socket() for _ in range(50)]
    for theirs in brought:
        theirs.setblocking(False)

    knocked = await asyncio.gather(*(entrance.door.knock(theirs) for theirs in reversed(brought)))
    arrived = await asyncio.gather(*knocked)

    assert [ours.getpeername()[1] for ours in arrived] == [theirs.getsockname()[1] for theirs in reversed(brought)]
    for sock in [*brought, *arrived]:
        sock.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.77.0.1", "::1"])
async def test_whoever_comes_unasked_is_a_visitor(entrance: Entrance, address: str) -> None:
    with socket.create_connection((address, entrance.port)) as stranger:
        sock, at = await entrance.visits.get()
        with sock:
            assert at == address
            assert sock.getpeername()[1] == stranger.getsockname()[1]


async def test_a_port_that_was_used_once_is_a_visitors_again(entrance: Entrance) -> None:
    with socket.socket() as theirs:
        theirs.setblocking(False)
        ours = await (await entrance.door.knock(theirs))
        port = theirs.getsockname()[1]
        ours.close()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))
        again.connect(("127.0.0.2", entrance.port))
        sock, at = await entrance.visits.get()
        with sock:
            assert (sock.getpeername()[1], at) == (port, "127.0.0.2")


async def test_a_socket_that_is_connected_already_is_not_brought(entrance: Entrance) -> None:
    with socket.create_connection(("127.0.0.1", entrance.port)) as theirs:
        theirs.settimeout(5)
        with pytest.raises(OSError, match="already connected"):
            await entrance.door.knock(theirs)
        if entrance.visits.empty():
            assert await asyncio.to_thread(theirs.recv, 1) == b"", "nobody is left holding it"
        else:
            entrance.visits.get_nowait()[0].close()
