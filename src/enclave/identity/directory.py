"""Orgs, their members and their API keys, in an SQLite file of their own."""

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from secrets import token_hex
from typing import Any, Final, Protocol, Self

from enclave.contracts.errors import Unavailable
from enclave.contracts.identity import Role
from enclave.core.access import lesser

SCHEMA_VERSION: Final = 1

Clock = Callable[[], datetime]
_Values = tuple[str | bytes, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """A user in an org."""

    org_id: str
    user_id: str
    role: Role


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key that is in force: whose it is, what it may do, and the hash of its secret."""

    id: str
    member: Member
    hash: bytes = field(repr=False)


class Directory(Protocol):
    """Who belongs to which org, and with what keys. Every method raises Unavailable if it cannot be asked."""

    def owner(self, email: str) -> Member:
        """The member with this address, made the owner of an org of their own if there is none."""
        ...

    def add_key(self, record: KeyRecord) -> None:
        """Put a key in force."""
        ...

    def find_key(self, key_id: str) -> KeyRecord | None:
        """The key, if it is in force and its member still is one; its role is the lesser of the key's and theirs."""
        ...

    def revoke_key(self, key_id: str) -> None:
        """Put a key out of force for good. Idempotent."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


class SqliteDirectory:
    """A Directory in a file that only its owner can read."""

    def __init__(self, connection: sqlite3.Connection, now: Clock) -> None:
        self._connection = connection
        self._now = now

    @classmethod
    def open(cls, path: Path, now: Clock) -> Self:
        """The directory in this file, which is made if there is none. Raises Unavailable, saying why."""
        try:
            return cls(_connect(path), now)
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"{path} cannot be used as a database: {error}") from error

    def owner(self, email: str) -> Member:
        """The member with this address, made the owner of an org of their own if there is none."""
        row = self._one(_OWNER, (email,))
        return Member(row[0], row[1], Role(row[2])) if row else self._found_org(email)

    def add_key(self, record: KeyRecord) -> None:
        """Put a key in force."""
        member = record.member
        self._write((_ADD_KEY, (record.id, record.hash, member.org_id, member.user_id, member.role, self._stamp())))

    def find_key(self, key_id: str) -> KeyRecord | None:
        """The key, if it is in force and its member still is one; its role is the lesser of the key's and theirs."""
        row = self._one(_FIND_KEY, (key_id,))
        return KeyRecord(key_id, Member(row[1], row[2], lesser(Role(row[3]), Role(row[4]))), row[0]) if row else None

    def revoke_key(self, key_id: str) -> None:
        """Put a key out of force for good. Idempotent."""
        self._write((_REVOKE_KEY, (self._stamp(), key_id)))

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def _found_org(self, email: str) -> Member:
        member = Member(f"org_{token_hex(8)}", f"usr_{token_hex(8)}", Role.OWNER)
        self._write(
            ("INSERT INTO orgs (id, created_at) VALUES (?, ?)", (member.org_id, self._stamp())),
            ("INSERT INTO users (id, email, created_at) VALUES (?, ?, ?)", (member.user_id, email, self._stamp())),
            (
                "INSERT INTO memberships (org_id, user_id, role) VALUES (?, ?, ?)",
                (member.org_id, member.user_id, member.role),
            ),
        )
        return member

    def _one(self, query: str, values: _Values) -> Any:
        try:
            return self._connection.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise Unavailable("the identity database cannot be read") from error

    def _write(self, *statements: tuple[str, _Values]) -> None:
        try:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                for statement in statements:
                    self._connection.execute(*statement)
        except sqlite3.Error as error:
            raise Unavailable("the identity database cannot be written") from error

    def _stamp(self) -> str:
        return self._now().isoformat()


_OWNER: Final = (
    "SELECT org_id, user_id, role FROM memberships JOIN users ON users.id = user_id"
    " WHERE email = ? AND role = 'owner' ORDER BY org_id"
)
_ADD_KEY: Final = "INSERT INTO api_keys (id, hash, org_id, user_id, role, created_at) VALUES (?, ?, ?, ?, ?, ?)"
_FIND_KEY: Final = (
    "SELECT hash, org_id, user_id, api_keys.role, memberships.role"
    " FROM api_keys JOIN memberships USING (org_id, user_id) WHERE id = ? AND revoked_at IS NULL"
)
_REVOKE_KEY: Final = "UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?"


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
    )
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise Unavailable(f"the database is of a newer Enclave (version {version}; this one knows {SCHEMA_VERSION})")
    if version < SCHEMA_VERSION:
        schema = files("enclave.identity").joinpath("schema.sql").read_text()
        connection.executescript(f"BEGIN EXCLUSIVE; {schema} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")
