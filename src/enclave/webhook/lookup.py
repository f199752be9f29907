"""Names looked up by threads of their own: a resolver that does not answer keeps none waiting but who asked it."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final

from enclave.core.address import Address, canonical

GetAddrInfo = Callable[..., list[tuple[Any, ...]]]
"""As `socket.getaddrinfo`."""

_MOST: Final = 16


class Unresolved(Exception):
    """The name has no address."""


class Lookup:
    """One question, which getaddrinfo(3) cannot be made to give up. Made in a running loop."""

    def __init__(self, host: str, getaddrinfo: GetAddrInfo) -> None:
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._found: tuple[Address, ...] = ()
        threading.Thread(target=self._run, args=(host, getaddrinfo), name="enclave-webhook-lookup", daemon=True).start()

    async def addresses(self) -> tuple[Address, ...]:
        """The addresses, each once, at most 16 of them. Raises Unresolved."""
        await asyncio.wait((self.done,))
        if not self._found:
            raise Unresolved
        return self._found

    def _run(self, host: str, getaddrinfo: GetAddrInfo) -> None:
        with contextlib.suppress(OSError, UnicodeError, ValueError):
            found = getaddrinfo(host, None, type=socket.SOCK_STREAM)
            self._found = tuple(dict.fromkeys(canonical(ip_address(entry[4][0]).packed) for entry in found))[:_MOST]
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self.done.set_result, None)
