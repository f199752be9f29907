"""Events that come from elsewhere and belong to no session."""

import sqlite3
from dataclasses import dataclass

from enclave.contracts.audit import AuditEvent
from enclave.contracts.errors import Conflict
from enclave.store.writer import Events


@dataclass(frozen=True, slots=True)
class Note:
    """An event to be added to its org's chain, once."""

    key: str
    event: AuditEvent

    @property
    def org_id(self) -> str:
        """Whose chain it goes to."""
        return self.event.org_id

    @property
    def events(self) -> Events:
        """The event."""
        return (self.event,)

    def run(self, connection: sqlite3.Connection, sealed: Events) -> AuditEvent:
        """Write down that it was added. Raises Conflict if it was before."""
        if connection.execute("SELECT 1 FROM noted WHERE key = ?", (self.key,)).fetchone():
            raise Conflict("the event was added before")
        connection.execute("INSERT INTO noted (key) VALUES (?)", (self.key,))
        return sealed[0]


@dataclass(frozen=True, slots=True)
class Probe:
    """Nothing, written so that it has to reach the disk."""

    org_id: str = ""
    events: Events = ()

    def run(self, connection: sqlite3.Connection, sealed: Events) -> None:
        """Write the moment over the last one."""
        connection.execute("INSERT OR REPLACE INTO noted (key) VALUES ('probe')")
