"""What the operator does, who acts in no org and sees them all."""

import sqlite3
from datetime import datetime
from typing import Final

from enclave.contracts.audit import OrgDisabled, OrgEnabled
from enclave.contracts.errors import NotFound
from enclave.contracts.identity import Role
from enclave.contracts.keys import Key
from enclave.contracts.members import Invite
from enclave.contracts.orgs import AskReset, FoundedOrg, FoundOrg, OrgState, ResetCode
from enclave.contracts.wire import Page
from enclave.core.cursor import check_limit, cut, org_cursor, org_of_cursor
from enclave.identity.apikey import new_api_key
from enclave.identity.books import Books
from enclave.identity.keys import org_of_key, revoke
from enclave.identity.members import open_invitation
from enclave.identity.orgs import add_org, new_org
from enclave.identity.outbox import post
from enclave.identity.renewal import RESET, RESET_LIFE

ACTOR: Final = "operator"


class EmbeddedOperator:
    """The operator's hand on the authority in this process: what is disabled or revoked is refused at once."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def list_orgs(self, *, cursor: str | None = None, limit: int = 50) -> Page[OrgState]:
        """All orgs, by id."""
        check_limit(limit)
        rows = self._books.database.all(_LIST, (org_of_cursor(cursor), limit + 1))
        items, last = cut([_state(row) for row in rows], limit)
        return Page[OrgState](items=tuple(items), next_cursor=org_cursor(last.id) if last else None)

    async def found_org(self, asked: FoundOrg) -> FoundedOrg:
        """An org, and the invitation of its owner."""
        made, invited = new_org(asked.name), Invite(email=asked.owner_email, role=Role.OWNER)
        with self._books.database.change() as connection:
            add_org(connection, self._books, made, ACTOR)
            invitation = open_invitation(connection, self._books, (made.id, ACTOR), invited)
            state = _find(connection, made.id)
        await self._books.settle()
        return FoundedOrg(org=state, invitation=invitation)

    async def disable_org(self, org_id: str) -> OrgState:
        """Refuse an org's callers from now on. Raises NotFound. Idempotent."""
        with self._books.database.change() as connection:
            if _find(connection, org_id).disabled_at is None:
                connection.execute(_SET, (self._books.database.stamp(), org_id))
                post(connection, OrgDisabled(**self._books.told(org_id, ACTOR)))
            state = _find(connection, org_id)
        await self._books.settle()
        return state

    async def enable_org(self, org_id: str) -> OrgState:
        """Let an org's callers in again. Raises NotFound. Idempotent."""
        with self._books.database.change() as connection:
            if _find(connection, org_id).disabled_at is not None:
                connection.execute(_SET, (None, org_id))
                post(connection, OrgEnabled(**self._books.told(org_id, ACTOR)))
            state = _find(connection, org_id)
        await self._books.settle()
        return state

    async def revoke_key(self, key_id: str) -> Key:
        """Put a key of any org out of force for good. Raises NotFound. Idempotent."""
        with self._books.database.change() as connection:
            key = revoke(connection, self._books, (org_of_key(connection, key_id), ACTOR), key_id)
        await self._books.settle()
        return key

    async def reset_password(self, asked: AskReset) -> ResetCode:
        """A code with which a user sets their password anew; one that they had passes no more. Raises NotFound."""
        code, until = new_api_key(RESET), self._books.database.now() + RESET_LIFE
        email = asked.email.lower()
        with self._books.database.change() as connection:
            row = connection.execute("SELECT id FROM users WHERE email = ?", (email,)).fetchone()
            if row is None:
                raise NotFound
            connection.execute(_ADD_CODE, (row[0], code.id, code.hash(self._books.pepper), until.timestamp()))
        return ResetCode(email=email, expires_at=until, code=str(code))


def _find(connection: sqlite3.Connection, org_id: str) -> OrgState:
    row = connection.execute(f"{_STATE} WHERE id = ?", (org_id,)).fetchone()
    if row is None:
        raise NotFound
    return _state(row)


def _state(row: tuple[str, str, str, str | None]) -> OrgState:
    org_id, name, created_at, disabled_at = row
    return OrgState(
        id=org_id,
        name=name,
        created_at=datetime.fromisoformat(created_at),
        disabled_at=None if disabled_at is None else datetime.fromisoformat(disabled_at),
    )


_STATE: Final = "SELECT id, name, created_at, disabled_at FROM orgs"
_LIST: Final = f"{_STATE} WHERE id > ? ORDER BY id LIMIT ?"
_SET: Final = "UPDATE orgs SET disabled_at = ? WHERE id = ?"
_ADD_CODE: Final = "INSERT OR REPLACE INTO resets (user_id, id, hash, expires_at) VALUES (?, ?, ?, ?)"
