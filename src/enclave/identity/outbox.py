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

from pydantic import TypeAdapter, ValidationError

from enclave.contracts.audit import AuditEvent
from enclave.contracts.errors import Conflict, Unavailable
from enclave.contracts.introspection import Events, KeyedEvent, TakeEvents
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
    """What is posted and not yet delivered. Without a sink it waits to be taken, by one who keeps the chains."""

    def __init__(self, database: Database, sink: Sink | None) -> None:
        self._database = database
        self._sink = sink
        self._turn = asyncio.Lock()
        self._posted = asyncio.Event()
        self._closed = False

    async def deliver(self) -> None:
        """Bring everything to the chain, in its order. What cannot be brought stays for the next time."""
        self._posted.set()
        if self._sink is not None:
            await self._push(self._sink)

    async def add(self, key: str, event: AuditEvent) -> None:
        """Post an event that tells of no change here."""
        with self._database.change() as connection:
            connection.execute("INSERT INTO outbox (id, body) VALUES (?, ?)", (key, event.model_dump_json()))
        await self.deliver()

    async def take(self, asked: TakeEvents) -> Events:
        """The first of what waits; what was acknowledged goes. Raises Unavailable once it is closed."""
        self._acknowledge(asked.after)
        self._posted.clear()
        events = self._waiting()
        if not events and asked.wait_seconds and not self._closed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._posted.wait(), asked.wait_seconds)
            events = self._waiting()
        if self._closed:
            # Not empty-handed: who asked would ask again at once.
            raise Unavailable("the identity service ends", retry_after=1)
        return Events(items=events)

    def close(self) -> None:
        """Let nobody wait any longer."""
        self._closed = True
        self._posted.set()

    def _acknowledge(self, key: str | None) -> None:
        # By its key, not by its number: those of a database that was restored may have been given twice.
        if key is not None:
            with self._database.change() as connection:
                connection.execute("DELETE FROM outbox WHERE seq <= (SELECT seq FROM outbox WHERE id = ?)", (key,))

    def _waiting(self) -> tuple[KeyedEvent, ...]:
        rows = self._database.all("SELECT id, body FROM outbox ORDER BY seq LIMIT ?", (_PART,))
        return tuple(KeyedEvent(key=key, event=_EVENT.validate_json(body)) for key, body in rows)

    async def _push(self, sink: Sink) -> None:
        async with self._turn:
            try:
                while rows := self._database.all("SELECT seq, id, body FROM outbox ORDER BY seq LIMIT ?", (_PART,)):
                    for _, key, body in rows:
                        with suppress(Conflict):
                            await sink(key, _EVENT.validate_json(body))
                    with self._database.change() as connection:
                        connection.execute("DELETE FROM outbox WHERE seq <= ?", (rows[-1][0],))
            except Unavailable as error:
                _log.error("events wait to be added to the audit trail: %s", error.detail)
            except ValidationError as error:
                # What it tells of is done, and whoever did it is not to hear that it failed.
                _log.error("events wait: the first cannot be read: %s", error.errors(include_input=False)[:3])
