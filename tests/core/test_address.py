"""One reading of each address, and what no rule can open."""

import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enclave.core.address import canonical, forbidden, private, translated

LEGACY = """
    127.1 127.0.1 1 0 2130706433 0x7f000001 0X7F000001 017700000001 0177.0.0.1 0177.1 0x7f.1 0x7f.0x0.0x0.0x1
    127.0.0.01 127.0.0.001 127.000.000.001 010.0.0.1 10.0.0.0x1 169.254.43518 169.16689662 0xa9fea9fe 2852039166
    0251.0376.0251.0376 0xa9.0xfe.0xa9.0xfe 4294967295 0xffffffff 037777777777 10 10.1 00.0.0.0 1.2.3.08
""".split()
NEITHER = [
    "", " ", ".", "1.2.3.4.", ".1.2.3.4", "1.2.3.4 ", " 1.2.3.4", "1.2.3.4\n", "1.2.3.4\0", "1.2.3.4 x", "1.2.3.256",
    "1.2.3", "1.2.3.4.5", "1.2.3.-4", "1.2.3.+4", "1.2.3.4/32", "1_0.0.0.1", "１.2.3.4", "١.2.3.4", "1。2。3。4",
    "1.2.3.4%0", "::1%1", "fe80::1%lo", "fe80::1%25eth0", "::1/128", "[::1]", "::1 ", ":::", "1::2::3", "::ffff:127.1",
    "::ffff:0177.0.0.1", "::ffff:1.2.3.04", "::12345", "::g", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "::１", "localhost",
    "example.org", "0x",
]  # fmt: skip


def refusal(make: Callable[[str], object], text: str) -> str | None:
    """What a parser says against a text; None if it takes it. Anything but a bare ValueError is a failure."""
    try:
        make(text)
    except ValueError as error:
        return str(error) if type(error) is ValueError else repr(error)
    return None


def legacy(text: str) -> bytes | None:
    """What inet_aton(3) makes of a text."""
    with suppress(OSError, ValueError):
        return socket.inet_aton(text)
    return None


def read(text: str) -> bytes | None:
    with suppress(ValueError):
        return canonical(text).packed
    return None


@pytest.mark.parametrize("text", LEGACY)
def test_a_form_that_only_the_c_library_takes_is_refused(text: str) -> None:
    taken = legacy(text) is not None or text == "1.2.3.08"

    assert taken
    with pytest.raises(ValueError, match="four decimal numbers"):
        canonical(text)


@pytest.mark.parametrize("text", NEITHER)
def test_what_is_no_address_is_refused(text: str) -> None:
    assert read(text) is None


PIECE = st.one_of(
    st.integers(0, 300).map(str),
    st.integers(0, 2**32).map(str),
    st.integers(0, 300).map(hex),
    st.integers(0, 300).map(lambda number: f"0{number:o}"),
    st.text("0123456789abcdefxX.: \t\n+-_%", max_size=4),
)
NUMERIC = st.one_of(
    st.lists(PIECE, min_size=1, max_size=5).map(".".join),
    st.lists(PIECE, min_size=1, max_size=9).map(":".join),
    st.text("0123456789abcdefxX.:% ", max_size=20),
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda address: address.exploded.upper()),
)


@given(NUMERIC)
@example("1.2.3.4")
@example("1.2.3.4 x")
def test_the_c_library_and_we_never_read_a_text_as_two_addresses(text: str) -> None:
    ours = read(text)
    packed = legacy(text)

    if packed is not None:
        assert ours == (packed if socket.inet_ntoa(packed) == text else None)
    if ours is not None:
        family, kept = (socket.AF_INET6, text) if ":" in text else (socket.AF_INET, text)
        theirs = socket.inet_pton(family, kept)
        assert ours == (theirs[12:] if len(theirs) == 16 and theirs.startswith(b"\0" * 10 + b"\xff\xff") else theirs)


@given(st.ip_addresses())
def test_an_address_comes_back_from_its_text_and_its_bytes(address: IPv4Address | IPv6Address) -> None:
    expected = getattr(address, "ipv4_mapped", None) or address

    assert canonical(str(address)) == canonical(address.packed) == canonical(address.exploded) == expected


@given(st.ip_addresses(v=4))
def test_an_ipv4_mapped_address_is_the_ipv4_address(address: IPv4Address) -> None:
    mapped = b"\0" * 10 + b"\xff\xff" + address.packed

    assert canonical(mapped) == canonical(f"::ffff:{address}") == canonical(f"0:0:0:0:0:FFFF:{address}") == address


@pytest.mark.parametrize("size", [0, 1, 3, 5, 8, 15, 17, 28])
def test_bytes_of_another_length_are_no_address(size: int) -> None:
    with pytest.raises(ValueError, match="four or sixteen"):
        canonical(bytes(size))


FORBIDDEN = {
    "0.0.0.0": "an unspecified address",
    "0.255.255.255": "an unspecified address",
    "127.0.0.1": "a loopback address",
    "127.255.255.255": "a loopback address",
    "169.254.0.0": "a link-local address",
    "169.254.169.254": "a link-local address",
    "169.254.170.2": "a link-local address",
    "169.254.255.255": "a link-local address",
    "224.0.0.1": "a multicast address",
    "239.255.255.255": "a multicast address",
    "240.0.0.1": "a reserved address",
    "255.255.255.255": "a reserved address",
    "100.100.100.200": "a metadata address of Alibaba Cloud",
    "168.63.129.16": "a platform address of Azure",
    "192.0.0.192": "a metadata address of Oracle Cloud",
    "::": "an unspecified address",
    "::1": "a loopback address",
    "::2": "an IPv4-compatible address",
    "::127.0.0.1": "an IPv4-compatible address",
    "::8.8.8.8": "an IPv4-compatible address",
    "::ffff:127.0.0.1": "a loopback address",
    "::ffff:169.254.169.254": "a link-local address",
    "::ffff:0:8.8.8.8": "an IPv4-translated address",
    "64:ff9b::7f00:1": "a translation of a loopback address",
    "64:ff9b::169.254.169.254": "a translation of a link-local address",
    "64:ff9b::10.0.0.1": "a translation of a private address",
    "64:ff9b::168.63.129.16": "a translation of a platform address of Azure",
    "64:ff9b:1::8.8.8.8": "an address of local translation to IPv4",
    "64:ff9b:1:ffff:ffff:ffff:ffff:ffff": "an address of local translation to IPv4",
    "2001::1": "a Teredo address",
    "2001:0:ffff:ffff:ffff:ffff:ffff:ffff": "a Teredo address",
    "2002:7f00:1::": "a 6to4 address",
    "2002:808:808::1": "a 6to4 address",
    "2001:db8::5efe:127.0.0.1": "an ISATAP address",
    "2001:db8::200:5efe:8.8.8.8": "an ISATAP address",
    "fd00::5efe:10.0.0.1": "an ISATAP address",
    "fe80::1": "a link-local address",
    "fe80::a9fe:a9fe": "a link-local address",
    "febf:ffff::1": "a link-local address",
    "ff02::1": "a multicast address",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff": "a multicast address",
    "fd00:ec2::254": "a platform address of AWS",
    "fd00:ec2::23": "a platform address of AWS",
    "fd00:ec2::253": "a platform address of AWS",
    "fd20:ce::254": "a metadata address of Google Cloud",
    "fd00:c1::a9fe:a9fe": "a metadata address of Oracle Cloud",
    "fd00:42::42": "a metadata address of Scaleway",
    "fd00:a9fe:a9fe::1": "a metadata address of Akamai",
    "fd00:100::100:200": "a metadata address of Alibaba Cloud",
}
REACHABLE = """
    1.0.0.0 8.8.8.8 10.0.0.1 100.64.0.1 100.100.100.199 126.255.255.255 128.0.0.0 168.63.129.15 169.253.255.255
    169.255.0.0 192.0.0.193 223.255.255.255 2000:: 2001:1::1 2001:db8::1 2003:: 2001:db8::5eff:1.2.3.4
    2001:db8::100:5efe:1.2.3.4 64:ff9b::8.8.8.8 64:ff9b:2::1 fc00::1 fd00:ec3::254 fd20:ce::253 fe7f::1 fec0::1 feff::1
""".split()
PRIVATE = """
    10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255 100.64.0.0 100.127.255.255
    fc00:: fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff fec0:: feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ::ffff:10.0.0.1
""".split()
PUBLIC = """
    9.255.255.255 11.0.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0 100.63.255.255 100.128.0.0
    fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff fe00:: febf:: ff00:: ::ffff:8.8.8.8
""".split()


@pytest.mark.parametrize(("text", "why"), FORBIDDEN.items())
def test_some_addresses_are_never_reached_and_the_reason_is_told(text: str, why: str) -> None:
    assert forbidden(canonical(text)) == forbidden(ip_address(text)) == why


@pytest.mark.parametrize("text", REACHABLE)
def test_their_neighbours_may_be_reached(text: str) -> None:
    assert forbidden(canonical(text)) is None


@pytest.mark.parametrize("text", PRIVATE)
def test_private_space_is_known(text: str) -> None:
    assert private(ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_what_borders_on_private_space_is_not_private(text: str) -> None:
    assert not private(ip_address(text))


def test_an_address_that_a_gateway_translates_is_told_from_one_that_none_does() -> None:
    assert translated(canonical("64:ff9b::1.2.3.4")) == IPv4Address("1.2.3.4")
    assert translated(canonical("64:ff9b::1:1.2.3.4")) is translated(canonical("1.2.3.4")) is None
