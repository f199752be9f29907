"""Connections to the upstreams of service bindings: resolved, checked, and only then made."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_network

from enclave.core.address import Address, inside, may_call
from enclave.egress.pins import Unresolved, resolve
from enclave.egress.service.binding import Refused


class Upstreams:
    """Connects to hosts whose addresses are public, or in one of the `private` networks that the operator named."""

    def __init__(self, leads_away: Callable[[Address], bool], private: Sequence[str]) -> None:
        self._leads_away = leads_away
        self._private = tuple(ip_network(text) for text in private)

    async def connect(self, host: str, port: int) -> socket.socket:
        """A connection to the first address of the host that answers. Raises OSError and Refused."""
        try:
            found = await resolve(host.strip("[]"))
        except Unresolved:
            raise socket.gaierror(socket.EAI_NONAME, "the upstream's name does not resolve") from None
        allowed = [address for address in found if self.allowed(address)]
        if not allowed:
            raise Refused("the upstream is at an address that the operator has not given leave for")
        failures: list[OSError] = []
        for address in allowed:
            try:
                return await dial(address, port)
            except OSError as error:
                failures.append(error)
        raise failures[0]

    def allowed(self, address: Address) -> bool:
        """Whether an address may be called."""
        # This machine's own addresses lead nowhere; one that the operator named is meant.
        return may_call(address, self._private) and (self._leads_away(address) or inside(address, self._private))


async def dial(address: Address, port: int) -> socket.socket:
    """A TCP connection to an address. Raises OSError."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, (str(address), port))
    except BaseException:
        made.close()
        raise
    return made
