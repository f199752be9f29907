"""Turns at something of which few are done at once: each place that waits gets one after the other."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """So many at once. Whoever waits does so behind others of the same place, and behind one of each other place."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def of(self, place: str) -> AsyncIterator[None]:
        """A turn, when it comes."""
        await self._take(place)
        try:
            yield
        finally:
            self._pass_on()

    async def _take(self, place: str) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(place, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                # It came in the same moment.
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            place = next(iter(self._waiting))
            queue = self._waiting.pop(place)
            turn = queue.popleft()
            if queue:
                self._waiting[place] = queue
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
