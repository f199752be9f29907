"""What leads away from this machine, by the word of its own kernel."""

import socket
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from enclave.egress.route import Routes


@pytest.fixture
def routes() -> Iterator[Routes]:
    made = Routes()
    yield made
    made.close()


def own_addresses() -> set[IPv4Address | IPv6Address]:
    shown = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    return {ip_address(line.split()[3].split("/")[0]) for line in shown.splitlines()}


def test_the_machines_own_addresses_do_not_lead_away(routes: Routes) -> None:
    own = own_addresses()

    assert own
    assert [address for address in own if routes.leads_away(address)] == []


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.77.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "ff02::1"],
)
def test_loopback_and_groups_do_not_lead_away(routes: Routes, address: str) -> None:
    assert not routes.leads_away(ip_address(address))


def test_what_has_a_way_out_leads_away(routes: Routes) -> None:
    """Asked of the kernel in another way: by which address a datagram socket would go there."""
    address = IPv4Address("192.0.2.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        way = asked.connect_ex((str(address), 9)) == 0

    assert routes.leads_away(address) == way
