"""An audit trail read from a PostgreSQL database, to be examined without a server, or exported."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from enclave.contracts.checkpoint import Checkpoint
from enclave.contracts.errors import NotFound, Unavailable
from enclave.core.proof import Entry, Flaw
from enclave.store.examination import BESIDE, LAST_TOMBSTONES, believed
from enclave.store.postgres.database import CONNECT_SECONDS, FAILURES, Database
from enclave.store.postgres.migration import VERSION

_PART: Final = 5000
_NEWEST: Final = "SELECT max(version) FROM enclave_versions"
_ENTRIES: Final = (
    "SELECT body, digest, org_id, seq, session_id, type, ts, previous FROM audit"
    " WHERE $1::text IS NULL OR org_id = $1 ORDER BY org_id, seq"
)


def stored(url: str, org_id: str | None = None) -> Iterator[Entry]:
    """The entries in a database, of one org or of all, as they are at one moment; servers may be using it. Raises
    NotFound if there is no trail, and Unavailable, saying why, if it cannot be read."""
    with asyncio.Runner() as runner:
        connection = runner.run(_connection(url))
        try:
            cursor = runner.run(_cursor(connection, org_id))
            while rows := runner.run(cursor.fetch(_PART)):
                yield from map(_entry, rows)
        except FAILURES as error:
            raise Unavailable(f"the database cannot be read: {error}") from error
        finally:
            with suppress(*FAILURES):
                runner.run(connection.close(timeout=CONNECT_SECONDS))


def tombstones(url: str, public_key: str | None) -> list[Checkpoint | Flaw]:
    """The tombstones in a database, the last of each org; in place of one that is none, or was not signed by the holder
    of the key, if one is given, a flaw. Raises as `stored` does."""
    return believed(asyncio.run(_tombstones(url)), public_key)


async def _tombstones(url: str) -> list[tuple[str, int, str]]:
    connection = await _connection(url)
    try:
        await _check(connection)
        return [(row[0], row[1], row[2]) for row in await connection.fetch(LAST_TOMBSTONES)]
    except FAILURES as error:
        raise Unavailable(f"the database cannot be read: {error}") from error
    finally:
        await connection.close()


async def _connection(url: str) -> Any:
    database = await Database.open(url)
    connection = await database.connect()
    await database.close()
    return connection


async def _check(connection: Any) -> None:
    if await connection.fetchval("SELECT to_regclass('enclave_versions')") is None:
        raise NotFound("there is no audit trail in the database")
    version = await connection.fetchval(_NEWEST)
    if version > VERSION:
        raise Unavailable(f"the database has version {version}, made by a newer Enclave; this one knows {VERSION}")


async def _cursor(connection: Any, org_id: str | None) -> Any:
    await _check(connection)
    # One moment, and every row of it: also a second one where a key ought to forbid it.
    await connection.transaction(isolation="repeatable_read", readonly=True).start()
    return await connection.cursor(_ENTRIES, org_id, timeout=600)


def _entry(row: Any) -> Entry:
    body, digest, *beside = row
    return Entry(body.encode(), digest, dict(zip(BESIDE, beside, strict=True)))
