"""Addresses as the kernel's structures hold them: read as the kernel reads them, or as nothing it connects to."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.egress.address import Address, Internet, Local, Unknown, Unspecified, parse, parse_message

FOUR = struct.pack("=H", socket.AF_INET) + b"\x01\xbb" + bytes([192, 0, 2, 7])
SIX = struct.pack("=H", socket.AF_INET6) + b"\x01\xbb" + b"\0\1\2\3" + bytes.fromhex("fe80" + "00" * 13 + "09")
LOCAL = struct.pack("=H", socket.AF_UNIX)


@pytest.mark.parametrize(
    ("data", "read"),
    [
        (b"", Unknown(-1)),
        (b"\2", Unknown(-1)),
        (b"\0\0", Unspecified()),
        (bytes(128), Unspecified()),
        (FOUR + bytes(8), Internet(FOUR[4:], 443)),
        (FOUR + bytes(120), Internet(FOUR[4:], 443)),
        (FOUR + bytes(7), Unknown(socket.AF_INET)),
        (SIX, Internet(SIX[8:], 443)),
        (SIX + b"\5\0\0\0", Internet(SIX[8:], 443, 5)),
        (SIX + b"\5\0\0", Internet(SIX[8:], 443)),
        (SIX[:23], Unknown(socket.AF_INET6)),
        (LOCAL, Unknown(socket.AF_UNIX)),
        (LOCAL + b"/run/a", Local(b"/run/a")),
        (LOCAL + b"/run/a\0/run/b", Local(b"/run/a")),
        (LOCAL + b"\0name\0\0", Local(b"\0name\0\0")),
        (LOCAL + b"a" * 126, Local(b"a" * 108)),
        (struct.pack("=H", socket.AF_NETLINK) + bytes(10), Unknown(socket.AF_NETLINK)),
        (b"\xff" * 128, Unknown(0xFFFF)),
    ],
)
def test_each_family_is_read_in_its_own_way(data: bytes, read: Address) -> None:
    assert parse(data) == read


@given(st.binary(max_size=140))
def test_any_bytes_are_an_address_of_their_own_family(data: bytes) -> None:
    read = parse(data)

    if isinstance(read, Internet):
        assert (read.family, len(read.packed)) in ((socket.AF_INET, 4), (socket.AF_INET6, 16))
        assert data[:2] == struct.pack("=H", read.family)


@given(st.ip_addresses(), st.integers(1, 0xFFFF))
def test_an_address_is_the_one_that_a_socket_is_given(address: object, port: int) -> None:
    """What is read of a structure, and handed to a socket, is the same address again."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6  # type: ignore[attr-defined]
    read = Internet(address.packed, port)  # type: ignore[attr-defined]

    host, again = read.for_connect()[:2]

    assert (socket.inet_pton(family, str(host)), again) == (read.packed, port)


def test_a_message_says_where_its_address_is() -> None:
    assert parse_message(struct.pack("=QII", 0x7F00, 16, 0)) == (0x7F00, 16)
    assert parse_message(struct.pack("=QII", 0, 16, 0)) == (0, 0)
    assert parse_message(struct.pack("=QII", 0x7F00, 0, 0)) == (0, 0)
