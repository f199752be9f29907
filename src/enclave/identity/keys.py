"""API keys of an org: made, listed and revoked by its callers."""

import sqlite3
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from enclave.contracts.audit import KeyCreated, KeyRevoked
from enclave.contracts.errors import Conflict, FieldProblem, Forbidden, InvalidRequest, NotFound
from enclave.contracts.identity import Principal, Role, Scope
from enclave.contracts.keys import CreateKey, Key, MadeKey
from enclave.contracts.operations import CREATE_KEY, LIST_KEYS, REVOKE_KEY
from enclave.contracts.wire import Page
from enclave.core.access import ROLES, authorize, narrowed, ordered
from enclave.core.cursor import check_limit, cut, key_cursor, key_of_cursor
from enclave.identity.apikey import new_api_key
from enclave.identity.books import Books
from enclave.identity.outbox import post
from enclave.identity.standing import Standing, standing

MAX_KEYS: Final = 1000
"""The most keys of an org that are not revoked."""


class EmbeddedKeys:
    """The Keys of the authority in this process: what is revoked is refused at once."""

    def __init__(self, books: Books, uses: Callable[[], Mapping[str, datetime]]) -> None:
        self._books = books
        self._database = books.database
        self._uses = uses

    async def create(self, principal: Principal, request: CreateKey) -> MadeKey:
        """A new key. Raises Forbidden if it were to have more than its maker, InvalidRequest, and Conflict for too
        many."""
        authorize(principal, CREATE_KEY)
        fresh = new_api_key()
        with self._database.change() as connection:
            maker = standing(connection, principal, CREATE_KEY)
            role, scopes = narrowed(maker.principal, request.role, request.scopes)
            until = _end(request, maker, self._database.now())
            _check_count(connection, principal.org_id)
            limits = (role, _text(scopes), until)
            made = (self._database.stamp(), principal.user_id)
            whose = (principal.org_id, maker.user_id)
            connection.execute(_ADD, (fresh.id, fresh.hash(self._books.pepper), request.name, *whose, *limits, *made))
            key = _find(connection, principal.org_id, fresh.id)
            post(connection, created_event(principal.org_id, principal.user_id, key))
        await self._books.outbox.deliver()
        return MadeKey(**dict(key), api_key=str(fresh))

    async def list(self, principal: Principal, *, cursor: str | None = None, limit: int = 50) -> Page[Key]:
        """The org's keys, oldest first, those that are revoked among them."""
        authorize(principal, LIST_KEYS)
        check_limit(limit)
        self.note_uses()
        rows = self._database.all(_LIST, (principal.org_id, key_of_cursor(cursor), principal.org_id, limit + 1))
        items, last = cut([_key(row) for row in rows], limit)
        return Page[Key](items=tuple(items), next_cursor=key_cursor(last.id) if last else None)

    async def revoke(self, principal: Principal, key_id: str) -> Key:
        """Put a key out of force for good; one that is stays as it is. Raises NotFound."""
        authorize(principal, REVOKE_KEY)
        with self._database.change() as connection:
            standing(connection, principal, REVOKE_KEY)
            key = revoke(connection, self._books, (principal.org_id, principal.user_id), key_id)
        await self._books.settle()
        return key

    def note_uses(self) -> None:
        """Write down which keys were used, if any were. Call it now and then."""
        if used := self._uses():
            rows = [(moment.isoformat(), key_id) for key_id, moment in used.items()]
            with self._database.change() as connection:
                connection.executemany("UPDATE api_keys SET last_used_at = ? WHERE id = ?", rows)


def revoke(connection: sqlite3.Connection, books: Books, told_by: tuple[str, str], key_id: str) -> Key:
    """Put a key of an org out of force by an actor, and post that it was; one that is stays as it is. Raises
    NotFound."""
    org_id, _ = told_by
    key = _find(connection, org_id, key_id)
    if key.revoked_at is not None:
        return key
    connection.execute("UPDATE api_keys SET revoked_at = ? WHERE id = ?", (books.database.stamp(), key_id))
    post(connection, KeyRevoked(**books.told(*told_by), key_id=key_id))
    return _find(connection, org_id, key_id)


def org_of_key(connection: sqlite3.Connection, key_id: str) -> str:
    """The org of a key, whichever that is. Raises NotFound."""
    row = connection.execute("SELECT org_id FROM api_keys WHERE id = ?", (key_id,)).fetchone()
    if row is None:
        raise NotFound
    return str(row[0])


def created_event(org_id: str, actor: str, key: Key) -> KeyCreated:
    """What tells that a key was made."""
    return KeyCreated(
        ts=key.created_at,
        org_id=org_id,
        session_id=None,
        actor=actor,
        key_id=key.id,
        name=key.name,
        role=key.role,
        scopes=key.scopes,
        expires_at=key.expires_at,
    )


_ADD: Final = (
    "INSERT INTO api_keys (id, hash, name, org_id, user_id, role, scopes, expires_at, created_at, created_by)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_KEY: Final = (
    "SELECT id, name, role, scopes, created_by, created_at, expires_at, last_used_at, revoked_at FROM api_keys"
    " WHERE org_id = ?"
)
# A row's own number grows with each that is made, and none is ever removed.
_LIST: Final = (
    _KEY + " AND rowid > coalesce((SELECT rowid FROM api_keys WHERE id = ? AND org_id = ?), 0) ORDER BY rowid LIMIT ?"  # noqa: S608  values are bound
)
_COUNT: Final = "SELECT count(*) FROM api_keys WHERE org_id = ? AND revoked_at IS NULL"


_LAST: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
"""With an offset, or rounded, a later moment can be after the last of all."""


def _end(request: CreateKey, maker: Standing, now: datetime) -> float | None:
    if request.expires_at is None:
        return maker.until
    until = request.expires_at.timestamp()
    if not now.timestamp() < until < _LAST:
        message = "must be in the future, and before the last day that there is, 9999-12-31"
        raise InvalidRequest("the key would be no use", errors=(FieldProblem(field="expiresAt", message=message),))
    if maker.until is not None and until > maker.until:
        raise Forbidden("a key that is made with a key ends no later than that")
    return until


def _check_count(connection: sqlite3.Connection, org_id: str) -> None:
    if connection.execute(_COUNT, (org_id,)).fetchone()[0] >= MAX_KEYS:
        raise Conflict(f"an org has at most {MAX_KEYS} keys; revoke one first")


def _find(connection: sqlite3.Connection, org_id: str, key_id: str) -> Key:
    row = connection.execute(f"{_KEY} AND id = ?", (org_id, key_id)).fetchone()
    if row is None:
        raise NotFound
    return _key(row)


def _key(row: Any) -> Key:
    key_id, name, role, scopes, created_by, created_at, until, used_at, revoked_at = row
    return Key(
        id=key_id,
        name=name,
        role=Role(role),
        scopes=ordered(scopes_of(Role(role), scopes)),
        created_by=created_by,
        created_at=datetime.fromisoformat(created_at),
        expires_at=None if until is None else datetime.fromtimestamp(until, UTC),
        last_used_at=_moment(used_at),
        revoked_at=_moment(revoked_at),
    )


def scopes_of(role: Role, stored: str | None) -> frozenset[Scope]:
    """What a key may, by its role and its scopes as they are stored."""
    return ROLES[role] if stored is None else ROLES[role] & {Scope(one) for one in stored.split()}


def _text(scopes: frozenset[Scope]) -> str:
    return " ".join(ordered(scopes))


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
