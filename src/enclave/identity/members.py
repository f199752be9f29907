"""Members of an org: asked in, listed, changed and removed by those who may."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from typing import Any, Final

from enclave.contracts.audit import MemberChanged, MemberInvited, MemberJoined, MemberRemoved
from enclave.contracts.errors import Conflict, FieldProblem, Forbidden, InvalidRequest, NotFound, Unauthenticated
from enclave.contracts.identity import Principal, Role
from enclave.contracts.members import (
    MIN_PASSWORD,
    AcceptInvitation,
    ChangeMember,
    Invitation,
    Invite,
    Member,
    Tokens,
)
from enclave.contracts.operations import CHANGE_MEMBER, CREATE_INVITATION, LIST_MEMBERS, REMOVE_MEMBER
from enclave.contracts.wire import Page
from enclave.core.access import ROLES, authorize
from enclave.core.cursor import check_limit, cut, member_cursor, member_of_cursor
from enclave.identity.apikey import NO_HASH, ApiKey, new_api_key, parse
from enclave.identity.database import Database
from enclave.identity.outbox import Outbox, post
from enclave.identity.sign_in import Account, Seat, SignIns
from enclave.identity.standing import standing

INVITATION: Final = "ei"
MAX_OPEN: Final = 1000
"""The most invitations of an org that wait to be accepted."""


@dataclass(frozen=True, slots=True)
class _Open:
    """An invitation that holds."""

    org_id: str
    email: str
    role: Role


class EmbeddedMembers:
    """The members of every org."""

    def __init__(self, database: Database, outbox: Outbox, sign_ins: SignIns, pepper: bytes) -> None:
        self._database = database
        self._outbox = outbox
        self._sign_ins = sign_ins
        self._pepper = pepper
        self._forget: Callable[[], None] = lambda: None

    def on_change(self, forget: Callable[[], None]) -> None:
        """Call this whenever what a member may has changed."""
        self._forget = forget

    async def list(self, principal: Principal, *, cursor: str | None = None, limit: int = 50) -> Page[Member]:
        """The org's members, by id."""
        authorize(principal, LIST_MEMBERS)
        check_limit(limit)
        rows = self._database.all(_LIST, (principal.org_id, member_of_cursor(cursor), limit + 1))
        items, last = cut([_member(row) for row in rows], limit)
        return Page[Member](items=tuple(items), next_cursor=member_cursor(last.id) if last else None)

    async def change(self, principal: Principal, user_id: str, asked: ChangeMember) -> Member:
        """Give a member another role. Raises NotFound, Forbidden where either role may more than the principal, and
        Conflict if no owner were left."""
        authorize(principal, CHANGE_MEMBER)
        with self._database.change() as connection:
            now = standing(connection, principal, CHANGE_MEMBER).principal
            _check_reach(now, asked.role)
            was = _within_reach(connection, now, user_id)
            if was.role is not asked.role:
                connection.execute(_CHANGE, (asked.role, principal.org_id, user_id))
                _check_owned(connection, principal.org_id)
                post(connection, MemberChanged(**self._told(principal), user_id=user_id, was=was.role, role=asked.role))
        await self._settle()
        return was.model_copy(update={"role": asked.role})

    async def remove(self, principal: Principal, user_id: str) -> Member:
        """Remove a member, with their keys and sign-ins; the answer is what they were. Raises as `change` does."""
        authorize(principal, REMOVE_MEMBER)
        with self._database.change() as connection:
            was = _within_reach(connection, standing(connection, principal, REMOVE_MEMBER).principal, user_id)
            stamp, whose = self._database.stamp(), (principal.org_id, user_id)
            for statement in _REMOVE:
                connection.execute(statement, (stamp, *whose))
            _check_owned(connection, principal.org_id)
            post(connection, MemberRemoved(**self._told(principal), user_id=user_id, was=was.role))
        await self._settle()
        return was

    async def invite(self, principal: Principal, asked: Invite) -> Invitation:
        """Ask somebody in. Raises Forbidden for a role that may more than the principal, and Conflict for too many."""
        authorize(principal, CREATE_INVITATION)
        fresh, now = new_api_key(INVITATION), self._database.now()
        until = now + timedelta(hours=asked.hours)
        email, whose = asked.email.lower(), (principal.org_id, principal.user_id)
        with self._database.change() as connection:
            _check_reach(standing(connection, principal, CREATE_INVITATION).principal, asked.role)
            connection.execute("DELETE FROM invitations WHERE expires_at <= ?", (now.timestamp(),))
            if connection.execute(_WAITING, (principal.org_id,)).fetchone()[0] >= MAX_OPEN:
                raise Conflict(f"an org has at most {MAX_OPEN} invitations that wait")
            row = (fresh.id, fresh.hash(self._pepper), *whose, email, asked.role, until.timestamp())
            connection.execute(_INVITE, row)
            post(connection, MemberInvited(**self._told(principal), invitation_id=fresh.id, role=asked.role))
        await self._settle()
        return Invitation(id=fresh.id, email=email, role=asked.role, expires_at=until, code=str(fresh))

    async def accept(self, asked: AcceptInvitation, address: str) -> Tokens:
        """Join an org and sign in to it, with an account that there is or a new one. Raises Unauthenticated for a code
        that does not pass, or a password that is not that of the account, InvalidRequest for one too short for a new
        account, and Conflict for one who is a member."""
        code = parse(asked.code.get_secret_value(), INVITATION)
        if code is None:
            raise Unauthenticated
        invitation = self._open(code)
        account = await self._account(invitation.email, asked.password.get_secret_value(), address)
        with self._database.change() as connection:
            # While the password was hashed another may have used it.
            if not connection.execute(_USE, (self._database.stamp(), code.id)).rowcount:
                raise Unauthenticated
            account = self._join(connection, invitation, account)
            told = {**self._told_by(invitation.org_id, account.user_id), "invitation_id": code.id}
            post(connection, MemberJoined(**told, role=invitation.role))
        await self._settle()
        return await self._sign_ins.begin(account, Seat(invitation.org_id, invitation.role))

    def _open(self, code: ApiKey) -> _Open:
        row = self._database.one(_OPEN, (code.id, self._database.now().timestamp()))
        if not code.has_hash(row[0] if row else NO_HASH, self._pepper) or row is None:
            raise Unauthenticated
        return _Open(row[1], row[2], Role(row[3]))

    async def _account(self, email: str, password: str, address: str) -> Account:
        """The account, or what a new one is to be, which has no id yet."""
        row = self._database.one("SELECT password FROM users WHERE email = ?", (email,))
        if row is not None and row[0] is not None:
            account = await self._sign_ins.check(email, password, address)
            if account is None:
                raise Unauthenticated
            return account
        if len(password) < MIN_PASSWORD:
            message = f"must have at least {MIN_PASSWORD} characters"
            raise InvalidRequest("the password is too short", errors=(FieldProblem(field="password", message=message),))
        return Account("", email, await self._sign_ins.passwords.hash(password))

    def _join(self, connection: sqlite3.Connection, invitation: _Open, account: Account) -> Account:
        stamp = self._database.stamp()
        if not account.user_id:
            made = (f"usr_{token_hex(8)}", account.email, account.password, stamp)
            connection.execute(_NEW_USER, made)
            found = connection.execute("SELECT id FROM users WHERE email = ?", (account.email,)).fetchone()
            account = Account(found[0], account.email, None)
        joined = (invitation.org_id, account.user_id, invitation.role, stamp)
        if not connection.execute(_JOIN, joined).rowcount:
            raise Conflict("you are a member of this org")
        return account

    async def _settle(self) -> None:
        self._forget()
        await self._outbox.deliver()

    def _told(self, principal: Principal) -> dict[str, Any]:
        return self._told_by(principal.org_id, principal.user_id)

    def _told_by(self, org_id: str, actor: str) -> dict[str, Any]:
        return {"ts": self._database.now(), "org_id": org_id, "session_id": None, "actor": actor}


def _check_reach(principal: Principal, role: Role) -> None:
    if not ROLES[role] <= principal.scopes:
        raise Forbidden(f"the role {role} may what you may not")


def _within_reach(connection: sqlite3.Connection, principal: Principal, user_id: str) -> Member:
    row = connection.execute(_MEMBER, (principal.org_id, user_id)).fetchone()
    if row is None:
        raise NotFound
    member = _member(row)
    _check_reach(principal, member.role)
    return member


def _check_owned(connection: sqlite3.Connection, org_id: str) -> None:
    if not connection.execute(_OWNERS, (org_id,)).fetchone()[0]:
        raise Conflict("an org keeps an owner: make another member one first")


def _member(row: tuple[str, str, str, str | None]) -> Member:
    user_id, email, role, joined = row
    at = None if joined is None else datetime.fromisoformat(joined).astimezone(UTC)
    return Member(id=user_id, email=email, role=Role(role), joined_at=at)


_MEMBERS: Final = (
    "SELECT user_id, email, role, joined_at FROM memberships JOIN users ON users.id = user_id"
    " WHERE org_id = ? AND removed_at IS NULL"
)
_LIST: Final = _MEMBERS + " AND user_id > ? ORDER BY user_id LIMIT ?"
_MEMBER: Final = _MEMBERS + " AND user_id = ?"
_CHANGE: Final = "UPDATE memberships SET role = ? WHERE org_id = ? AND user_id = ?"
_OWNERS: Final = "SELECT count(*) FROM memberships WHERE org_id = ? AND role = 'owner' AND removed_at IS NULL"
# A key that is revoked stays so when its member comes back.
_REMOVE: Final = (
    "UPDATE memberships SET removed_at = ? WHERE org_id = ? AND user_id = ?",
    "UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?) WHERE org_id = ? AND user_id = ?",
    "UPDATE sign_ins SET ended_at = coalesce(ended_at, ?) WHERE org_id = ? AND user_id = ?",
)
_WAITING: Final = "SELECT count(*) FROM invitations WHERE org_id = ? AND used_at IS NULL"
_INVITE: Final = (
    "INSERT INTO invitations (id, hash, org_id, invited_by, email, role, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_OPEN: Final = "SELECT hash, org_id, email, role FROM invitations WHERE id = ? AND expires_at > ? AND used_at IS NULL"
_USE: Final = "UPDATE invitations SET used_at = ? WHERE id = ? AND used_at IS NULL"
# A user whom an operator made without a password gets one with their first invitation.
_NEW_USER: Final = (
    "INSERT INTO users (id, email, password, created_at) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (email) DO UPDATE SET password = excluded.password WHERE password IS NULL"
)
_JOIN: Final = (
    "INSERT INTO memberships (org_id, user_id, role, joined_at) VALUES (?, ?, ?, ?) ON CONFLICT (org_id, user_id)"
    " DO UPDATE SET role = excluded.role, joined_at = excluded.joined_at, removed_at = NULL"
    " WHERE removed_at IS NOT NULL"
)
