"""Orgs, their members and the keys that speak for them."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import Final, Protocol, Self

from enclave.contracts.audit import KeyCreated
from enclave.contracts.identity import Role, Scope
from enclave.core.access import ROLES, lesser, ordered
from enclave.identity.database import Clock, Database
from enclave.identity.keys import scopes_of
from enclave.identity.outbox import post

BOOTSTRAP: Final = "bootstrap"
PLATFORM: Final = "platform"


@dataclass(frozen=True, slots=True)
class Member:
    """A user in an org."""

    org_id: str
    user_id: str
    role: Role


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key that is not revoked: whose it is, what it may do, until when, and the hash of its secret."""

    id: str
    member: Member
    hash: bytes = field(repr=False)
    scopes: frozenset[Scope] = frozenset(Scope)
    until: float | None = None


class Directory(Protocol):
    """Who belongs to which org, and with what keys. Every method raises Unavailable if it cannot be asked."""

    def owner(self, email: str) -> Member:
        """The member with this address, made the owner of an org of their own if there is none."""
        ...

    def add_key(self, record: KeyRecord) -> None:
        """Put a key in force that has all the rights of its member, made by the platform itself."""
        ...

    def find_key(self, key_id: str) -> KeyRecord | None:
        """The key, if it is not revoked and its member still is one; it may what both the key and its member may."""
        ...

    def revoke_key(self, key_id: str) -> None:
        """Put a key out of force for good. Idempotent."""
        ...

    def find_operator(self, key_id: str) -> bytes | None:
        """The hash of the operator's credential, if this is its id."""
        ...

    def replace_operator(self, key_id: str, digest: bytes) -> None:
        """Put a credential of the operator's in force, and the one before out of it."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


class SqliteDirectory:
    """A Directory in the identity authority's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, path: Path, now: Clock) -> Self:
        """The directory in this file, which is made if there is none. Raises Unavailable, saying why."""
        return cls(Database.open(path, now))

    def owner(self, email: str) -> Member:
        """The member with this address, made the owner of an org of their own if there is none."""
        row = self._database.one(_OWNER, (email,))
        return Member(row[0], row[1], Role(row[2])) if row else self._found_org(email)

    def add_key(self, record: KeyRecord) -> None:
        """Put a key in force, with its event."""
        member, now = record.member, self._database.now()
        row = (record.id, record.hash, member.org_id, member.user_id, member.role, now.isoformat())
        with self._database.change() as connection:
            connection.execute(_ADD_KEY, row)
            post(connection, _event(record, now))

    def find_key(self, key_id: str) -> KeyRecord | None:
        """The key, if it is not revoked and its member still is one; it may what both the key and its member may."""
        row = self._database.one(_FIND_KEY, (key_id,))
        if row is None:
            return None
        digest, org_id, user_id, role, standing, scopes, until = row
        member = Member(org_id, user_id, lesser(Role(role), Role(standing)))
        return KeyRecord(key_id, member, digest, scopes_of(Role(role), scopes) & ROLES[Role(standing)], until)

    def revoke_key(self, key_id: str) -> None:
        """Put a key out of force for good. Idempotent."""
        with self._database.change() as connection:
            connection.execute(_REVOKE_KEY, (self._database.stamp(), key_id))

    def find_operator(self, key_id: str) -> bytes | None:
        """The hash of the operator's credential, if this is its id."""
        row = self._database.one("SELECT hash FROM operator WHERE id = ?", (key_id,))
        return row[0] if row else None

    def replace_operator(self, key_id: str, digest: bytes) -> None:
        """Put a credential of the operator's in force, and the one before out of it."""
        with self._database.change() as connection:
            connection.execute("DELETE FROM operator")
            row = (key_id, digest, self._database.stamp())
            connection.execute("INSERT INTO operator (id, hash, created_at) VALUES (?, ?, ?)", row)

    def close(self) -> None:
        """Release the file."""
        self._database.close()

    def _found_org(self, email: str) -> Member:
        org_id, at = f"org_{token_hex(8)}", self._database.stamp()
        with self._database.change() as connection:
            connection.execute("INSERT INTO orgs (id, created_at) VALUES (?, ?)", (org_id, at))
            # Who was removed from their org is known, and gets another one.
            connection.execute(_ADD_USER, (f"usr_{token_hex(8)}", email, at))
            (user_id,) = connection.execute("SELECT id FROM users WHERE email = ?", (email,)).fetchone()
            connection.execute(_ADD_MEMBER, (org_id, user_id, Role.OWNER, at))
        return Member(org_id, user_id, Role.OWNER)


_OWNER: Final = (
    "SELECT org_id, user_id, role FROM memberships JOIN users ON users.id = user_id"
    " WHERE email = ? AND role = 'owner' AND removed_at IS NULL ORDER BY org_id"
)
_ADD_USER: Final = "INSERT INTO users (id, email, created_at) VALUES (?, ?, ?) ON CONFLICT (email) DO NOTHING"
_ADD_MEMBER: Final = "INSERT INTO memberships (org_id, user_id, role, joined_at) VALUES (?, ?, ?, ?)"
_ADD_KEY: Final = "INSERT INTO api_keys (id, hash, org_id, user_id, role, created_at) VALUES (?, ?, ?, ?, ?, ?)"
_FIND_KEY: Final = (
    "SELECT hash, org_id, user_id, api_keys.role, memberships.role, scopes, expires_at"
    " FROM api_keys JOIN memberships USING (org_id, user_id) WHERE id = ? AND revoked_at IS NULL AND removed_at IS NULL"
)
_REVOKE_KEY: Final = "UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?"


def _event(record: KeyRecord, at: datetime) -> KeyCreated:
    role = record.member.role
    return KeyCreated(
        ts=at,
        org_id=record.member.org_id,
        session_id=None,
        actor=PLATFORM,
        key_id=record.id,
        name=BOOTSTRAP,
        role=role,
        scopes=ordered(ROLES[role]),
        expires_at=None,
    )
