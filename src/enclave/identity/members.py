"""Members of an org: asked in, listed, changed and removed by those who may."""

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from typing import Any, Final

from enclave.contracts.audit import InvitationWithdrawn, MemberChanged, MemberInvited, MemberJoined, MemberRemoved
from enclave.contracts.errors import Conflict, Forbidden, NotFound, Unauthenticated
from enclave.contracts.identity import Principal, Role
from enclave.contracts.members import (
    AcceptInvitation,
    ChangeMember,
    Invitation,
    Invite,
    Member,
    OpenInvitation,
    Tokens,
)
from enclave.contracts.operations import (
    CHANGE_MEMBER,
    CREATE_INVITATION,
    LIST_INVITATIONS,
    LIST_MEMBERS,
    REMOVE_MEMBER,
    WITHDRAW_INVITATION,
)
from enclave.contracts.wire import Page
from enclave.core.access import ROLES, authorize
from enclave.core.cursor import (
    check_limit,
    cut,
    invitation_cursor,
    invitation_of_cursor,
    member_cursor,
    member_of_cursor,
)
from enclave.identity.apikey import NO_HASH, ApiKey, new_api_key, parse
from enclave.identity.books import Books
from enclave.identity.guard import site
from enclave.identity.outbox import post
from enclave.identity.renewal import check_length
from enclave.identity.sign_in import Account, SignIns, seat
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

    def __init__(self, books: Books, sign_ins: SignIns) -> None:
        self._books = books
        self._database = books.database
        self._sign_ins = sign_ins

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
                beyond = [role for role in Role if not ROLES[role] <= ROLES[asked.role]]
                self._withdraw_of(connection, principal, user_id, beyond)
        await self._books.settle()
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
            self._withdraw_of(connection, principal, user_id, list(Role))
            for (invitation_id,) in connection.execute(_FOR, (principal.org_id, user_id)).fetchall():
                self._withdraw(connection, principal, invitation_id)
        await self._books.settle()
        return was

    async def invite(self, principal: Principal, asked: Invite) -> Invitation:
        """Ask somebody in. Raises Forbidden for a role that may more than the principal, and Conflict for too many."""
        authorize(principal, CREATE_INVITATION)
        with self._database.change() as connection:
            _check_reach(standing(connection, principal, CREATE_INVITATION).principal, asked.role)
            invitation = open_invitation(connection, self._books, (principal.org_id, principal.user_id), asked)
        await self._books.outbox.deliver()
        return invitation

    async def list_invitations(
        self, principal: Principal, *, cursor: str | None = None, limit: int = 50
    ) -> Page[OpenInvitation]:
        """The org's invitations that wait, by id, without their codes."""
        authorize(principal, LIST_INVITATIONS)
        check_limit(limit)
        after = (principal.org_id, self._database.now().timestamp(), invitation_of_cursor(cursor))
        items, last = cut([_waiting(row) for row in self._database.all(_LIST_WAITING, (*after, limit + 1))], limit)
        return Page[OpenInvitation](items=tuple(items), next_cursor=invitation_cursor(last.id) if last else None)

    async def withdraw(self, principal: Principal, invitation_id: str) -> OpenInvitation:
        """Take an invitation back that waits. Raises NotFound, and Forbidden for a role that may more than the
        principal."""
        authorize(principal, WITHDRAW_INVITATION)
        with self._database.change() as connection:
            now = standing(connection, principal, WITHDRAW_INVITATION).principal
            open_ones = (principal.org_id, self._database.now().timestamp())
            row = connection.execute(f"{_WAITING} AND id = ?", (*open_ones, invitation_id)).fetchone()
            if row is None:
                raise NotFound
            invitation = _waiting(row)
            _check_reach(now, invitation.role)
            self._withdraw(connection, principal, invitation_id)
        await self._books.outbox.deliver()
        return invitation

    async def accept(self, asked: AcceptInvitation, address: str) -> Tokens:
        """Join an org and sign in to it, with an account that there is or a new one. Raises Unauthenticated for a code
        that does not pass, or a password that is not that of the account, InvalidRequest for one too short for a new
        account, and Conflict for one who is a member.

        An account that has no password is nobody's to take: whoever may invite would get it, and with it whatever its
        user is elsewhere. It gets one by a code of the operator's.
        """
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
            told = self._books.told(invitation.org_id, account.user_id)
            post(connection, MemberJoined(**told, invitation_id=code.id, role=invitation.role))
            begun = self._sign_ins.begin(connection, account, seat(connection, account.user_id, invitation.org_id))
        await self._books.settle()
        return self._sign_ins.given(begun)

    def _withdraw_of(
        self, connection: sqlite3.Connection, principal: Principal, user_id: str, beyond: Collection[Role]
    ) -> None:
        """Take back the invitations by which a member who may less now would get it back under another name."""
        whose = (principal.org_id, user_id)
        made = connection.execute(_BY, (*whose, *whose)).fetchall()
        theirs = [invitation_id for invitation_id, role in made if role in beyond]
        for invitation_id in theirs:
            self._withdraw(connection, principal, invitation_id)

    def _withdraw(self, connection: sqlite3.Connection, principal: Principal, invitation_id: str) -> None:
        connection.execute("DELETE FROM invitations WHERE id = ?", (invitation_id,))
        post(connection, InvitationWithdrawn(**self._told(principal), invitation_id=invitation_id))

    def _open(self, code: ApiKey) -> _Open:
        row = self._database.one(_OPEN, (code.id, self._database.now().timestamp()))
        if not code.has_hash(row[0] if row else NO_HASH, self._books.pepper) or row is None:
            raise Unauthenticated
        return _Open(row[1], row[2], Role(row[3]))

    async def _account(self, email: str, password: str, address: str) -> Account:
        """The account, or what a new one is to be, which has no id yet."""
        if self._database.one("SELECT 1 FROM users WHERE email = ?", (email,)) is not None:
            account = await self._sign_ins.check(email, password, address)
            if account is None:
                raise Unauthenticated
            return account
        check_length(password, "password")
        return Account("", email, await self._sign_ins.passwords.hash(password, site(address)))

    def _join(self, connection: sqlite3.Connection, invitation: _Open, account: Account) -> Account:
        stamp = self._database.stamp()
        if not account.user_id:
            account = replace(account, user_id=f"usr_{token_hex(8)}")
            made = (account.user_id, account.email, account.password, stamp)
            # Who came first while the password was hashed has the account, and their password is not known here.
            if not connection.execute(_NEW_USER, made).rowcount:
                raise Unauthenticated
        joined = (invitation.org_id, account.user_id, invitation.role, stamp)
        if not connection.execute(_JOIN, joined).rowcount:
            raise Conflict("you are a member of this org")
        return account

    def _told(self, principal: Principal) -> dict[str, Any]:
        return self._books.told(principal.org_id, principal.user_id)


def open_invitation(
    connection: sqlite3.Connection, books: Books, told_by: tuple[str, str], asked: Invite
) -> Invitation:
    """Ask somebody in to an org by an actor, and post that they were. Raises Conflict for too many that wait."""
    fresh, now, (org_id, _) = new_api_key(INVITATION), books.database.now(), told_by
    until, email = now + timedelta(hours=asked.hours), asked.email.lower()
    connection.execute("DELETE FROM invitations WHERE expires_at <= ?", (now.timestamp(),))
    if connection.execute(_COUNT, (org_id,)).fetchone()[0] >= MAX_OPEN:
        raise Conflict(f"an org has at most {MAX_OPEN} invitations that wait")
    row = (fresh.id, fresh.hash(books.pepper), *told_by, email, asked.role, until.timestamp())
    connection.execute(_INVITE, row)
    post(connection, MemberInvited(**books.told(*told_by), invitation_id=fresh.id, role=asked.role))
    return Invitation(id=fresh.id, email=email, role=asked.role, expires_at=until, code=str(fresh))


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


def _waiting(row: tuple[str, str, str, float]) -> OpenInvitation:
    invitation_id, email, role, until = row
    at = datetime.fromtimestamp(until, UTC)
    return OpenInvitation(id=invitation_id, email=email, role=Role(role), expires_at=at)


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
_COUNT: Final = "SELECT count(*) FROM invitations WHERE org_id = ? AND used_at IS NULL"
_WAITING: Final = (
    "SELECT id, email, role, expires_at FROM invitations WHERE org_id = ? AND used_at IS NULL AND expires_at > ?"
)
_LIST_WAITING: Final = _WAITING + " AND id > ? ORDER BY id LIMIT ?"
_BY: Final = (
    "SELECT id, role FROM invitations WHERE org_id = ? AND used_at IS NULL AND (invited_by = ?"
    " OR invited_by IN (SELECT id FROM api_keys WHERE org_id = ? AND user_id = ?))"
)
_FOR: Final = (
    "SELECT invitations.id FROM invitations JOIN users USING (email)"
    " WHERE org_id = ? AND used_at IS NULL AND users.id = ?"
)
_INVITE: Final = (
    "INSERT INTO invitations (id, hash, org_id, invited_by, email, role, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_OPEN: Final = (
    "SELECT hash, org_id, email, role FROM invitations JOIN orgs ON orgs.id = org_id"
    " WHERE invitations.id = ? AND expires_at > ? AND used_at IS NULL AND disabled_at IS NULL"
)
_USE: Final = "UPDATE invitations SET used_at = ? WHERE id = ? AND used_at IS NULL"
_NEW_USER: Final = (
    "INSERT INTO users (id, email, password, created_at) VALUES (?, ?, ?, ?) ON CONFLICT (email) DO NOTHING"
)
_JOIN: Final = (
    "INSERT INTO memberships (org_id, user_id, role, joined_at) VALUES (?, ?, ?, ?) ON CONFLICT (org_id, user_id)"
    " DO UPDATE SET role = excluded.role, joined_at = excluded.joined_at, removed_at = NULL"
    " WHERE removed_at IS NOT NULL"
)
