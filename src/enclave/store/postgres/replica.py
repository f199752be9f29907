"""This control plane among those that share a database: that it lives, and which of the others do not."""

import asyncio
import time
from typing import Final

from enclave.contracts.errors import Unavailable
from enclave.store.postgres.database import Database

BEAT_SECONDS: Final = 2.0
LEASE_SECONDS: Final = 15.0
"""How long after its last beat a replica is gone."""

_FORGET: Final = "DELETE FROM replicas WHERE seen_at < now() - interval '7 days'"
_BEAT: Final = (
    "INSERT INTO replicas (id, seen_at) VALUES ($1, clock_timestamp())"
    " ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at"
)
_LEAVE: Final = "DELETE FROM replicas WHERE id = $1"


class Heartbeat:
    """Tells the database now and then that this replica lives, until it is closed."""

    def __init__(self, database: Database, replica: str) -> None:
        self._database = database
        self._replica = replica
        self._beating_since = time.monotonic()
        self._last = self._beating_since
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Beat once, and go on. Raises Unavailable."""
        await self._database.fetch(_FORGET)
        await self._beat()
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def may_judge(self) -> bool:
        """Whether this replica was heard without a pause for as long as others have to be heard.

        While a database is away nobody is heard: that others were not is then no sign that they are gone.
        """
        return time.monotonic() - self._beating_since > LEASE_SECONDS + BEAT_SECONDS

    async def close(self) -> None:
        """Leave: the others need not wait to see that this one is gone."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        await self._database.fetch(_LEAVE, self._replica)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                await self._beat()
            except Unavailable:
                self._beating_since = time.monotonic()

    async def _beat(self) -> None:
        await self._database.fetch(_BEAT, self._replica)
        now = time.monotonic()
        if now - self._last > 2 * BEAT_SECONDS:
            self._beating_since = now
        self._last = now
