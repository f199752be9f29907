"""Whether sessions can be created now."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from enclave.contracts.errors import Unavailable

FRESH_SECONDS: Final = 1.0
"""How long an answer holds: anybody may ask, and it costs a write."""


class Readiness:
    """Asks at most once a second, however many want to know. Use it from one event loop."""

    def __init__(self, stands: Callable[[], bool], check: Callable[[], Awaitable[None]]) -> None:
        self._stands = stands
        self._check = check
        self._asked: asyncio.Future[None] | None = None
        self._until = 0.0

    async def check(self) -> None:
        """Pass if they can. Raises Unavailable, saying what is in the way."""
        if not self._stands():
            raise Unavailable("the backend is not standing; retry shortly", retry_after=1)
        loop = asyncio.get_running_loop()
        if self._asked is None or (self._asked.done() and loop.time() >= self._until):
            self._asked = asyncio.ensure_future(self._check())
            self._until = loop.time() + FRESH_SECONDS
        await asyncio.shield(self._asked)
