"""A change of a session, and an event of none, as they are written."""

from dataclasses import dataclass
from typing import Final, Literal

from enclave.contracts.audit import AuditEvent
from enclave.contracts.errors import Conflict, KeyReused
from enclave.contracts.sessions import Session
from enclave.core.claim import Claim, held_since
from enclave.core.session import Change
from enclave.core.usage import used_by
from enclave.store.chain import Events
from enclave.store.postgres.batch import Batch, Ended
from enclave.store.session import row_of


@dataclass(frozen=True, slots=True)
class Move:
    """A change, to be written; answers with its sealed events."""

    change: Change

    @property
    def org_id(self) -> str:
        """Whose chain it goes to."""
        return self.change.session.org_id

    @property
    def session_id(self) -> str:
        """The session."""
        return self.change.session.id

    @property
    def in_memory(self) -> bool:
        """Unless a key has to be looked for."""
        return self.change.claim is None

    @property
    def events(self) -> Events:
        """What tells of it."""
        return self.change.events

    async def run(self, batch: Batch, sealed: Events) -> Events:
        """Write it. Raises StaleSession and KeyReused, having written nothing."""
        used, row, claim = used_by(self.change), row_of(self.change), self.change.claim
        if claim is not None and await _holder(batch, self.change.session, claim) is not None:
            raise KeyReused
        batch.move(self.change, row)
        if claim is not None:
            await _take(batch, self.change.session, claim)
        self._follow(batch)
        if used:
            batch.use(self.org_id, used)
        return sealed

    def _follow(self, batch: Batch) -> None:
        """Write what follows from the move: the webhook of a session is due in the moment it is over."""
        change, session = self.change, self.change.session
        if change.callback is not None:
            batch.post(self.org_id, session.id, change.callback)
        if change.settles and session.finished_at is not None:
            batch.end(session.id, Ended(session.phase.value, session.finished_at.timestamp()))


@dataclass(frozen=True, slots=True)
class Note:
    """An event to be added to its org's chain, once."""

    key: str
    event: AuditEvent
    session_id: None = None
    in_memory: Literal[False] = False

    @property
    def org_id(self) -> str:
        """Whose chain it goes to."""
        return self.event.org_id

    @property
    def events(self) -> Events:
        """The event."""
        return (self.event,)

    async def run(self, batch: Batch, sealed: Events) -> AuditEvent:
        """Write down that it was added. Raises Conflict if it was before."""
        if await batch.connection.fetchval("SELECT 1 FROM noted WHERE key = $1", self.key):
            raise Conflict("the event was added before")
        await batch.connection.execute("INSERT INTO noted (key) VALUES ($1)", self.key)
        return sealed[0]


async def _holder(batch: Batch, session: Session, claim: Claim) -> str | None:
    since = held_since(session.created_at).timestamp()
    holder: str | None = await batch.connection.fetchval(CLAIMED, session.org_id, claim.key, since)
    return holder


async def _take(batch: Batch, session: Session, claim: Claim) -> None:
    at = session.created_at
    await batch.connection.execute(_EXPIRE, session.org_id, held_since(at).timestamp())
    await batch.connection.execute(_TAKE, session.org_id, claim.key, session.id, claim.digest, at.timestamp())


CLAIMED: Final = "SELECT session_id, digest FROM claims WHERE org_id = $1 AND key = $2 AND made_at > $3"
# Of the org whose chain is held: two that removed each other's would wait in a circle.
_EXPIRE: Final = "DELETE FROM claims WHERE org_id = $1 AND made_at <= $2"
_TAKE: Final = (
    "INSERT INTO claims (org_id, key, session_id, digest, made_at) VALUES ($1, $2, $3, $4, $5)"
    " ON CONFLICT (org_id, key) DO UPDATE"
    " SET session_id = excluded.session_id, digest = excluded.digest, made_at = excluded.made_at"
)
