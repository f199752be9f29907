"""Orgs, their members and the keys that speak for them."""

import math
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import Final, Protocol, Self

from enclave.contracts.audit import KeyCreated, OrgCreated
from enclave.contracts.identity import Role, Scope
from enclave.core.access import ROLES, lesser, ordered
from enclave.identity.database import Clock, Database
from enclave.identity.keys import scopes_of
from enclave.identity.outbox import post

BOOTSTRAP: Final = "bootstrap"
PLATFORM: Final = "platform"
FIRST_ORG: Final = "default"


@dataclass(frozen=True, slots=True)
class Member:
    """A user in an org."""

    org_id: str
    user_id: str
    role: Role


@dataclass(frozen=True, slots=True)
class Claim:
    """What a token says: who calls, and with which sign-in, if it says that."""

    member: Member
    sign_in: str | None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key: whose it is, what it may do, until when (POSIX seconds), and the hash of its secret. One of a member
    who was removed is `revoked` too; `disabled` is its org."""

    id: str
    member: Member
    hash: bytes = field(repr=False)
    scopes: frozenset[Scope] = frozenset(Scope)
    until: float = math.inf
    revoked: bool = False
    disabled: bool = False

    def in_force(self, now: float) -> bool:
        """Whether the key is one still, wherever its org is."""
        return not self.revoked and now < self.until


class Directory(Protocol):
    """Who belongs to which org, and with what keys. Every method raises Unavailable if it cannot be asked."""

    def owner(self, email: str) -> Member:
        """The member with this address, made the owner of an org of their own if there is none."""
        ...

    def add_key(self, record: KeyRecord) -> None:
        """Put a key in force that has all the rights of its member, made by the platform itself."""
        ...

    def find_hash(self, key_id: str) -> tuple[bytes, str] | None:
        """The hash of a key's secret, and its org."""
        ...

    def find_key(self, key_id: str) -> KeyRecord | None:
        """The key, whatever became of it; it may what both the key and its member may."""
        ...

    def standing(self, claim: "Claim") -> Role | None:
        """The role in which a token that says this may be used, None if it may not. What is known here counts; what is
        not was told by another issuer, and is taken as it is told."""
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

    def find_hash(self, key_id: str) -> tuple[bytes, str] | None:
        """The hash of a key's secret, and its org."""
        row = self._database.one("SELECT hash, org_id FROM api_keys WHERE id = ?", (key_id,))
        return (row[0], row[1]) if row else None

    def find_key(self, key_id: str) -> KeyRecord | None:
        """The key, whatever became of it; it may what both the key and its member may."""
        row = self._database.one(_FIND_KEY, (key_id,))
        if row is None:
            return None
        digest, org_id, user_id, role, standing, scopes, until, revoked, disabled = row
        member = Member(org_id, user_id, lesser(Role(role), Role(standing)))
        may = scopes_of(Role(role), scopes) & ROLES[Role(standing)]
        ends = math.inf if until is None else until
        return KeyRecord(key_id, member, digest, may, ends, bool(revoked), bool(disabled))

    def standing(self, claim: "Claim") -> Role | None:
        """The role in which a token that says this may be used, None if it may not."""
        member = claim.member
        values = (member.org_id, member.user_id, claim.sign_in)
        org, disabled, user, ended, role, removed = self._database.one(_STANDING, values)
        if disabled or ended or removed or (org and user and role is None):
            return None
        return member.role if role is None else lesser(member.role, Role(role))

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
        org_id, now = f"org_{token_hex(8)}", self._database.now()
        at = now.isoformat()
        with self._database.change() as connection:
            connection.execute("INSERT INTO orgs (id, name, created_at) VALUES (?, ?, ?)", (org_id, FIRST_ORG, at))
            post(connection, OrgCreated(ts=now, org_id=org_id, actor=PLATFORM, name=FIRST_ORG))
            # Who was removed from their org is known, and gets another one.
            connection.execute(_ADD_USER, (f"usr_{token_hex(8)}", email, at))
            (user_id,) = connection.execute("SELECT id FROM users WHERE email = ?", (email,)).fetchone()
            connection.execute(_ADD_MEMBER, (org_id, user_id, Role.OWNER, at))
        return Member(org_id, user_id, Role.OWNER)


_OWNER: Final = (
    "SELECT org_id, user_id, role FROM memberships JOIN users ON users.id = user_id"
    " JOIN orgs ON orgs.id = org_id"
    " WHERE email = ? AND role = 'owner' AND removed_at IS NULL AND disabled_at IS NULL ORDER BY org_id"
)
_ADD_USER: Final = "INSERT INTO users (id, email, created_at) VALUES (?, ?, ?) ON CONFLICT (email) DO NOTHING"
_ADD_MEMBER: Final = "INSERT INTO memberships (org_id, user_id, role, joined_at) VALUES (?, ?, ?, ?)"
_ADD_KEY: Final = "INSERT INTO api_keys (id, hash, org_id, user_id, role, created_at) VALUES (?, ?, ?, ?, ?, ?)"
_FIND_KEY: Final = (
    "SELECT hash, org_id, user_id, api_keys.role, memberships.role, scopes, expires_at,"
    " revoked_at IS NOT NULL OR removed_at IS NOT NULL, disabled_at IS NOT NULL"
    " FROM api_keys JOIN memberships USING (org_id, user_id) JOIN orgs ON orgs.id = org_id WHERE api_keys.id = ?"
)
_STANDING: Final = (
    "SELECT orgs.id, disabled_at, users.id, ended_at, role, removed_at FROM (SELECT ? AS org, ? AS user, ? AS sign_in)"
    " LEFT JOIN orgs ON orgs.id = org LEFT JOIN users ON users.id = user"
    " LEFT JOIN sign_ins ON sid = sign_in"
    " LEFT JOIN memberships AS m ON m.org_id = org AND m.user_id = user"
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
