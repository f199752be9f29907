"""What is removed for its age: sessions, and ranges of the chain that a tombstone attests."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from enclave.contracts.checkpoint import Checkpoint
from enclave.contracts.errors import Conflict
from enclave.store.chain import Events


@dataclass(frozen=True, slots=True)
class Burial:
    """The entries of an org up to one, to be removed."""

    tombstone: Checkpoint
    events: Events = ()

    @property
    def org_id(self) -> str:
        """Whose they are."""
        return self.tombstone.org_id

    def run(self, connection: sqlite3.Connection, sealed: Events) -> None:
        """Remove them. Raises Conflict if they are not there, or there is none after them."""
        told = self.tombstone
        row = connection.execute(_AT, (told.org_id, told.seq)).fetchone()
        if row is None or row[0] != told.digest or row[1] <= told.seq:
            raise Conflict("a tombstone is for entries that are there, and not for the last")
        connection.execute("INSERT INTO tombstones VALUES (?, ?, ?)", (told.org_id, told.seq, told.model_dump_json()))
        connection.execute("DELETE FROM audit WHERE org_id = ? AND seq <= ?", (told.org_id, told.seq))


@dataclass(frozen=True, slots=True)
class Forgetting:
    """Settled sessions of ids below one, to be removed, with what is kept of their webhooks; those that are still to be
    sent keep theirs."""

    before: str
    limit: int
    org_id: str = ""
    events: Events = ()

    def run(self, connection: sqlite3.Connection, sealed: Events) -> Sequence[str]:
        """Remove them; answer with their ids."""
        ids = [row[0] for row in connection.execute(_SETTLED, (self.before, self.limit))]
        for statement in ("DELETE FROM labels WHERE session_id = ?", "DELETE FROM sessions WHERE id = ?"):
            connection.executemany(statement, [(one,) for one in ids])
        return ids


_AT: Final = (
    "SELECT digest, (SELECT max(seq) FROM audit AS later WHERE later.org_id = audit.org_id) FROM audit"
    " WHERE org_id = ? AND seq = ?"
)
_SETTLED: Final = (
    "SELECT id FROM sessions WHERE id < ? AND phase NOT IN ('pending', 'running') AND NOT EXISTS"
    " (SELECT 1 FROM deliveries WHERE session_id = sessions.id AND due_at IS NOT NULL) ORDER BY id LIMIT ?"
)
