"""Connections to one PostgreSQL database: how long anything may take, and what it is called when it fails."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Self

import asyncpg

from enclave.contracts.errors import InvalidRequest, Unavailable

READERS: Final = 8
"""The most connections that read."""

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 10.0
"""How long a statement may take, a wait for a connection to read with included."""

GONE: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    ConnectionError,
)
"""What asyncpg raises when a connection is gone: one that was idle may be since long ago, and nobody was told."""

FAILURES: Final = (*GONE, asyncpg.PostgresError, OSError, TimeoutError)
"""What asyncpg raises when a database does not do what it was asked to."""

# https://www.postgresql.org/docs/current/runtime-config-client.html. A control plane that is stopped amid a transaction
# holds its orgs' chains: the database lets go of them by itself. `synchronous_commit` is on, whatever the database's
# default is: what is acknowledged is durable.
_SETTINGS: Final[Mapping[str, str]] = {
    "application_name": "enclave",
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "10s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "jit": "off",
}


class Database:
    """A database by its URL. It can be gone and come back: connections are made when they are needed."""

    def __init__(self, url: str, pool: Any) -> None:
        self._url = url
        self._pool = pool

    @classmethod
    async def open(cls, url: str) -> Self:
        """The database, which must answer now. Raises Unavailable, and InvalidRequest for a URL that makes no sense."""
        try:
            # A pool of none connects to nothing yet.
            await (await asyncpg.connect(url, **_options())).close()
            return cls(url, await asyncpg.create_pool(url, min_size=0, max_size=READERS, reset=_nothing, **_options()))
        except ValueError:
            raise InvalidRequest("ENCLAVE_DATABASE_URL must be like postgresql://user:password@host/database") from None
        except FAILURES as error:
            raise Unavailable(f"the database cannot be reached: {_said(error)}") from None

    async def connect(self) -> Any:
        """A connection of one's own. Raises what asyncpg does."""
        return await asyncpg.connect(self._url, **_options())

    async def fetch(self, query: str, *values: object) -> list[Any]:
        """The rows that a query finds, which may be asked for twice. Raises Unavailable."""
        try:
            try:
                return await self._fetch(query, values)
            except GONE:
                return await self._fetch(query, values)
        except FAILURES as error:
            raise Unavailable("the database cannot be read") from error

    async def _fetch(self, query: str, values: tuple[object, ...]) -> list[Any]:
        async with self._pool.acquire(timeout=ANSWER_SECONDS) as connection:
            rows: list[Any] = await connection.fetch(query, *values)
            return rows

    async def close(self) -> None:
        """Let go of every connection."""
        try:
            await asyncio.wait_for(self._pool.close(), CONNECT_SECONDS)
        except FAILURES:
            self._pool.terminate()


def _options() -> dict[str, Any]:
    return {"timeout": CONNECT_SECONDS, "command_timeout": ANSWER_SECONDS, "server_settings": dict(_SETTINGS)}


async def _nothing(_: object) -> None:
    """Nobody changes the state of a lent connection, so there is nothing to be put back."""


def _said(error: BaseException) -> str:
    # Not the URL, which has a password in it.
    return str(error).split("\n", 1)[0] or type(error).__name__
