"""What makes a socket of this machine safe in hostile hands: its filter, its options, its port."""

import errno
import os
import secrets
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.egress.address import Internet
from enclave.egress.raw import peer_filter, twin_of

Address = IPv4Address | IPv6Address
NOWHERE = 1
"""A port at which nothing listens."""


def segment(source: Address, port: int) -> tuple[bytes, bytes]:
    """The IP header (RFC 791, RFC 8200) and the TCP header of a segment, with what is not looked at left to chance."""
    ip = bytearray(secrets.token_bytes(20 if source.version == 4 else 40))
    at = 12 if source.version == 4 else 8
    ip[at : at + len(source.packed)] = source.packed
    return bytes(ip), struct.pack("!H", port) + secrets.token_bytes(18)


def judge(target: Internet, source: Address, port: int) -> int:
    """How much of a segment the kernel would keep: an interpreter of the classic BPF that a socket filter uses."""
    network, transport = segment(source, port)
    program, accumulator, at = peer_filter(target), 0, 0
    while True:
        code, yes, no, value = program[at]
        at += 1
        if code in (0x20, 0x28):
            header, offset = (network, value - 0xFFF00000) if value >= 0xFFF00000 else (transport, value)
            size = 4 if code == 0x20 else 2
            if len(header) < offset + size:
                return 0  # a load beyond the end drops the packet (net/core/filter.c)
            accumulator = int.from_bytes(header[offset : offset + size], "big")
        elif code == 0x15:
            at += yes if accumulator == value else no
        else:
            assert code == 0x06
            return value


peers = st.ip_addresses(v=4) | st.ip_addresses(v=6, network="2000::/3")


@given(peers, st.integers(1, 0xFFFF))
def test_a_filter_keeps_whole_what_comes_from_the_peer(peer: Address, port: int) -> None:
    assert judge(Internet(peer.packed, port), peer, port) == 0xFFFFFFFF


@given(peers, st.integers(1, 0xFFFF), st.integers(0, 127), st.integers(1, 0xFFFF))
def test_a_filter_drops_what_differs_in_one_bit_of_the_address_or_in_the_port(
    peer: Address, port: int, bit: int, other: int
) -> None:
    target = Internet(peer.packed, port)
    flipped = ip_address((int(peer) ^ 1 << bit % peer.max_prefixlen).to_bytes(len(peer.packed), "big"))

    assert judge(target, flipped, port) == 0
    assert judge(target, peer, other) == (0xFFFFFFFF if other == port else 0)


@given(st.ip_addresses(v=4), st.integers(1, 0xFFFF))
def test_a_mapped_address_is_filtered_as_the_packets_of_it_are(peer: IPv4Address, port: int) -> None:
    target = Internet(bytes(10) + b"\xff\xff" + peer.packed, port)

    assert peer_filter(target) == peer_filter(Internet(peer.packed, port))
    assert judge(target, peer, port) == 0xFFFFFFFF


LOOPBACKS = {"IPv4": socket.AF_INET, "IPv6": socket.AF_INET6}


@pytest.fixture(params=list(LOOPBACKS.values()), ids=list(LOOPBACKS))
def theirs(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    with socket.socket(request.param, socket.SOCK_STREAM) as made:
        yield made


def loopback(sock: socket.socket, port: int) -> Internet:
    host = "127.0.0.1" if sock.family == socket.AF_INET else "::1"
    return Internet(socket.inet_pton(sock.family, host), port)


OPTIONS = {
    "keep-alive": (socket.SOL_SOCKET, socket.SO_KEEPALIVE, struct.pack("=i", 1)),
    "linger": (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 7)),
    "time to receive": (socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("=qq", 3, 0)),
    "time to send": (socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("=qq", 4, 0)),
    "urgent data inline": (socket.SOL_SOCKET, socket.SO_OOBINLINE, struct.pack("=i", 1)),
    "no delay": (socket.IPPROTO_TCP, socket.TCP_NODELAY, struct.pack("=i", 1)),
    "keep-alive after": (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, struct.pack("=i", 11)),
    "keep-alive every": (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, struct.pack("=i", 12)),
    "keep-alive times": (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, struct.pack("=i", 5)),
    "user timeout": (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, struct.pack("=i", 13)),
}


@pytest.mark.parametrize(("level", "option", "value"), OPTIONS.values(), ids=OPTIONS)
def test_a_twin_has_the_options_of_the_callers_socket(
    theirs: socket.socket, level: int, option: int, value: bytes
) -> None:
    before = theirs.getsockopt(level, option, len(value))
    theirs.setsockopt(level, option, value)

    with twin_of(theirs, loopback(theirs, NOWHERE)) as twin:
        assert twin.getsockopt(level, option, len(value)) == value != before


def test_a_twin_reaches_its_peer_and_its_filter_stays(theirs: socket.socket) -> None:
    target = loopback(theirs, 0)
    with socket.create_server(target.for_connect()[:2], family=theirs.family) as server:
        target = loopback(theirs, server.getsockname()[1])
        with twin_of(theirs, target) as twin:
            assert not os.get_blocking(twin.fileno())
            twin.setblocking(True)
            twin.connect(target.for_connect())
            with server.accept()[0] as there:
                there.sendall(b"here")
                assert twin.recv(4) == b"here"
            with pytest.raises(PermissionError):
                twin.setsockopt(socket.SOL_SOCKET, 27, struct.pack("=i", 0))  # SO_DETACH_FILTER


def test_a_twin_hears_nobody_else(theirs: socket.socket) -> None:
    """What listens on a twin's port is not reached: the segments of a stranger are dropped by the filter."""
    with twin_of(theirs, loopback(theirs, NOWHERE)) as twin, socket.socket(theirs.family) as stranger:
        twin.listen()
        stranger.setblocking(False)
        stranger.connect_ex(loopback(theirs, twin.getsockname()[1]).for_connect())
        # The answer to a segment is made while it is sent on loopback, so there is none to wait for.
        assert stranger.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\2", "TCP_SYN_SENT"


def test_a_port_is_kept_when_the_connect_fails(theirs: socket.socket) -> None:
    target = loopback(theirs, NOWHERE)
    with twin_of(theirs, target) as twin:
        port = twin.getsockname()[1]
        twin.setblocking(True)
        assert twin.connect_ex(target.for_connect()) == errno.ECONNREFUSED

        assert twin.getsockname()[1] == port
        with pytest.raises(OSError, match="Invalid argument"):
            twin.bind(loopback(theirs, 0).for_connect())
