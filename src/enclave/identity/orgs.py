"""Orgs, as their members see and make them."""

import sqlite3
from dataclasses import dataclass
from datetime import datetime
from secrets import token_hex
from typing import Final

from enclave.contracts.audit import OrgCreated
from enclave.contracts.errors import Conflict, Forbidden
from enclave.contracts.identity import Principal, Role
from enclave.contracts.operations import CREATE_ORG
from enclave.contracts.orgs import CreateOrg, Org
from enclave.contracts.wire import Page
from enclave.core.access import authorize
from enclave.core.cursor import check_limit, cut, org_cursor, org_of_cursor
from enclave.identity.books import Books
from enclave.identity.outbox import post
from enclave.identity.standing import signed_in


@dataclass(frozen=True, slots=True)
class NewOrg:
    """An org that is to be: `made_by` is the user who makes it, None if it is not one."""

    id: str
    name: str
    made_by: str | None = None


def new_org(name: str, made_by: str | None = None) -> NewOrg:
    """An org with an id that no other has."""
    return NewOrg(f"org_{token_hex(8)}", name, made_by)


class EmbeddedOrgs:
    """The orgs of this installation. A user makes `per_user` of them at most, those that were given away among them."""

    def __init__(self, books: Books, per_user: int) -> None:
        self._books = books
        self._per_user = per_user

    async def list(self, principal: Principal, *, cursor: str | None = None, limit: int = 50) -> Page[Org]:
        """The enabled orgs that a user is a member of, by id; for a caller who is no user here the one they act in."""
        check_limit(limit)
        me, role, after = principal.user_id, principal.role, org_of_cursor(cursor)
        rows = self._books.database.all(_LIST, (me, after, role, principal.org_id, after, me, limit + 1))
        items, last = cut([_org(row) for row in rows], limit)
        return Page[Org](items=tuple(items), next_cursor=org_cursor(last.id) if last else None)

    async def create(self, principal: Principal, asked: CreateOrg) -> Org:
        """A new org that the user owns. Raises Forbidden to an API key, and where only the operator makes orgs, and
        Conflict to one who has as many as a user may."""
        authorize(principal, CREATE_ORG)
        with self._books.database.change() as connection:
            user_id = signed_in(connection, principal, CREATE_ORG).user_id
            self._check_count(connection, user_id)
            made = new_org(asked.name, user_id)
            add_org(connection, self._books, made, user_id)
            connection.execute(_JOIN, (made.id, user_id, Role.OWNER, self._books.database.stamp()))
        await self._books.settle()
        return _org(self._books.database.one(_ONE, (made.id, user_id)))

    def _check_count(self, connection: sqlite3.Connection, user_id: str) -> None:
        if self._per_user == 0:
            raise Forbidden("only the operator makes orgs here: ask them for one")
        if connection.execute(_COUNT, (user_id, user_id)).fetchone()[0] >= self._per_user:
            raise Conflict(f"a user may have at most {self._per_user} orgs here; the operator can make another for you")


def add_org(connection: sqlite3.Connection, books: Books, made: NewOrg, actor: str) -> None:
    """Write an org down, and that it was made."""
    connection.execute(_ADD, (made.id, made.name, books.database.stamp(), made.made_by))
    post(connection, OrgCreated(**books.told(made.id, actor), name=made.name))


def _org(row: tuple[str, str, str, str]) -> Org:
    return Org(id=row[0], name=row[1], created_at=datetime.fromisoformat(row[2]), role=Role(row[3]))


_ADD: Final = "INSERT INTO orgs (id, name, created_at, made_by) VALUES (?, ?, ?, ?)"
_JOIN: Final = "INSERT INTO memberships (org_id, user_id, role, joined_at) VALUES (?, ?, ?, ?)"
_THEIRS: Final = (
    "SELECT id, name, created_at, role FROM orgs JOIN memberships ON org_id = id"
    " WHERE user_id = ? AND removed_at IS NULL AND disabled_at IS NULL"
)
_LIST: Final = (
    f"{_THEIRS} AND id > ? UNION ALL"  # noqa: S608  values are bound
    " SELECT id, name, created_at, ? FROM orgs WHERE id = ? AND id > ? AND disabled_at IS NULL"
    " AND NOT EXISTS (SELECT 1 FROM users WHERE users.id = ?) ORDER BY id LIMIT ?"
)
_ONE: Final = "SELECT id, name, created_at, role FROM orgs JOIN memberships ON org_id = id WHERE id = ? AND user_id = ?"
_COUNT: Final = (
    "SELECT count(*) FROM (SELECT id FROM orgs WHERE made_by = ? UNION"
    " SELECT org_id FROM memberships WHERE user_id = ? AND role = 'owner' AND removed_at IS NULL)"
)
