"""Sessions and their audit trails in one SQLite file.

Changes queue for one thread, which commits all that have gathered in one transaction: each is on the disk before it is
answered, and a crowd of them costs no more of the disk than one. Reads go past it, on connections of their own.
"""

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Final, Self

from pydantic import TypeAdapter

from enclave.contracts.audit import AuditEvent
from enclave.contracts.checkpoint import Checkpoint
from enclave.contracts.errors import NotFound, Unavailable
from enclave.contracts.sessions import Session, SessionResult
from enclave.core import proof
from enclave.core.claim import Claimed
from enclave.core.session import Change
from enclave.store.base import Filter, Head, Oldest
from enclave.store.binding import SqliteBindings
from enclave.store.note import Note, Probe
from enclave.store.outbox import SqliteOutbox
from enclave.store.reader import Readers
from enclave.store.removal import Burial, Forgetting
from enclave.store.session import CLAIMED, SessionWrite
from enclave.store.signing import SqliteSigning
from enclave.store.tenancy import SqliteTenancy
from enclave.store.vault import Vault
from enclave.store.writer import Writer

SCHEMA_VERSION: Final = 7
_FREED: Final = 5
"""The last version in which events could not outlive their sessions."""

_EVENT: Final = TypeAdapter[AuditEvent](AuditEvent)

# By the index that has the org in it: another org's session is looked for no longer than one that there is not.
_ONE: Final = "FROM sessions INDEXED BY sessions_of_org WHERE org_id = ? AND id = ?"
_GET: Final = f"SELECT doc, result {_ONE}"
_IS_THERE: Final = f"SELECT 1 {_ONE}"
_UNSETTLED: Final = "SELECT doc FROM sessions WHERE phase IN ('pending', 'running') ORDER BY id"
_TRAIL: Final = "SELECT body, digest FROM audit WHERE org_id = ? AND session_id = ? AND seq > ? ORDER BY seq LIMIT ?"
_CHAIN: Final = "SELECT body, digest FROM audit WHERE org_id = ? AND seq > ? ORDER BY seq LIMIT ?"
_MOMENT: Final = "SELECT coalesce(max(rowid), 0) FROM audit"
# Of the columns beside max() SQLite answers those of the row that has it (lang_select, "Bare columns in an aggregate").
_GROWN: Final = "SELECT org_id, seq, digest, max(rowid) FROM audit WHERE rowid > ? AND rowid <= ? GROUP BY org_id"
# From org to org by the key, past all that is between.
_ALL_HEADS: Final = (
    "WITH RECURSIVE orgs (id) AS (SELECT min(org_id) FROM audit UNION ALL"
    " SELECT (SELECT min(org_id) FROM audit WHERE org_id > orgs.id) FROM orgs WHERE orgs.id IS NOT NULL)"
    " SELECT org_id, seq, digest FROM orgs JOIN audit ON org_id = orgs.id"
    " AND seq = (SELECT max(seq) FROM audit WHERE org_id = orgs.id AND rowid <= ?)"
)
_LAST_TOMBSTONE: Final = "SELECT doc FROM tombstones WHERE org_id = ? ORDER BY seq DESC LIMIT 1"
_LABELLED: Final = (
    "EXISTS (SELECT 1 FROM labels WHERE org_id = ? AND name = ? AND value = ? AND session_id = first.session_id)"
)
# By the index in which an org's sessions lie side by side: in that of all ids each would be on another page.
_JOINED: Final = (
    "labels AS first CROSS JOIN sessions INDEXED BY sessions_of_org"
    " ON sessions.org_id = first.org_id AND sessions.id = first.session_id"
)

_Term = tuple[str, tuple[str, ...]]


class SqliteStore:
    """A Store in a file that only its owner can read. Use it from one event loop, and close it."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

    @classmethod
    def open(cls, path: Path) -> Self:
        """The store in this file, which is made if there is none. Raises Unavailable, saying why."""
        try:
            return cls(Writer(_writable(path)), Readers(path))
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"{path} cannot be used as a database: {error}") from error

    def commit(self, change: Change) -> Awaitable[tuple[AuditEvent, ...]]:
        """Write a change, whole or not at all. Raises StaleSession, and Unavailable if the disk or the queue is full;
        all of them when awaited."""
        return self._writer.put(SessionWrite(change))

    async def claimed(self, org_id: str, key: str, since: datetime) -> Claimed | None:
        """Whom a key of an org's requests was taken by, if that was since then."""
        return await self._readers.run(lambda connection: _claimed(connection, (org_id, key, since.timestamp())))

    def note(self, key: str, event: AuditEvent) -> Awaitable[AuditEvent]:
        """Add an event that belongs to no session to its org's chain. Raises Conflict if it was added before."""
        return self._writer.put(Note(key, event))

    def bindings(self, key: bytes) -> SqliteBindings:
        """The service bindings in this file, their secrets sealed with a key of 32 bytes; closed with this store."""
        return SqliteBindings(self._writer, self._readers, Vault(key))

    def tenancy(self) -> SqliteTenancy:
        """What orgs may have and use, in this file; closed with this store."""
        return SqliteTenancy(self._writer, self._readers)

    def outbox(self, key: bytes) -> SqliteOutbox:
        """The webhooks in this file, their URLs sealed with a key of 32 bytes; closed with this store."""
        return SqliteOutbox(self._writer, self._readers, Vault(key))

    def signing(self, key: bytes) -> SqliteSigning:
        """What webhooks are signed with, sealed with a key of 32 bytes, in this file; closed with this store."""
        return SqliteSigning(self._writer, self._readers, Vault(key))

    async def get(self, org_id: str, session_id: str) -> Session:
        """One session, with its result. Raises NotFound."""
        return await self._readers.run(lambda connection: _get(connection, org_id, session_id))

    async def find(
        self, org_id: str, wanted: Filter, *, before: str | None = None, limit: int = 50
    ) -> Sequence[Session]:
        """The org's sessions, newest first, without results; `before` excludes an id and all newer."""
        query, values = _search(org_id, wanted, before)
        return await self._readers.run(lambda connection: _sessions(connection, query, (*values, limit)))

    async def trail(self, org_id: str, session_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[AuditEvent]:
        """The session's events with `seq` above `after`, oldest first. Raises NotFound."""
        key = (org_id, session_id)
        return await self._readers.run(lambda connection: _trail(connection, key, after, limit))

    async def chain(self, org_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[AuditEvent]:
        """The org's events with `seq` above `after`, in their order."""
        return await self._readers.run(lambda connection: _events(connection, _CHAIN, (org_id, after, limit)))

    async def heads(self, after: int = 0) -> tuple[int, Sequence[Head]]:
        """Where the chains end that grew since a moment; all with 0. And the moment of this answer."""
        return await self._readers.run(lambda connection: _heads(connection, after))

    async def oldest(self, org_id: str, limit: int = 1000) -> Oldest:
        """The oldest entries of an org's chain, and the tombstone that they follow."""
        return await self._readers.run(lambda connection: _oldest(connection, org_id, limit))

    def bury(self, tombstone: Checkpoint) -> Awaitable[None]:
        """Remove the entries of an org up to one, and keep what attests them. Raises Conflict."""
        return self._writer.put(Burial(tombstone))

    def forget(self, before: str, limit: int = 1000) -> Awaitable[Sequence[str]]:
        """Remove settled sessions of ids below one, the oldest first, none still to be posted; their events stay."""
        return self._writer.put(Forgetting(before, limit))

    async def unsettled(self) -> Sequence[Session]:
        """Every session, of any org, that is pending or running."""
        return await self._readers.run(lambda connection: _sessions(connection, _UNSETTLED, ()))

    async def check(self) -> None:
        """Read, and write so that it has to reach the disk. Raises Unavailable."""
        await self._readers.run(lambda connection: connection.execute("SELECT 1 FROM sessions LIMIT 1").fetchone())
        await self._writer.put(Probe())

    async def close(self) -> None:
        """Write what is queued and release everything. What is committed later is refused."""
        await asyncio.to_thread(self._readers.close)
        await asyncio.to_thread(self._writer.close)


def _writable(path: Path) -> sqlite3.Connection:
    # SQLite gives its side files the mode of the database; made first here, it is at no time open to others.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    connection.executescript(
        "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"
        "PRAGMA cache_size = -16384; PRAGMA wal_autocheckpoint = 4000; PRAGMA secure_delete = ON;"
    )
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise Unavailable(
            f"the database has version {version}, made by a newer Enclave; this one knows {SCHEMA_VERSION}"
        )
    if version < SCHEMA_VERSION:
        names = ("schema.sql",) if version == 0 or version > _FREED else ("schema-6.sql", "schema.sql")
        schema = " ".join(files("enclave.store").joinpath(name).read_text() for name in names)
        connection.executescript(f"BEGIN EXCLUSIVE; {schema} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")


def _claimed(connection: sqlite3.Connection, key: tuple[str, str, float]) -> Claimed | None:
    row = connection.execute(CLAIMED, key).fetchone()
    return None if row is None else Claimed(*row)


def _get(connection: sqlite3.Connection, org_id: str, session_id: str) -> Session:
    row = connection.execute(_GET, (org_id, session_id)).fetchone()
    if row is None:
        raise NotFound
    session = Session.model_validate_json(row[0])
    if row[1] is None:
        return session
    return session.model_copy(update={"result": SessionResult.model_validate_json(row[1])})


def _sessions(connection: sqlite3.Connection, query: str, values: tuple[str | int, ...]) -> list[Session]:
    return [Session.model_validate_json(doc) for (doc,) in connection.execute(query, values)]


def _trail(connection: sqlite3.Connection, key: tuple[str, str], after: int, limit: int) -> list[AuditEvent]:
    # First, and not where no event is found: the more there are of another org's session, the longer that would take.
    if connection.execute(_IS_THERE, key).fetchone() is None:
        raise NotFound
    return _events(connection, _TRAIL, (*key, after, limit))


def _events(connection: sqlite3.Connection, query: str, values: tuple[str | int, ...]) -> list[AuditEvent]:
    rows = connection.execute(query, values).fetchall()
    return [_EVENT.validate_json(body).model_copy(update={"digest": digest}) for body, digest in rows]


def _heads(connection: sqlite3.Connection, after: int) -> tuple[int, list[Head]]:
    (moment,) = connection.execute(_MOMENT).fetchone()
    rows = connection.execute(_GROWN, (after, moment)) if after else connection.execute(_ALL_HEADS, (moment,))
    return moment, [Head(*row[:3]) for row in rows]


def _oldest(connection: sqlite3.Connection, org_id: str, limit: int) -> Oldest:
    row = connection.execute(_LAST_TOMBSTONE, (org_id,)).fetchone()
    entries = [proof.Entry(body.encode(), digest) for body, digest in connection.execute(_CHAIN, (org_id, 0, limit))]
    return Oldest(None if row is None else Checkpoint.model_validate_json(row[0]), entries)


def _search(org_id: str, wanted: Filter, before: str | None) -> tuple[str, tuple[str, ...]]:
    """The query for a filter, and its values but for the limit."""
    source, key, terms = _source(org_id, tuple(wanted.labels.items()))
    terms += [] if wanted.phase is None else [("sessions.phase = ?", (wanted.phase.value,))]
    terms += [] if before is None else [(f"{key} < ?", (before,))]
    where = " AND ".join(term for term, _ in terms)
    values = tuple(value for _, given in terms for value in given)
    return f"SELECT doc FROM {source} WHERE {where} ORDER BY {key} DESC LIMIT ?", values  # noqa: S608  values are bound


def _source(org_id: str, labels: tuple[tuple[str, str], ...]) -> tuple[str, str, list[_Term]]:
    # Walking the first label's sessions in their order is quick whether all of the org's sessions have it or one.
    if not labels:
        return "sessions", "sessions.id", [("sessions.org_id = ?", (org_id,))]
    first = ("first.org_id = ? AND first.name = ? AND first.value = ?", (org_id, *labels[0]))
    rest = [(_LABELLED, (org_id, *label)) for label in labels[1:]]
    return _JOINED, "first.session_id", [first, *rest]
