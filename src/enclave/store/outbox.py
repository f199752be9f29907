"""Webhooks that are due, under way or over, in the SQLite file, beside the sessions that they are of."""

import json
import sqlite3
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from enclave.contracts.errors import Conflict, NotFound, SecretUnreadable
from enclave.contracts.sessions import Phase
from enclave.contracts.webhooks import Delivery, DeliveryState, WebhookRedelivered
from enclave.core.session import Callback
from enclave.core.webhook import delivery_id, session_of_delivery
from enclave.store.base import Attempt, Due, Held, Share
from enclave.store.chain import Events
from enclave.store.reader import Readers
from enclave.store.vault import Vault
from enclave.store.writer import Writer


class SqliteOutbox:
    """The Outbox of a SqliteStore, written by its one writer."""

    def __init__(self, writer: Writer, readers: Readers, vault: Vault) -> None:
        self._writer = writer
        self._readers = readers
        self._vault = vault

    def seal(self, session_id: str, host: str, url: str) -> Callback:
        """A callback for a session that is to be created."""
        return sealed_callback(self._vault, session_id, host, url)

    def url(self, claimed: Held) -> str:
        """Where a webhook goes. Raises SecretUnreadable."""
        return opened_url(self._vault, claimed)

    async def due(self, at: datetime, share: Share) -> Sequence[Due]:
        """What is to be sent and is nobody's, each org's in turn."""
        now = at.timestamp()
        values = (now, now, share.host, share.org, share.all)
        return await self._readers.run(lambda connection: [Due(*row) for row in connection.execute(_DUE, values)])

    def claim(self, due: Due, at: datetime, until: datetime) -> Awaitable[Held]:
        """Take a webhook for oneself. Raises Conflict if it is not due any more, or somebody else's."""
        return self._writer.put(_Claim(due, at.timestamp(), until.timestamp()))

    def settle(self, attempt: Attempt) -> Awaitable[None]:
        """Write what became of an attempt. Raises Conflict if the claim is not in force any more."""
        return self._writer.put(_Settle(attempt))

    async def find(
        self, org_id: str, *, session_id: str | None = None, before: str | None = None, limit: int = 50
    ) -> Sequence[Delivery]:
        """The org's webhooks, newest session first."""
        values = (org_id, session_id, before, limit)
        return await self._readers.run(lambda connection: [delivery(row) for row in connection.execute(_FIND, values)])

    def redeliver(self, event: WebhookRedelivered) -> Awaitable[Delivery]:
        """Make a webhook due, with its event. Raises NotFound."""
        return self._writer.put(_Redeliver(event.org_id, event.delivery_id, (event,)))


def insert(connection: sqlite3.Connection, org_id: str, session_id: str, callback: Callback) -> None:
    """Write where a session that is created is to be posted."""
    connection.execute(_INSERT, (session_id, org_id, callback.host, callback.sealed))


def make_due(connection: sqlite3.Connection, session_id: str, phase: Phase, at: datetime) -> None:
    """Make the webhook of a session that ends due, if it has one."""
    connection.execute(_END, (phase.value, at.timestamp(), at.timestamp(), session_id))


@dataclass(frozen=True, slots=True)
class _Claim:
    due: Due
    at: float
    until: float
    events: Events = ()

    @property
    def org_id(self) -> str:
        return self.due.org_id

    def run(self, connection: sqlite3.Connection, sealed: Events) -> Held:
        row = connection.execute(_CLAIM, (self.until, self.due.session_id, self.at, self.at)).fetchone()
        if row is None:
            raise Conflict("the webhook is not due")
        phase, attempts, url = row
        return Held(self.due, Phase(phase), attempts, url, datetime.fromtimestamp(self.until, UTC))


@dataclass(frozen=True, slots=True)
class _Settle:
    attempt: Attempt

    @property
    def org_id(self) -> str:
        return self.attempt.claimed.due.org_id

    @property
    def events(self) -> Events:
        return self.attempt.events

    def run(self, connection: sqlite3.Connection, sealed: Events) -> None:
        made, claimed = self.attempt, self.attempt.claimed
        at = made.at.timestamp()
        next_at = None if made.next_at is None else made.next_at.timestamp()
        delivered_at = at if made.error is None else None
        state = (at, made.status, made.error, next_at, delivered_at)
        settled = connection.execute(_SETTLE, (*state, claimed.due.session_id, claimed.until.timestamp()))
        if settled.rowcount != 1:
            raise Conflict("the claim is not in force any more")


@dataclass(frozen=True, slots=True)
class _Redeliver:
    org_id: str
    delivery_id: str
    events: Events

    def run(self, connection: sqlite3.Connection, sealed: Events) -> Delivery:
        session_id, phase = session_of_delivery(self.delivery_id)
        place = (self.org_id, session_id, phase)
        if connection.execute(_IS_THERE, place).fetchone() is None:
            raise NotFound
        connection.execute(_AGAIN, (self.events[0].ts.timestamp(), *place))
        return delivery(connection.execute(_GET, place).fetchone())


_INSERT: Final = "INSERT INTO deliveries (session_id, org_id, host, sealed) VALUES (?, ?, ?, ?)"
_END: Final = "UPDATE deliveries SET phase = ?, created_at = ?, due_at = ? WHERE session_id = ?"
# Of each host its oldest, of each org its hosts in turn, and of all the orgs in turn: whoever has a lot to be sent, or
# a receiver that takes nothing, is not before others for it.
_DUE: Final = """
    WITH waiting AS (
        SELECT org_id, host, session_id, due_at,
            row_number() OVER (PARTITION BY org_id, host ORDER BY due_at, session_id) AS place
        FROM deliveries WHERE due_at <= ? AND coalesce(claimed_until, 0) <= ?
    ), offered AS (
        SELECT org_id, host, session_id, due_at,
            row_number() OVER (PARTITION BY org_id ORDER BY place, due_at, session_id) AS turn
        FROM waiting WHERE place <= ?
    )
    SELECT org_id, host, session_id FROM offered WHERE turn <= ? ORDER BY turn, due_at, session_id LIMIT ?
"""
_CLAIM: Final = (
    "UPDATE deliveries SET claimed_until = ? WHERE session_id = ? AND due_at <= ? AND coalesce(claimed_until, 0) <= ?"
    " RETURNING phase, attempts, sealed"
)
_SETTLE: Final = (
    "UPDATE deliveries SET claimed_until = NULL, attempts = attempts + 1, attempted_at = ?, status = ?, error = ?,"
    " due_at = ?, delivered_at = ? WHERE session_id = ? AND claimed_until = ?"
)
_AGAIN: Final = (
    "UPDATE deliveries SET due_at = ?, attempts = 0, delivered_at = NULL"
    " WHERE org_id = ? AND session_id = ? AND phase = ?"
)
COLUMNS: Final = "session_id, phase, host, attempts, created_at, due_at, attempted_at, status, error, delivered_at"
_IS_THERE: Final = "SELECT 1 FROM deliveries WHERE org_id = ? AND session_id = ? AND phase = ?"
_GET: Final = f"SELECT {COLUMNS} FROM deliveries WHERE org_id = ? AND session_id = ? AND phase = ?"  # noqa: S608  values are bound
_FIND: Final = (
    f"SELECT {COLUMNS} FROM deliveries WHERE org_id = ?1 AND phase IS NOT NULL"  # noqa: S608  values are bound
    " AND (?2 IS NULL OR session_id = ?2) AND (?3 IS NULL OR session_id < ?3) ORDER BY session_id DESC LIMIT ?4"
)


def sealed_callback(vault: Vault, session_id: str, host: str, url: str) -> Callback:
    """A callback, as every database keeps it."""
    return Callback(host, vault.seal(url, _beside(session_id, host)))


def opened_url(vault: Vault, claimed: Held) -> str:
    """Where a webhook goes. Raises SecretUnreadable."""
    try:
        return vault.open(claimed.sealed, _beside(claimed.due.session_id, claimed.due.host))
    except SecretUnreadable:
        raise SecretUnreadable("the stored URL does not open with this server's key") from None


def _beside(session_id: str, host: str) -> bytes:
    """What a URL is sealed beside."""
    return json.dumps(["webhook", session_id, host]).encode()


_Row = tuple[str, str, str, int, float, float | None, float | None, int | None, str | None, float | None]


def delivery(row: _Row) -> Delivery:
    """A webhook as its org is told of it, of the COLUMNS."""
    session_id, phase, host, attempts, created, due, attempted, status, error, delivered = row
    state: DeliveryState = "pending" if due is not None else "delivered" if delivered is not None else "failed"
    return Delivery(
        id=delivery_id(session_id, Phase(phase)),
        session_id=session_id,
        phase=Phase(phase),
        host=host,
        state=state,
        attempts=attempts,
        created_at=_required(created),
        last_attempt_at=_moment(attempted),
        last_status=status,
        last_error=error,
        next_attempt_at=_moment(due),
        delivered_at=_moment(delivered),
    )


def _required(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else _required(seconds)
