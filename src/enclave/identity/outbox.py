"""Events of the identity authority on their way to the audit chain.

The chain is in another file, and two files share no transaction. So an event is written beside the change that it tells
of, both or neither, and goes from there to the chain, which knows by its id one that it was given before: each is in
the chain once, however often either side stops in between.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from secrets import token_hex
from typing import Final

from pydantic import TypeAdapter

from enclave.contracts.audit import AuditEvent
from enclave.contracts.errors import Conflict, Unavailable
from enclave.identity.database import Database

Sink = Callable[[str, AuditEvent], Awaitable[object]]
"""Where events go: adds one to its org's chain. Raises Conflict if it did before, and Unavailable."""

_PART: Final = 100
_EVENT: Final = TypeAdapter[AuditEvent](AuditEvent)
_log = logging.getLogger(__name__)


def post(connection: sqlite3.Connection, *events: AuditEvent) -> None:
    """Write events in the transaction of what they tell of."""
    rows = [(token_hex(16), event.model_dump_json()) for event in events]
    connection.executemany("INSERT INTO outbox (id, body) VALUES (?, ?)", rows)


class Outbox:
    """What is posted and not yet delivered."""

    def __init__(self, database: Database, sink: Sink) -> None:
        self._database = database
        self._sink = sink
        self._turn = asyncio.Lock()

    async def deliver(self) -> None:
        """Bring everything to the chain, in its order. What cannot be brought stays for the next time."""
        async with self._turn:
            try:
                while rows := self._database.all("SELECT seq, id, body FROM outbox ORDER BY seq LIMIT ?", (_PART,)):
                    for _, key, body in rows:
                        with suppress(Conflict):
                            await self._sink(key, _EVENT.validate_json(body))
                    with self._database.change() as connection:
                        connection.execute("DELETE FROM outbox WHERE seq <= ?", (rows[-1][0],))
            except Unavailable as error:
                _log.error("events wait to be added to the audit trail: %s", error.detail)
