"""A change of a session, as it is written."""

import sqlite3
from dataclasses import dataclass
from typing import Final

from enclave.contracts.errors import KeyReused, StaleSession
from enclave.contracts.sessions import Session
from enclave.core.claim import Claim, held_since
from enclave.core.session import Change
from enclave.core.usage import used_by
from enclave.store import outbox
from enclave.store.chain import Events


@dataclass(frozen=True, slots=True)
class SessionWrite:
    """A change, to be written; answers with its sealed events."""

    change: Change

    @property
    def org_id(self) -> str:
        """Whose chain it goes to."""
        return self.change.session.org_id

    @property
    def events(self) -> Events:
        """What tells of it."""
        return self.change.events

    def run(self, connection: sqlite3.Connection, sealed: Events) -> Events:
        """Write it. Raises StaleSession and KeyReused, having written nothing."""
        if self.change.claim is not None:
            _check_free(connection, self.change.session, self.change.claim)
        if not _move(connection, self.change, row_of(self.change)):
            raise StaleSession
        if self.change.claim is not None:
            _take(connection, self.change.session, self.change.claim)
        self._follow(connection)
        if used := used_by(self.change):
            connection.execute(_USE, (self.org_id, used.day.isoformat(), used.cpu_seconds, used.egress_bytes))
        return sealed

    def _follow(self, connection: sqlite3.Connection) -> None:
        """Write what follows from the move: the webhook of a session is due in the moment it is over."""
        change, session = self.change, self.change.session
        if change.callback is not None:
            outbox.insert(connection, self.org_id, session.id, change.callback)
        if change.settles and session.finished_at is not None:
            outbox.make_due(connection, session.id, session.phase, session.finished_at)


@dataclass(frozen=True, slots=True)
class Row:
    """A session as the table has it: what never changes, what every change replaces, and its labels."""

    origin: tuple[str, ...]
    state: tuple[str | None, ...]
    labels: list[tuple[str, ...]]


def _check_free(connection: sqlite3.Connection, session: Session, claim: Claim) -> None:
    since = held_since(session.created_at).timestamp()
    if connection.execute(CLAIMED, (session.org_id, claim.key, since)).fetchone():
        raise KeyReused


def _take(connection: sqlite3.Connection, session: Session, claim: Claim) -> None:
    at = session.created_at
    connection.execute("DELETE FROM claims WHERE made_at <= ?", (held_since(at).timestamp(),))
    row = (session.org_id, claim.key, session.id, claim.digest, at.timestamp())
    connection.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)", row)


def _move(connection: sqlite3.Connection, change: Change, row: Row) -> bool:
    """Whether the session was in `change.before`, and so is moved."""
    if change.before is not None:
        guard = (change.session.id, change.session.org_id, change.before.value)
        return connection.execute(_MOVE, (*row.state, *guard)).rowcount == 1
    created = connection.execute(_CREATE, (*row.origin, *row.state)).rowcount == 1
    if created:
        connection.executemany(_LABEL, row.labels)
    return created


CLAIMED: Final = "SELECT session_id, digest FROM claims WHERE org_id = ? AND key = ? AND made_at > ?"
_CREATE: Final = (
    "INSERT INTO sessions (id, org_id, created_by, created_at, phase, doc, result)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_MOVE: Final = "UPDATE sessions SET phase = ?, doc = ?, result = ? WHERE id = ? AND org_id = ? AND phase = ?"
_USE: Final = (
    "INSERT INTO usage (org_id, day, cpu_seconds, egress_bytes) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (org_id, day) DO UPDATE"
    " SET cpu_seconds = cpu_seconds + excluded.cpu_seconds, egress_bytes = egress_bytes + excluded.egress_bytes"
)
_LABEL: Final = "INSERT INTO labels (org_id, name, value, session_id) VALUES (?, ?, ?, ?)"


def row_of(change: Change) -> Row:
    """The rows of a change. Raises ValueError if it cannot be written down."""
    session = change.session
    doc = session.model_dump_json(exclude={"result"})
    result = None if session.result is None else session.result.model_dump_json()
    return Row(
        origin=(session.id, session.org_id, session.created_by, session.created_at.isoformat()),
        state=(session.phase.value, doc, result),
        labels=[(session.org_id, name, value, session.id) for name, value in session.labels.items()],
    )
