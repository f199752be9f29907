"""One rule of an egress policy: what it may say, and what to write instead of what it may not."""

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Network, ip_network
from typing import Final

from enclave.core.address import Address, Network, literal
from enclave.core.name import is_broad, looks_numeric, normalise_name, unreachable

_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_LENGTH: Final = re.compile(r"0|[1-9][0-9]{0,2}")
_MAPPED: Final = IPv6Network("::ffff:0:0/96")


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports from `first` to `last`, both among them."""

    first: int
    last: int

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def covers(self, other: "Ports") -> bool:
        """Whether every port of the other is among these."""
        return self.first <= other.first and other.last <= self.last


ALL_PORTS: Final = Ports(1, 65535)


@dataclass(frozen=True, slots=True)
class CidrRule:
    """Addresses, whatever name led to them; `text` is the rule as it was written."""

    text: str
    network: Network
    ports: Ports


@dataclass(frozen=True, slots=True)
class NameRule:
    """A normalised name, or with `wildcard` all names below it; `text` is the rule as it was written."""

    text: str
    name: str
    wildcard: bool
    ports: Ports


Rule = CidrRule | NameRule


# A list is held against others on the way to every session, and is mostly the same one.
@lru_cache(maxsize=4096)
def parse_rule(text: str) -> Rule:
    """The rule that a text is, in the grammar of `EgressPolicy`; raises ValueError, saying in a line what to write."""
    if "://" in text:
        raise ValueError("write a host, not a URL")
    target, ports = _split(text)
    if ":" in target or "/" in target or looks_numeric(_last_label(target)):
        return CidrRule(text, _network(target), ports)
    wildcard = target.startswith("*")
    return NameRule(text, _below(target) if wildcard else _host(target), wildcard, ports)


def _split(text: str) -> tuple[str, Ports]:
    if text.startswith("["):
        return _split_brackets(text)
    if text.count(":") != 1:
        if "/" in text and ":" in text.partition("/")[2]:
            raise ValueError("write IPv6 with a port in brackets: [2001:db8::/32]:443")
        return text, ALL_PORTS
    target, _, port = text.partition(":")
    return target, _ports(port)


def _split_brackets(text: str) -> tuple[str, Ports]:
    target, closed, rest = text[1:].partition("]")
    if not closed or ":" not in target or (rest and not rest.startswith(":")):
        raise ValueError("brackets are for IPv6 alone: [2001:db8::/32]:443")
    return target, _ports(rest[1:]) if rest else ALL_PORTS


def _ports(text: str) -> Ports:
    first, dash, last = text.partition("-")
    numbers = [int(one) for one in ((first, last) if dash else (first, first)) if _PORT.fullmatch(one)]
    if len(numbers) != 2 or not numbers[0] <= numbers[1] <= ALL_PORTS.last:
        raise ValueError("a port is a number from 1 to 65535, or two with a hyphen: 8000-8099")
    return Ports(*numbers)


def _last_label(target: str) -> str:
    return target.removesuffix(".").rpartition(".")[2]


def _network(target: str) -> Network:
    base, slash, length = target.partition("/")
    if ":" not in base and not looks_numeric(_last_label(base)):
        raise ValueError("write a host without a path")
    address = literal(base)
    if slash and not (_LENGTH.fullmatch(length) and int(length) <= address.max_prefixlen):
        raise ValueError(f"write the length of a CIDR as a number from 0 to {address.max_prefixlen}")
    network = ip_network((address, int(length) if slash else address.max_prefixlen), strict=False)
    _check_network(address, network)
    return network


def _check_network(address: Address, network: Network) -> None:
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        inner = IPv4Address(int(network.network_address) & 0xFFFFFFFF)
        raise ValueError(f"write IPv4 as itself: {ip_network((inner, network.prefixlen - _MAPPED.prefixlen))}")
    if network.network_address != address:
        raise ValueError(f"the address has bits beyond the length; write {network}")


def _host(target: str) -> str:
    name = normalise_name(target)
    if why := unreachable(name):
        raise ValueError(f"{name} {why}, which no rule can open")
    return name


def _below(target: str) -> str:
    if not target.startswith("*.") or "*" in target[1:]:
        raise ValueError("write *.example.org, one asterisk for all that is below; name the domain")
    name = _host(target[2:])
    if is_broad(name):
        raise ValueError(f"*.{name} is too broad; name the domain: *.example.{name}")
    return name
