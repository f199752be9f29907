"""Which addresses may be called on a session's behalf."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NEVER: Final[tuple[Network, ...]] = tuple(
    ip_network(text)
    for text in (
        "169.254.0.0/16",  # link-local (RFC 3927), and the metadata services of most clouds
        "fe80::/10",  # link-local (RFC 4291)
        "fd00:ec2::254/128",  # metadata of AWS over IPv6
        "100.100.100.200/32",  # metadata of Alibaba Cloud
        "168.63.129.16/32",  # the host of an Azure machine
    )
)
"""What nobody can be given leave for: whoever reaches it can act as the machine itself."""

_UNICAST: Final = IPv6Network("2000::/3")  # RFC 4291, section 2.4, as IANA has assigned it
_MAPPED: Final = IPv6Network("::ffff:0:0/96")  # RFC 4291, section 2.5.5.2
_TRANSLATED: Final = IPv6Network("64:ff9b::/96")  # NAT64, RFC 6052


def may_call(address: Address, private: Iterable[Network]) -> bool:
    """Whether an address may be called: a public one, or one inside the `private` networks that the operator named.

    An IPv6 address that carries an IPv4 address (mapped, 6to4, Teredo, NAT64) must be callable by both.
    """
    networks = tuple(private)
    return all(_callable(one, networks) for one in (address, *_carried(address)))


def inside(address: Address, networks: Iterable[Network]) -> bool:
    """Whether an address is in one of the networks."""
    return any(address in network for network in networks)


def _callable(address: Address, private: tuple[Network, ...]) -> bool:
    if inside(address, NEVER) or address.is_multicast or address.is_unspecified:
        return False
    return _is_public(address) or inside(address, private)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return address.is_global
    return address in _TRANSLATED or address in _MAPPED or (address in _UNICAST and address.is_global)


def _carried(address: Address) -> tuple[IPv4Address, ...]:
    if isinstance(address, IPv4Address):
        return ()
    nat64 = IPv4Address(int(address) & 0xFFFFFFFF) if address in _TRANSLATED else None
    found = (address.ipv4_mapped, address.sixtofour, *(address.teredo or ()), nat64)
    return tuple(one for one in found if one is not None)
