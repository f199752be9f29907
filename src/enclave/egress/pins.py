"""Which addresses a session's names stand for: asked once, kept for its life, so that no name can be made to move."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from enclave.core.egress import Rules, canonical, decide, forbidden, normalise_name, resolvable

Address = IPv4Address | IPv6Address
_MOST_ADDRESSES = 8
_MOST_NAMES = 256
_AT_ONCE = 4


class Unresolved(Exception):
    """The name has no address that may be told."""


class Pins:
    """The names of one session that have been asked for, and their addresses."""

    def __init__(self, rules: Rules, leads_away: Callable[[Address], bool]) -> None:
        self._rules = rules
        self._leads_away = leads_away
        self._by_name: dict[str, asyncio.Task[tuple[Address, ...]]] = {}
        self._names: dict[Address, set[str]] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def allowed(self, name: str) -> str | None:
        """The name as it is compared, if the rules let it be resolved."""
        try:
            normal = normalise_name(name)
        except ValueError:
            return None
        return normal if resolvable(self._rules, normal) else None

    async def addresses(self, name: str) -> Sequence[Address]:
        """The addresses of an allowed name. Raises Unresolved."""
        if name not in self._by_name:
            if len(self._by_name) >= _MOST_NAMES:
                raise Unresolved("too many names")
            self._by_name[name] = asyncio.ensure_future(self._resolve(name))
        asked = self._by_name[name]
        try:
            return await asyncio.shield(asked)
        except Unresolved:
            if self._by_name.get(name) is asked:
                del self._by_name[name]  # to be asked again; never one that has an answer
            raise

    def names(self, address: Address) -> frozenset[str]:
        """The names that stand for an address."""
        return frozenset(self._names.get(address, ()))

    def close(self) -> None:
        """Ask for nothing more."""
        for asked in self._by_name.values():
            asked.cancel()

    async def _resolve(self, name: str) -> tuple[Address, ...]:
        async with self._turns:
            found = await resolve(name)
        kept = tuple(address for address in found if self._may_be_told(address, name))[:_MOST_ADDRESSES]
        if not kept:
            raise Unresolved(name)
        for address in kept:
            self._names.setdefault(address, set()).add(name)
        return kept

    def _may_be_told(self, address: Address, name: str) -> bool:
        rule = resolvable(self._rules, name)
        if rule is None or forbidden(address) or not self._leads_away(address):
            return False
        return decide(self._rules, address, rule.ports.first, (name,)).allowed


async def resolve(name: str) -> tuple[Address, ...]:
    """The addresses that this machine's resolver has for a name, each once. Raises Unresolved."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unresolved(name) from error
    return tuple(dict.fromkeys(canonical(ip_address(entry[4][0]).packed) for entry in found))
