"""Addresses as egress sees them: one reading of each, and those that no rule can open."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NEVER: Final = (
    ("0.0.0.0/8", "an unspecified address"),  # RFC 1122, 3.2.1.3; Linux takes 0.0.0.0 for loopback
    ("127.0.0.0/8", "a loopback address"),  # RFC 1122, 3.2.1.3
    ("169.254.0.0/16", "a link-local address"),  # RFC 3927; nearly every cloud keeps its metadata here
    ("224.0.0.0/4", "a multicast address"),  # RFC 5771
    ("240.0.0.0/4", "a reserved address"),  # RFC 1112, 4; the broadcast address is the last of them
    ("100.100.100.200/32", "a metadata address of Alibaba Cloud"),  # cloud-init, DataSourceAliYun
    ("168.63.129.16/32", "a platform address of Azure"),  # Microsoft Learn, "What is IP address 168.63.129.16?"
    ("192.0.0.192/32", "a metadata address of Oracle Cloud"),  # Oracle Cloud Infrastructure Classic
    ("::/128", "an unspecified address"),  # RFC 4291, 2.5.2
    ("::1/128", "a loopback address"),  # RFC 4291, 2.5.3
    ("::/96", "an IPv4-compatible address"),  # RFC 4291, 2.5.5.1, deprecated
    ("::ffff:0:0:0/96", "an IPv4-translated address"),  # RFC 2765, 2.1
    ("64:ff9b:1::/48", "an address of local translation to IPv4"),  # RFC 8215
    ("2001::/32", "a Teredo address"),  # RFC 4380
    ("2002::/16", "a 6to4 address"),  # RFC 3056
    ("fe80::/10", "a link-local address"),  # RFC 4291, 2.5.6
    ("ff00::/8", "a multicast address"),  # RFC 4291, 2.7
    # EC2 and EKS user guides: ::254 metadata, ::23 pod identity, ::253 DNS, ::123 time.
    ("fd00:ec2::/32", "a platform address of AWS"),
    ("fd20:ce::254/128", "a metadata address of Google Cloud"),  # Compute Engine, "Query VM metadata"
    ("fd00:c1::a9fe:a9fe/128", "a metadata address of Oracle Cloud"),  # oci-python-sdk, instance principals
    ("fd00:42::42/128", "a metadata address of Scaleway"),  # cloud-init, DataSourceScaleway
    ("fd00:a9fe:a9fe::1/128", "a metadata address of Akamai"),  # Akamai TechDocs, "Metadata service API"
    ("fd00:100::100:200/128", "a metadata address of Alibaba Cloud"),  # cloud-init, DataSourceAliYun
)
"""What is never reached, by whatever rule, and where that is written."""

_PRIVATE: Final[tuple[Network, ...]] = (
    *map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")),  # RFC 1918
    IPv4Network("100.64.0.0/10"),  # RFC 6598
    IPv6Network("fc00::/7"),  # RFC 4193
    IPv6Network("fec0::/10"),  # RFC 3879, deprecated
)

Span = tuple[int, int]
"""The first and the last address of a network, as numbers."""


def span(network: Network) -> Span:
    """The network's bounds, which two comparisons hold an address against."""
    return int(network.network_address), int(network.broadcast_address)


_NEVER_SPANS: Final = {
    version: tuple((*span(ip_network(text)), why) for text, why in _NEVER if ip_network(text).version == version)
    for version in (4, 6)
}
_PRIVATE_SPANS: Final = {
    version: tuple(span(network) for network in _PRIVATE if network.version == version) for version in (4, 6)
}
_NAT64: Final = int(IPv6Address("64:ff9b::")) >> 32
_ISATAP: Final = 0x5EFE

WRITE_DOTTED: Final = "write an IPv4 address as four decimal numbers from 0 to 255 without leading zeros"


def literal(text: str) -> Address:
    """The address that a text says in its one strict form; raises ValueError, saying what to write instead.

    None of the other forms that inet_aton(3) takes for IPv4 (`127.1`, `0177.0.0.1`, `0x7f.1`, `2130706433`).
    """
    if "%" in text:
        raise ValueError("write the address without its zone id")
    if ":" not in text:
        try:
            return IPv4Address(text)
        except ValueError:
            raise ValueError(WRITE_DOTTED) from None
    try:
        return IPv6Address(text)
    except ValueError:
        raise ValueError("write an IPv6 address as RFC 4291 has it, such as 2001:db8::1") from None


def canonical(address: str | bytes) -> Address:
    """The address that a text in strict form, or four or sixteen bytes in network order, stands for.

    An IPv4-mapped address (`::ffff:10.0.0.1`) is the IPv4 address: that is what the kernel connects to. Raises
    ValueError for anything else.
    """
    if isinstance(address, str):
        return unmapped(literal(address))
    if len(address) == 4:
        return IPv4Address(bytes(address))
    if len(address) == 16:
        return unmapped(IPv6Address(bytes(address)))
    raise ValueError("an address is four or sixteen bytes")


def unmapped(address: Address) -> Address:
    """The IPv4 address within an IPv4-mapped one; any other as it is."""
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def translated(address: Address) -> IPv4Address | None:
    """The IPv4 address that a NAT64 gateway makes of this one (RFC 6052, `64:ff9b::/96`), None if it makes none.

    An operator's own prefix for NAT64 cannot be told from any other network; it is denied by its CIDR.
    """
    if address.version == 6 and int(address) >> 32 == _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def forbidden(address: Address) -> str | None:
    """Why an address is never reachable, by whatever rule; None if it may be.

    The machine's own addresses are not known here.
    """
    address = unmapped(address)
    value = int(address)
    for first, last, why in _NEVER_SPANS[address.version]:
        if first <= value <= last:
            return why
    return _forbidden_within(address) if isinstance(address, IPv6Address) else None


def _forbidden_within(address: IPv6Address) -> str | None:
    # RFC 5214, 6.1: the interface id 0000:5efe or 0200:5efe and the IPv4 address, below any prefix.
    if (int(address) >> 32) & 0xFDFFFFFF == _ISATAP:
        return "an ISATAP address"
    inner = translated(address)
    if inner is None:
        return None
    # RFC 6052, 3.1: the well-known prefix must not be used for addresses that are not global.
    why = "a private address" if private(inner) else forbidden(inner)
    return why and f"a translation of {why}"


def private(address: Address) -> bool:
    """Whether an address lies in private space, which only a CIDR that lies in it too, or the operator, opens."""
    address = unmapped(address)
    value = int(address)
    return any(first <= value <= last for first, last in _PRIVATE_SPANS[address.version])


def within_private(network: Network) -> bool:
    """Whether a network lies wholly in private space."""
    first, last = span(network)
    return any(low <= first and last <= high for low, high in _PRIVATE_SPANS[network.version])


def may_call(address: Address, leave: Iterable[Network]) -> bool:
    """Whether the broker may call an address on a session's behalf: a public one, or one the operator gave leave for.

    Leave may open private space and this machine's loopback; never what else is `forbidden`.
    """
    plain = unmapped(address)
    if forbidden(plain) is None and not private(plain):
        return True
    return inside(plain, leave) and (plain.is_loopback or forbidden(plain) is None)


def inside(address: Address, networks: Iterable[Network]) -> bool:
    """Whether an address is in one of the networks."""
    return any(address in network for network in networks)
