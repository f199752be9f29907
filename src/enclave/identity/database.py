"""The SQLite file of the identity authority: opened privately, brought up to date, written in transactions."""

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Self

from enclave.contracts.errors import Unavailable

_VERSIONS: Final = ("schema.sql", "schema-2.sql", "schema-3.sql", "schema-4.sql", "schema-5.sql")
"""What makes version 1, what makes version 2 of it, and so on."""

SCHEMA_VERSION: Final = len(_VERSIONS)

Clock = Callable[[], datetime]
Value = str | bytes | float | None


class Database:
    """A file that only its owner can read. Every method raises Unavailable if it cannot be asked."""

    def __init__(self, connection: sqlite3.Connection, now: Clock) -> None:
        self._connection = connection
        self.now = now

    @classmethod
    def open(cls, path: Path, now: Clock) -> Self:
        """The database in this file, which is made if there is none. Raises Unavailable, saying why."""
        try:
            return cls(_connect(path), now)
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"{path} cannot be used as a database: {error}") from error

    def one(self, query: str, values: Sequence[Value]) -> Any:
        """The first row that fits, None if none does."""
        try:
            return self._connection.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise Unavailable("the identity database cannot be read") from error

    def all(self, query: str, values: Sequence[Value]) -> list[Any]:
        """All rows that fit."""
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise Unavailable("the identity database cannot be read") from error

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """A transaction: what is read in it holds until it is over, and what is written in it is written whole, or not
        at all if it raises. Do not await in it."""
        try:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
        except sqlite3.Error as error:
            raise Unavailable("the identity database cannot be written") from error

    def stamp(self) -> str:
        """The moment, as it is stored."""
        return self.now().isoformat()

    def close(self) -> None:
        """Release the file."""
        self._connection.close()


def _connect(path: Path) -> sqlite3.Connection:
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
        "PRAGMA secure_delete = ON;"
    )
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise Unavailable(f"the database is of a newer Enclave (version {version}; this one knows {SCHEMA_VERSION})")
    for number, name in enumerate(_VERSIONS[version:], version + 1):
        schema = files("enclave.identity").joinpath(name).read_text()
        connection.executescript(f"BEGIN EXCLUSIVE; {schema} PRAGMA user_version = {number}; COMMIT")
