"""A change of a session, and an event of none, as they are written."""

from dataclasses import dataclass

from enclave.contracts.audit import AuditEvent
from enclave.contracts.errors import Conflict
from enclave.core.session import Change
from enclave.core.usage import used_by
from enclave.store.chain import Events
from enclave.store.postgres.batch import Batch
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
    def events(self) -> Events:
        """What tells of it."""
        return self.change.events

    async def run(self, batch: Batch, sealed: Events) -> Events:
        """Write it. Raises StaleSession, having written nothing."""
        used = used_by(self.change)
        batch.move(self.change, row_of(self.change))
        if used:
            batch.use(self.org_id, used)
        return sealed


@dataclass(frozen=True, slots=True)
class Note:
    """An event to be added to its org's chain, once."""

    key: str
    event: AuditEvent
    session_id: None = None

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
