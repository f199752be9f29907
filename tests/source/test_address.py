"""Where a clone may connect to."""

import asyncio
import socket
from ipaddress import ip_address, ip_network

import pytest

from enclave.core.remote import Remote
from enclave.source.address import allowed, may_fetch
from enclave.source.base import FetchFailed

INTERNAL = (
    "127.0.0.1 0.0.0.0 10.1.2.3 172.16.0.1 192.168.1.1 100.64.0.1 169.254.169.254 100.100.100.200 168.63.129.16"
    " 224.0.0.1 255.255.255.255 ::1 :: fe80::1 fd00::1 fd00:ec2::254 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1"
    " 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 2002:7f00:1:: 2001:0:1234::f5ff:fffe"
).split()


@pytest.mark.parametrize("address", INTERNAL)
def test_what_is_not_on_the_public_internet_is_not_reached(address: str) -> None:
    assert not may_fetch(ip_address(address), ())


@pytest.mark.parametrize("address", ["1.1.1.1", "140.82.112.3", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_the_public_internet_is(address: str) -> None:
    assert may_fetch(ip_address(address), ())


def test_the_machines_own_address_is_not_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """A public address that can be bound to is this machine's: what listens there may trust whoever is on it."""
    monkeypatch.setattr(socket.socket, "bind", lambda *_: None)

    assert not may_fetch(ip_address("1.1.1.1"), ())


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.0.0.1", False),
        ("169.254.169.254", False),
        ("fe80::1", False),
        ("100.100.100.200", False),
    ],
)
def test_leave_is_for_what_it_names_and_never_for_metadata(address: str, expected: bool) -> None:
    leave = tuple(map(ip_network, ("10.0.0.0/8", "169.254.0.0/16", "fe80::/10", "100.64.0.0/10")))

    assert may_fetch(ip_address(address), leave, plain=True) is expected


def test_http_needs_leave_even_on_the_public_internet() -> None:
    remote = Remote.parse("http://1.1.1.1/a")

    with pytest.raises(FetchFailed, match="use https"):
        asyncio.run(allowed(remote, (ip_network("10.0.0.0/8"),)))
    assert asyncio.run(allowed(remote, (ip_network("1.1.1.0/24"),))) == (ip_address("1.1.1.1"),)


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]"])
def test_a_name_counts_by_what_it_resolves_to(host: str) -> None:
    with pytest.raises(FetchFailed, match="public internet"):
        asyncio.run(allowed(Remote.parse(f"https://{host}/a"), ()))
