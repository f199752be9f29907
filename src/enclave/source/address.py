"""Which addresses a clone may connect to. It runs outside of any sandbox, where the whole network is in reach."""

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from enclave.core.address import Address, Network, inside, may_call, translated, unmapped
from enclave.core.remote import Remote
from enclave.source.base import FetchFailed

_MOST: Final = 8
_RESOLVE_SECONDS: Final = 15.0


async def allowed(remote: Remote, leave: Sequence[Network]) -> tuple[Address, ...]:
    """The addresses of a remote that may be connected to; `leave` is the operator's. Raises FetchFailed.

    Plain http is for addresses within the leave alone: anybody on the way could read a secret, and change the source.
    """
    plain = remote.scheme == "http"
    found = [each for each in await _resolve(remote) if may_fetch(each, leave, plain=plain)]
    if not found:
        raise FetchFailed(_HTTP if plain else _PRIVATE)
    return tuple(found[:_MOST])


_HTTP: Final = "http is for addresses the operator has given leave for (ENCLAVE_EGRESS_PRIVATE); use https"
_PRIVATE: Final = "the url's host is not on the public internet, and the operator has given no leave for its address"


def may_fetch(address: Address, leave: Sequence[Network], *, plain: bool = False) -> bool:
    """Whether a clone may connect to an address: where the broker may call, and to this machine's own only by leave."""
    if not may_call(address, leave):
        return False
    return inside(unmapped(address), leave) or not (plain or _is_own(translated(address) or unmapped(address)))


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
