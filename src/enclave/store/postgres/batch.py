"""What one transaction writes: each write checked in its turn against what is there and what came before it, and all of
them written by one statement."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, Self, TypeVar

from enclave.contracts.errors import EnclaveError, StaleSession
from enclave.core.session import Callback, Change
from enclave.core.usage import Used
from enclave.store.chain import End, Events, Link, sealed
from enclave.store.session import Row

SESSION_CHANNEL: Final = "enclave_session"
"""What is notified of: the ids of the sessions that a transaction moved or told of, with commas between."""

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Ended:
    """That a session is over: its phase, and when (POSIX seconds)."""

    phase: str | None = None
    at: float | None = None


class Write(Protocol[T_co]):
    """Something to be written, and the events that tell of it."""

    @property
    def org_id(self) -> str:
        """Whose chain the events go to."""

    @property
    def session_id(self) -> str | None:
        """The session that it moves, if it is of one."""

    @property
    def in_memory(self) -> bool:
        """Whether it asks and writes nothing of its own, beside what a batch does."""

    @property
    def events(self) -> Events:
        """What tells of it, not yet in the chain."""

    async def run(self, batch: "Batch", sealed: Events) -> T_co:
        """Write it, and answer. All that can fail because of what it holds comes before its first statement that
        writes: it then raises EnclaveError or ValueError, and fails alone. It may be run again, if a whole transaction
        is."""


class Batch:
    """A transaction that is open, and holds the ends of the chains it writes to. While it does, nobody else writes
    anything of their orgs."""

    def __init__(self, connection: Any, owner: str) -> None:
        self.connection = connection
        self._owner = owner
        self._held: dict[str, End] = {}
        self._found: dict[str, tuple[str, str]] = {}
        self._ends: dict[str, End] = {}
        self._grown: set[str] = set()
        self._phases: dict[str, tuple[str, str]] = {}
        self._links: list[Link] = []
        self._created: dict[str, Row] = {}
        self._moved: dict[str, Row] = {}
        self._used: dict[tuple[str, str], Used] = {}
        self._posted: dict[str, tuple[str, Callback]] = {}
        self._ended: dict[str, Ended] = {}

    @classmethod
    async def begin(cls, connection: Any, owner: str, writes: Iterable[Write[object]]) -> Self:
        """Begin a transaction for these writes."""
        batch = cls(connection, owner)
        await connection.execute("BEGIN")
        for row in await connection.fetch(_HOLD, sorted({write.org_id for write in writes})):
            batch._held[row[0]] = End(row[1], row[2])
        # Only now: what others wrote before they let go of the chains is to be seen.
        if ids := list({write.session_id for write in writes if write.session_id is not None}):
            batch._found = {row[0]: (row[1], row[2]) for row in await connection.fetch(_PHASES, ids)}
        batch._ends, batch._phases = dict(batch._held), dict(batch._found)
        return batch

    @classmethod
    def expecting(cls, connection: Any, owner: str, ends: dict[str, End], phases: dict[str, tuple[str, str]]) -> Self:
        """A transaction of one statement, on what is believed of the chains and sessions; the database compares."""
        batch = cls(connection, owner)
        batch._held, batch._found = ends, phases
        batch._ends, batch._phases = dict(ends), dict(phases)
        return batch

    async def apply(self, write: Write[object]) -> object:
        """Write something; the answer, or the error that it alone failed with."""
        org_id = write.org_id
        try:
            events, links = sealed(write.events, self._ends[org_id])
            answer = await write.run(self, events)
        except (EnclaveError, ValueError, RecursionError) as error:
            return error
        self._links += links
        if events:
            self._ends[org_id] = End(events[-1].seq, events[-1].digest)
            self._grown.add(org_id)
        return answer

    def move(self, change: Change, row: Row) -> None:
        """Bring a session to where a change leads. Raises StaleSession."""
        session = change.session
        wanted = None if change.before is None else (session.org_id, change.before.value)
        if self._phases.get(session.id) != wanted:
            raise StaleSession
        self._phases[session.id] = (session.org_id, session.phase.value)
        if change.before is None:
            self._created[session.id] = row
        elif session.id in self._created:
            self._created[session.id] = replace(self._created[session.id], state=row.state)
        else:
            self._moved[session.id] = row

    def use(self, org_id: str, used: Used) -> None:
        """Count what a change uses."""
        key = (org_id, used.day.isoformat())
        self._used[key] = self._used[key].plus(used) if key in self._used else used

    def post(self, org_id: str, session_id: str, callback: Callback) -> None:
        """Keep where a session that is created is to be posted."""
        self._posted[session_id] = (org_id, callback)

    def end(self, session_id: str, ended: Ended) -> None:
        """Make the webhook of a session due, if it has one."""
        self._ended[session_id] = ended

    @property
    def last(self) -> Link | None:
        """A row by which it can be told whether the transaction was committed."""
        return self._links[-1] if self._links else None

    async def flush(self) -> bool:
        """Write all that was applied; False, and nothing is written, if the ends or phases were not as expected."""
        if not self._links:
            return True
        created, labels = self._created.values(), [label for row in self._created.values() for label in row.labels]
        ends = [(org_id, self._ends[org_id]) for org_id in self._grown]
        written: bool = await self.connection.fetchval(
            _WRITE,
            *_columns([(org_id, end.seq, end.digest) for org_id, end in sorted(self._held.items())], 3),
            *_columns([(id_, *found) for id_, found in self._found.items()], 3),
            *_columns([(*row.origin, *row.state) for row in created], 7),
            self._owner,
            *_columns([(session_id, *row.state) for session_id, row in self._moved.items()], 4),
            *_columns([(org_id, name.encode(), value.encode(), id_) for org_id, name, value, id_ in labels], 4),
            *_columns(self._links, 8),
            *_columns([(org_id, end.seq, end.digest) for org_id, end in ends], 3),
            *_columns([(*key, used.cpu_seconds, used.egress_bytes) for key, used in sorted(self._used.items())], 4),
            _payloads(self._links),
            *_columns([self._posting(session_id) for session_id in self._posted], 7),
            *_columns([(id_, one.phase, one.at) for id_, one in self._ended.items() if id_ not in self._posted], 3),
        )
        return written

    def _posting(self, session_id: str) -> tuple[Any, ...]:
        # A row that is made in a statement is not there yet for what else the statement does.
        (org_id, callback), ended = self._posted[session_id], self._ended.get(session_id, Ended())
        return session_id, org_id, callback.host, callback.sealed, ended.phase, ended.at, ended.at

    def learnt(self) -> tuple[dict[str, End], dict[str, tuple[str, str]]]:
        """Where the chains end and what the sessions are in, once it is durable."""
        return self._ends, self._phases


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(count)]


def _payloads(links: Iterable[Link]) -> list[str]:
    # A payload has less than 8000 bytes, and an id has 30 (https://www.postgresql.org/docs/current/sql-notify.html).
    ids = list(dict.fromkeys(str(link[2]) for link in links if link[2] is not None))
    return [",".join(ids[at : at + 200]) for at in range(0, len(ids), 200)]


# Rows are locked, or made, in the order in which they are given.
_HOLD: Final = (
    "INSERT INTO heads (org_id) SELECT unnest($1::text[])"
    " ON CONFLICT (org_id) DO UPDATE SET org_id = excluded.org_id RETURNING org_id, seq, digest"
)
_PHASES: Final = "SELECT id, org_id, phase FROM sessions WHERE id = ANY($1::text[])"

_WRITE: Final = f"SELECT enclave_write({', '.join(f'${number}' for number in range(1, 49))})"
