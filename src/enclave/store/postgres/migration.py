"""The tables of a database, brought to the version that this Enclave knows, one numbered step after another."""

from importlib.resources import files
from typing import Any, Final

from enclave.contracts.errors import Unavailable
from enclave.store.postgres.database import FAILURES, Database

VERSION: Final = 1
"""The newest version; `schema-<n>.sql` makes n of n - 1."""

# One at a time, whoever starts: the others wait, and find it done. The number is no other program's, it is hoped.
_LOCK: Final = "SELECT pg_advisory_xact_lock(7310029001)"
_TABLE: Final = "CREATE TABLE enclave_versions (version int PRIMARY KEY, made_at timestamptz NOT NULL DEFAULT now())"
_NEWEST: Final = "SELECT coalesce(max(version), 0) FROM enclave_versions"
_MADE: Final = "INSERT INTO enclave_versions (version) VALUES ($1)"


async def migrate(database: Database) -> None:
    """Make the tables what they must be, all or nothing. Raises Unavailable, of a newer database by its version."""
    try:
        connection = await database.connect()
    except FAILURES as error:
        raise Unavailable(f"the database cannot be reached: {error}") from error
    try:
        async with connection.transaction():
            await _bring(connection)
    except FAILURES as error:
        raise Unavailable(f"the database's tables cannot be made: {error}") from error
    finally:
        connection.terminate()


async def _bring(connection: Any) -> None:
    # Others may be at work for longer than any other statement may take.
    await connection.execute("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
    await connection.execute(_LOCK, timeout=600)
    # Who may only use the tables may not make any, not even one that there is.
    if await connection.fetchval("SELECT to_regclass('enclave_versions')") is None:
        await connection.execute(_TABLE)
    version = await connection.fetchval(_NEWEST)
    if version > VERSION:
        raise Unavailable(f"the database has version {version}, made by a newer Enclave; this one knows {VERSION}")
    for number in range(version + 1, VERSION + 1):
        await connection.execute(_step(number), timeout=600)
        await connection.execute(_MADE, number)


def _step(number: int) -> str:
    return files("enclave.store.postgres").joinpath(f"schema-{number}.sql").read_text()
