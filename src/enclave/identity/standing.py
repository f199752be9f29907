"""What a caller may at this moment, whatever the credential said that they called with."""

import sqlite3
from dataclasses import dataclass
from typing import Final

from enclave.contracts.errors import Forbidden
from enclave.contracts.identity import Principal, Role
from enclave.contracts.operations import Operation
from enclave.core.access import ROLES, authorize, lesser


@dataclass(frozen=True, slots=True)
class Standing:
    """A caller as they are now, the member behind them, and until when (POSIX seconds) what they called with holds."""

    principal: Principal
    user_id: str
    email: str
    until: float | None


def standing(connection: sqlite3.Connection, principal: Principal, operation: Operation) -> Standing:
    """The caller of an operation, authorized once more. A token outlives what it was given for by minutes, in which
    it is not to undo that. Raises Forbidden, also to one who is no member here."""
    called_by = (principal.user_id, principal.org_id)
    row = connection.execute(_OF_KEY, called_by).fetchone() or connection.execute(_OF_MEMBER, called_by).fetchone()
    if row is None:
        raise Forbidden("only members of the org may, and whom your credential names is none here")
    user_id, email, until, role = row[0], row[1], row[2], Role(row[3])
    held = {"role": lesser(principal.role, role), "scopes": principal.scopes & ROLES[role]}
    now = principal.model_copy(update=held)
    authorize(now, operation)
    return Standing(now, user_id, email, until)


def signed_in(connection: sqlite3.Connection, principal: Principal, operation: Operation) -> Standing:
    """The caller, as `standing` tells, of what only a user does for themself. Raises Forbidden to an API key."""
    now = standing(connection, principal, operation)
    if now.user_id != principal.user_id:
        raise Forbidden("this is for users, not API keys: POST /login, and call with the token that it answers")
    return now


_OF_KEY: Final = (
    "SELECT user_id, email, expires_at, memberships.role FROM api_keys JOIN memberships USING (org_id, user_id)"
    " JOIN users ON users.id = user_id"
    " WHERE api_keys.id = ? AND org_id = ? AND revoked_at IS NULL AND removed_at IS NULL"
)
_OF_MEMBER: Final = (
    "SELECT user_id, email, NULL, role FROM memberships JOIN users ON users.id = user_id"
    " WHERE user_id = ? AND org_id = ? AND removed_at IS NULL"
)
