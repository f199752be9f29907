"""Sessions and their audit trails in a PostgreSQL database that several control planes may share.

Changes queue for one task of each, which commits all that have gathered in one transaction. It holds the ends of the
chains that it writes to from the beginning to the end of it, so each chain has one writer at a time.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, Self

from pydantic import TypeAdapter

from enclave.contracts.audit import AuditEvent
from enclave.contracts.checkpoint import Checkpoint
from enclave.contracts.errors import NotFound, Unavailable
from enclave.contracts.sessions import Session, SessionResult
from enclave.core import proof
from enclave.core.claim import Claimed
from enclave.core.session import Change
from enclave.store.base import Filter, Head, Oldest
from enclave.store.base.replicas import Wish
from enclave.store.postgres.binding import PostgresBindings
from enclave.store.postgres.database import Database
from enclave.store.postgres.feed import WISH_CHANNEL, Feed
from enclave.store.postgres.migration import migrate
from enclave.store.postgres.outbox import PostgresOutbox
from enclave.store.postgres.removal import Burial, Forgetting, Probe
from enclave.store.postgres.replica import LEASE_SECONDS, Heartbeat
from enclave.store.postgres.session import CLAIMED, Move, Note
from enclave.store.postgres.signing import PostgresSigning
from enclave.store.postgres.tenancy import PostgresTenancy
from enclave.store.postgres.writer import Writer
from enclave.store.vault import Vault

_EVENT: Final = TypeAdapter[AuditEvent](AuditEvent)

_GET: Final = "SELECT doc, result FROM sessions WHERE id = $1 AND org_id = $2"
_TRAIL: Final = (
    "SELECT body, digest FROM audit WHERE org_id = $1 AND session_id = $2 AND seq > $3"
    " AND EXISTS (SELECT FROM sessions WHERE id = $2 AND org_id = $1) ORDER BY seq LIMIT $4"
)
_CHAIN: Final = "SELECT body, digest FROM audit WHERE org_id = $1 AND seq > $2 ORDER BY seq LIMIT $3"
# Every transaction below the moment is over, so what it changed is seen; one above may be seen twice, but is seen.
_HEADS: Final = (
    "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint, org_id, seq, digest"
    " FROM (VALUES (1)) AS one LEFT JOIN heads ON seq > 0 AND moved >= $1"
)
# One statement, and so one moment: whoever buries does so between two of them.
_OLDEST: Final = (
    "SELECT (SELECT doc FROM tombstones WHERE org_id = $1 ORDER BY seq DESC LIMIT 1), body, digest"
    " FROM (VALUES (1)) AS one LEFT JOIN ("
    " SELECT seq, body, digest FROM audit WHERE org_id = $1 ORDER BY seq LIMIT $2) AS oldest ON true ORDER BY seq"
)
_UNSETTLED: Final = (
    "SELECT doc FROM sessions WHERE phase IN ('pending', 'running') AND (owner = $1 OR $2 AND NOT EXISTS ("
    " SELECT FROM replicas WHERE replicas.id = owner AND seen_at > clock_timestamp() - make_interval(secs => $3)))"
    " ORDER BY id"
)
_RUNNING: Final = "SELECT count(*) FROM sessions WHERE org_id = $1 AND phase IN ('pending', 'running') AND owner <> $2"
_WISH: Final = (
    "WITH made AS (INSERT INTO wishes (session_id, org_id, actor) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING)"
    " SELECT pg_notify($4::text, $1)"
)
_WISHES: Final = (
    "SELECT wishes.org_id, session_id, actor FROM wishes JOIN sessions ON id = session_id WHERE owner = $1"
    " ORDER BY made_at"
)
_HONOURED: Final = "DELETE FROM wishes WHERE session_id = $1"


class PostgresStore:
    """A Store, and Replicas. Use it from one event loop, and close it."""

    def __init__(self, database: Database, replica: str) -> None:
        self._database = database
        self._replica = replica
        self._writer = Writer(database, replica)
        self._heartbeat = Heartbeat(database, replica)
        self._feed = Feed(database)

    @classmethod
    async def open(cls, url: str, replica: str) -> Self:
        """The store in a database, whose tables are made or brought up to date, as one of those that share it.

        `replica` is a name that no other has that runs, and that this one had before: what is unsettled of a name is
        its to settle. Raises Unavailable, saying why.
        """
        database = await Database.open(url)
        try:
            await migrate(database)
            store = cls(database, replica)
            await store._heartbeat.start()
            store._feed.start()
        except BaseException:
            await database.close()
            raise
        return store

    def commit(self, change: Change) -> Awaitable[tuple[AuditEvent, ...]]:
        """Write a change, whole or not at all. Raises StaleSession, and Unavailable if the database does not answer or
        the queue is full; all of them when awaited."""
        return self._writer.put(Move(change))

    def note(self, key: str, event: AuditEvent) -> Awaitable[AuditEvent]:
        """Add an event that belongs to no session to its org's chain. Raises Conflict if it was added before."""
        return self._writer.put(Note(key, event))

    def bindings(self, key: bytes) -> PostgresBindings:
        """The service bindings in this database, their secrets sealed with a key of 32 bytes; closed with the store."""
        return PostgresBindings(self._writer, self._database, Vault(key))

    def tenancy(self) -> PostgresTenancy:
        """What orgs may have and use, in this database; closed with this store."""
        return PostgresTenancy(self._writer, self._database)

    def outbox(self, key: bytes) -> PostgresOutbox:
        """The webhooks in this database, their URLs sealed with a key of 32 bytes; closed with this store."""
        return PostgresOutbox(self._writer, self._database, Vault(key))

    def signing(self, key: bytes) -> PostgresSigning:
        """What webhooks are signed with, sealed with a key of 32 bytes, in this database; closed with this store."""
        return PostgresSigning(self._writer, self._database, Vault(key))

    async def get(self, org_id: str, session_id: str) -> Session:
        """One session, with its result. Raises NotFound."""
        rows = await self._database.fetch(_GET, session_id, org_id)
        if not rows:
            raise NotFound
        doc, result = rows[0]
        session = Session.model_validate_json(doc)
        if result is None:
            return session
        return session.model_copy(update={"result": SessionResult.model_validate_json(result)})

    async def find(
        self, org_id: str, wanted: Filter, *, before: str | None = None, limit: int = 50
    ) -> Sequence[Session]:
        """The org's sessions, newest first, without results; `before` excludes an id and all newer."""
        query, values = search(org_id, wanted, before)
        return _sessions(await self._database.fetch(query, *values, limit))

    async def trail(self, org_id: str, session_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[AuditEvent]:
        """The session's events with `seq` above `after`, oldest first. Raises NotFound."""
        events = _events(await self._database.fetch(_TRAIL, org_id, session_id, after, limit))
        if not events:
            await self.get(org_id, session_id)
        return events

    async def chain(self, org_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[AuditEvent]:
        """The org's events with `seq` above `after`, in their order."""
        return _events(await self._database.fetch(_CHAIN, org_id, after, limit))

    async def heads(self, after: int = 0) -> tuple[int, Sequence[Head]]:
        """Where the chains end that grew since a moment; all with 0. And the moment of this answer."""
        rows = await self._database.fetch(_HEADS, after)
        return rows[0][0], [Head(*row[1:]) for row in rows if row[1] is not None]

    async def claimed(self, org_id: str, key: str, since: datetime) -> Claimed | None:
        """Whom a key of an org's requests was taken by, if that was since then."""
        rows = await self._database.fetch(CLAIMED, org_id, key, since.timestamp())
        return Claimed(*rows[0]) if rows else None

    async def oldest(self, org_id: str, limit: int = 1000) -> Oldest:
        """The oldest entries of an org's chain, and the tombstone that they follow."""
        rows = await self._database.fetch(_OLDEST, org_id, limit)
        entries = [proof.Entry(body.encode(), digest) for _, body, digest in rows if body is not None]
        return Oldest(None if rows[0][0] is None else Checkpoint.model_validate_json(rows[0][0]), entries)

    def bury(self, tombstone: Checkpoint) -> Awaitable[None]:
        """Remove the entries of an org up to one, and keep what attests them. Raises Conflict."""
        return self._writer.put(Burial(tombstone))

    def forget(self, before: str, limit: int = 1000) -> Awaitable[Sequence[str]]:
        """Remove settled sessions of ids below one, the oldest first, none still to be posted; their events stay."""
        return self._writer.put(Forgetting(before, limit))

    async def check(self) -> None:
        """Read, and write so that it has to reach the disk. Raises Unavailable."""
        await self._database.fetch("SELECT FROM sessions LIMIT 1")
        await self._writer.put(Probe())

    async def unsettled(self) -> Sequence[Session]:
        """Every session, of any org, that is pending or running, and is this replica's or was one's that is gone."""
        values = (self._replica, self._heartbeat.may_judge, LEASE_SECONDS)
        return _sessions(await self._database.fetch(_UNSETTLED, *values))

    def changed(self, session_id: str) -> asyncio.Future[None]:
        """Done when a commit told of the session. It is shared: wait for it, never cancel it."""
        return self._feed.changed(session_id)

    async def running(self, org_id: str) -> int:
        """How many of an org's sessions others run."""
        count: int = (await self._database.fetch(_RUNNING, org_id, self._replica))[0][0]
        return count

    async def wish(self, wish: Wish) -> None:
        """Ask whoever runs the session to tear it down."""
        await self._database.fetch(_WISH, wish.session_id, wish.org_id, wish.actor, WISH_CHANNEL)

    async def wishes(self) -> Sequence[Wish]:
        """What this replica is asked to tear down."""
        return [Wish(*row) for row in await self._database.fetch(_WISHES, self._replica)]

    def wished(self) -> asyncio.Future[None]:
        """Done when there may be a new wish. It is shared: wait for it, never cancel it."""
        return self._feed.changed(WISH_CHANNEL)

    async def honoured(self, wish: Wish) -> None:
        """A wish is no more to be told of."""
        await self._database.fetch(_HONOURED, wish.session_id)

    async def close(self) -> None:
        """Write what is queued and release everything. What is committed later is refused."""
        await self._writer.close()
        await self._feed.close()
        with suppress(Unavailable):
            await self._heartbeat.close()
        await self._database.close()


def search(org_id: str, wanted: Filter, before: str | None) -> tuple[str, tuple[str | bytes, ...]]:
    """The query for a filter, and its values but for the limit."""
    values: list[str | bytes] = [org_id]

    def given(value: str | bytes) -> str:
        values.append(value)
        return f"${len(values)}"

    terms = ["sessions.org_id = $1"]
    terms += [_LABELLED.format(given(name.encode()), given(value.encode())) for name, value in wanted.labels.items()]
    terms += [] if wanted.phase is None else [f"phase = {given(wanted.phase.value)}"]
    terms += [] if before is None else [f"id < {given(before)}"]
    where, limit = " AND ".join(terms), len(values) + 1
    query = f"SELECT doc FROM sessions WHERE {where} ORDER BY id DESC LIMIT ${limit}"  # noqa: S608  values are bound
    return query, tuple(values)


_LABELLED: Final = (
    "EXISTS (SELECT FROM labels WHERE labels.org_id = $1 AND name = {} AND value = {} AND session_id = sessions.id)"
)


def _sessions(rows: Sequence[Any]) -> list[Session]:
    return [Session.model_validate_json(doc) for (doc,) in rows]


def _events(rows: Sequence[Any]) -> list[AuditEvent]:
    return [_EVENT.validate_json(body).model_copy(update={"digest": digest}) for body, digest in rows]
