"""Events of an identity service of its own, on their way to the chains that the control plane keeps."""

import asyncio
import logging
from contextlib import suppress
from typing import Final

from enclave.contracts.errors import Conflict, Unavailable
from enclave.contracts.introspection import EVENTS, Events, TakeEvents
from enclave.identity.line import ANSWER_SECONDS, Line
from enclave.identity.outbox import Sink

WAIT_SECONDS: Final = 10.0
"""How long the service holds its answer while there is nothing to tell."""
MOST_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class EventPull:
    """Fetches events and brings them to the chain, each at least once; the chain knows one that it has."""

    def __init__(self, line: Line, sink: Sink) -> None:
        self._line = line
        self._sink = sink
        self._after: str | None = None

    async def run(self) -> None:
        """Go on until cancelled, at longer intervals where either side is not answering."""
        pause = 0.0
        while True:
            try:
                await self.step(WAIT_SECONDS)
                pause = 0.0
            except Unavailable as error:
                if not pause:
                    _log.error("events of the identity service wait: %s", error.detail)
                pause = min(MOST_SECONDS, pause * 2 or 0.25)
                await asyncio.sleep(pause)

    async def step(self, wait_seconds: float = 0.0) -> int:
        """Fetch what there is, up to a bound, and say how many. Raises Unavailable; then all of it comes again."""
        asked = TakeEvents(after=self._after, wait_seconds=wait_seconds)
        events = await self._line.ask(EVENTS, asked, Events, wait_seconds + ANSWER_SECONDS)
        for item in events.items:
            with suppress(Conflict):
                await self._sink(item.key, item.event)
            self._after = item.key
        return len(events.items)
