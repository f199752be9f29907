"""Which addresses a clone may connect to. It runs outside of any sandbox, where the whole network is in reach."""

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from enclave.core.remote import Remote
from enclave.source.base import FetchFailed

Address = IPv4Address | IPv6Address

_NEVER: Final = tuple(
    ip_network(each) for each in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254", "100.100.100.200", "168.63.129.16")
)
"""Link-local, and where the clouds (AWS, Alibaba, Azure) tell a machine its secrets: no leave covers them."""

_NAT64: Final = IPv6Network("64:ff9b::/96")  # RFC 6052
_MOST: Final = 8
_RESOLVE_SECONDS: Final = 15.0


async def allowed(remote: Remote, leave: Sequence[str]) -> tuple[Address, ...]:
    """The addresses of a remote that may be connected to; `leave` is the operator's, as CIDRs. Raises FetchFailed.

    Plain http is for addresses within the leave alone: anybody on the way could read a secret, and change the source.
    """
    found = await _resolve(remote)
    open_to_all = () if remote.scheme == "http" else tuple(each for each in found if is_public(each))
    fitting = tuple(each for each in found if each in open_to_all or is_within(each, leave))
    if not fitting:
        raise FetchFailed(_HTTP if remote.scheme == "http" else _PRIVATE)
    return fitting[:_MOST]


_HTTP: Final = "http is for addresses the operator has given leave for (ENCLAVE_EGRESS_PRIVATE); use https"
_PRIVATE: Final = "the url's host is not on the public internet, and the operator has given no leave for its address"


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet and not this machine's own."""
    real = _real(address)
    never = any(real in network for network in _NEVER)
    return real.is_global and not real.is_multicast and not never and not _is_own(real)


def is_within(address: Address, leave: Sequence[str]) -> bool:
    """Whether the operator's leave covers an address."""
    real = _real(address)
    never = any(real in network for network in _NEVER)
    return not never and any(real in ip_network(cidr, strict=False) for cidr in leave)


def _real(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, if it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)


def _is_own(address: Address) -> bool:
    # Only an address of this machine can be bound to (ip(7)).
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


async def _resolve(remote: Remote) -> list[Address]:
    loop = asyncio.get_running_loop()
    try:
        asking = loop.getaddrinfo(remote.host, remote.port, type=socket.SOCK_STREAM)
        answers = await asyncio.wait_for(asking, _RESOLVE_SECONDS)
    except (OSError, UnicodeError):
        raise FetchFailed("the url's host cannot be resolved") from None
    return list(dict.fromkeys(ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers))
