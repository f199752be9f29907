"""What is removed for its age, and a write that has to reach the disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from enclave.contracts.checkpoint import Checkpoint
from enclave.contracts.errors import Conflict
from enclave.store.chain import Events
from enclave.store.postgres.batch import Batch


@dataclass(frozen=True, slots=True)
class Burial:
    """The entries of an org up to one, to be removed."""

    tombstone: Checkpoint
    events: Events = ()
    session_id: None = None
    in_memory: Literal[False] = False

    @property
    def org_id(self) -> str:
        """Whose they are."""
        return self.tombstone.org_id

    async def run(self, batch: Batch, sealed: Events) -> None:
        """Remove them. Raises Conflict if they are not there, or there is none after them."""
        told = self.tombstone
        row = await batch.connection.fetchrow(_AT, told.org_id, told.seq)
        if row is None or row[0] != told.digest or row[1] <= told.seq:
            raise Conflict("a tombstone is for entries that are there, and not for the last")
        await batch.connection.execute(_BURY, told.org_id, told.seq, told.model_dump_json())
        await batch.connection.execute("DELETE FROM audit WHERE org_id = $1 AND seq <= $2", told.org_id, told.seq)


@dataclass(frozen=True, slots=True)
class Forgetting:
    """Settled sessions of ids below one, to be removed, with all that refers to them but events; those whose webhook is
    still to be sent stay."""

    before: str
    limit: int
    org_id: str = ""
    events: Events = ()
    session_id: None = None
    in_memory: Literal[False] = False

    async def run(self, batch: Batch, sealed: Events) -> Sequence[str]:
        """Remove them; answer with their ids. What somebody else is just removing is left to them."""
        old = [row[0] for row in await batch.connection.fetch(_OLD, self.before, self.limit)]
        return sorted(row[0] for row in await batch.connection.fetch(_FORGET, old))


@dataclass(frozen=True, slots=True)
class Probe:
    """Nothing, written so that it has to reach the disk."""

    org_id: str = ""
    events: Events = ()
    session_id: None = None
    in_memory: Literal[False] = False

    async def run(self, batch: Batch, sealed: Events) -> None:
        """The row of no org was written when the transaction began, and is once more when the next does."""


_AT: Final = (
    "SELECT digest, (SELECT max(seq) FROM audit AS later WHERE later.org_id = audit.org_id) FROM audit"
    " WHERE org_id = $1 AND seq = $2"
)
_BURY: Final = "INSERT INTO tombstones (org_id, seq, doc) VALUES ($1, $2, $3)"
_PENDING: Final = "EXISTS (SELECT FROM deliveries WHERE session_id = sessions.id AND due_at IS NOT NULL)"
_OLD: Final = (
    f"SELECT id FROM sessions WHERE id < $1 AND phase NOT IN ('pending', 'running') AND NOT {_PENDING}"  # noqa: S608  values are bound
    " ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED"
)
# Only now, while nobody else can: a webhook may have been sent for again before the rows were held.
_FORGET: Final = f"DELETE FROM sessions WHERE id = ANY($1::text[]) AND NOT {_PENDING} RETURNING id"  # noqa: S608  values are bound
