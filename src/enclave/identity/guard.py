"""How often a sign-in may fail."""

from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from enclave.identity.attempts import Attempts
from enclave.identity.database import Clock

WINDOW_SECONDS: Final = 300.0
MAX_OF_PAIR: Final = 5
MAX_OF_ADDRESS: Final = 50
MAX_OF_USER: Final = 50
MAX_KNOWN: Final = 10_000

_SITE_BITS: Final = 64
"""What one customer has at least of IPv6 addresses (RFC 6177)."""


class Guard:
    """How often a sign-in may fail: from an address to a user, from an address, and to a user from strange addresses.

    The last two do not bind a user where they signed in from, so that nobody can lock them out of there.
    """

    def __init__(self, clock: Clock) -> None:
        def now() -> float:
            return clock().timestamp()

        self._pairs = Attempts(MAX_OF_PAIR, WINDOW_SECONDS, now)
        self._addresses = Attempts(MAX_OF_ADDRESS, WINDOW_SECONDS, now)
        self._users = Attempts(MAX_OF_USER, WINDOW_SECONDS, now)
        self._known: dict[tuple[str, str], None] = {}

    def take(self, address: str, email: str) -> bool:
        """Count an attempt, before it is made; whether the user signed in from there before. Raises QuotaExceeded."""
        pair = (site(address), email)
        known = pair in self._known
        if not known:
            # First, so that an address cannot make up users without end.
            self._addresses.take(pair[0])
        self._pairs.take(pair)
        if not known:
            self._users.take(email)
        return known

    def passed(self, address: str, email: str) -> None:
        """The attempt that was counted last succeeded."""
        pair = (site(address), email)
        self._pairs.give_back(pair)
        if pair not in self._known:
            self._addresses.give_back(pair[0])
            self._users.give_back(email)
        while len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[pair] = None

    def take_code(self, address: str) -> None:
        """Count an attempt at a code, which is for a user not known yet, before it is made. Raises QuotaExceeded."""
        self._addresses.take(site(address))

    def passed_code(self, address: str) -> None:
        """The code that was counted last passed."""
        self._addresses.give_back(site(address))


def site(address: str) -> str:
    """Whom an address stands for: of IPv6 the network of one customer, who has all of it to call from."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return address
    return str(found.ipv4_mapped or ip_network((found, _SITE_BITS), strict=False))
