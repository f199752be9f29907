"""What a store is: few writes, each with its event, and reads that are scoped to an org by their signature.

Beside it, what keeps files, and what keeps the output of sessions while they run.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar

from enclave.contracts.audit import AuditEvent, BindingDeleted, BindingPut
from enclave.contracts.bindings import Binding
from enclave.contracts.sessions import Phase, Session
from enclave.core.grant import Grant
from enclave.core.session import Change

T = TypeVar("T")

Channel = Literal["stdout", "stderr"]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which of an org's sessions to find: in this phase, and with each of these labels."""

    phase: Phase | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Head:
    """Where an org's chain ends."""

    org_id: str
    seq: int
    digest: str


class Store(Protocol):
    """Sessions and audit events, kept together."""

    def commit(self, change: Change) -> Awaitable[tuple[AuditEvent, ...]]:
        """Write a change, whole or not at all; the answer, the sealed events, comes when it is durable.

        The write is queued when `commit` is called, not when the answer is awaited: what is committed first is written
        first. Raises StaleSession when the session is no longer in `change.before`.
        """
        ...

    async def get(self, org_id: str, session_id: str) -> Session:
        """One session, with its result. Raises NotFound, for another org's just as for none."""
        ...

    async def find(
        self, org_id: str, wanted: Filter, *, before: str | None = None, limit: int = 50
    ) -> Sequence[Session]:
        """The org's sessions, newest (greatest id) first, without results; `before` excludes an id and all newer."""
        ...

    async def trail(self, org_id: str, session_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[AuditEvent]:
        """The session's events with `seq` above `after`, oldest first. Raises NotFound."""
        ...

    async def chain(self, org_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[AuditEvent]:
        """The org's events with `seq` above `after`, in their order, those that belong to no session among them."""
        ...

    def note(self, key: str, event: AuditEvent) -> Awaitable[AuditEvent]:
        """Add an event that belongs to no session to its org's chain; the answer, the sealed event, comes when it is
        durable. Raises Conflict if one was added with this key."""
        ...

    async def heads(self, after: int = 0) -> tuple[int, Sequence[Head]]:
        """Where the chains end that grew since a moment, which an earlier answer named; of all that there are with 0.
        And the moment of this answer, to ask with next."""
        ...

    async def unsettled(self) -> Sequence[Session]:
        """Every session, of any org, that is pending or running."""
        ...

    async def close(self) -> None:
        """Write what is queued and release everything."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A binding to be written, its secret, and the event that tells of it."""

    binding: Binding
    secret: str = field(repr=False)
    event: BindingPut


class Bindings(Protocol):
    """Service bindings and their secrets, which are not to be found in what is stored. Beside a Store: the events of
    both make one chain."""

    def put(self, entry: Entry) -> Awaitable[tuple[Binding, bool]]:
        """Make a binding in the event's org or replace the one of its name, and write the event: both or neither.

        The answer, when it is durable, is the binding as it is now and whether it was made; one that was replaced keeps
        when and by whom it was made. Raises Conflict if the org has too many, or has one that sessions would find
        in the same variable.
        """
        ...

    def delete(self, event: BindingDeleted) -> Awaitable[Binding]:
        """Delete the binding that the event tells of, and write the event: both or neither. Raises NotFound."""
        ...

    async def get(self, org_id: str, name: str) -> Binding:
        """One binding. Raises NotFound, for another org's just as for none."""
        ...

    async def find(self, org_id: str, *, after: str = "", limit: int = 50) -> Sequence[Binding]:
        """The org's bindings by name; `after` excludes a name and all before it."""
        ...

    async def grants(self, org_id: str, names: Collection[str]) -> Mapping[str, Grant]:
        """Those of the names that the org has, with their secrets. Raises SecretUnreadable."""
        ...


class Content(Protocol):
    """A kept file that is being read."""

    async def piece(self) -> bytes:
        """The next piece, of bounded size; empty at the end."""
        ...

    def close(self) -> None:
        """Let go of it. Allowed at any time."""
        ...


@dataclass(frozen=True, slots=True)
class Kept:
    """A session of which files, or a journal, are kept."""

    org_id: str
    session_id: str


class FileStore(Protocol):
    """Files that programs left, by session and by their place in its result, until they are removed."""

    async def keep(self, session: Session, take: Callable[[Path], Awaitable[T]]) -> T:
        """Have `take` put files named 0, 1, … into an empty directory, and answer what it answers.

        When this returns they are durable, all of them, and before there are none. Raises OSError, and what `take`
        raises; nothing is left then.
        """
        ...

    async def read(self, session_id: str, place: int) -> Content:
        """The file at a place. Raises NoSuchFile."""
        ...

    async def remove(self, session_id: str) -> None:
        """Remove a session's files, if it has any. What is being read can be read to its end."""
        ...

    async def kept(self, before: datetime | None = None) -> Sequence[Kept]:
        """The sessions that have files, with a moment only those whose files are older."""
        ...


class Chunk(NamedTuple):
    """Some characters that a program printed on one channel, where in it they start, and when they came."""

    channel: Channel
    start: int
    text: str
    ts: datetime

    @property
    def stop(self) -> int:
        """Where the channel goes on."""
        return self.start + len(self.text)


class Journal(Protocol):
    """What one session prints, in the order in which it came. It costs nothing until there is something in it."""

    def append(self, chunks: Sequence[Chunk], *, sync: bool = True) -> Awaitable[int]:
        """Add chunks; the answer, the place behind them, comes when they would outlive this process.

        Soon after they would outlive a power cut too, unless that is not needed (`sync`). The write is queued when
        `append` is called. Raises Unavailable; none of them is there then, and they may be added again.
        """
        ...

    async def read(self, place: int = 0) -> tuple[Sequence[Chunk], int]:
        """Some of the chunks from a place on, 0 or one that was answered, and the place behind them; none at the end.

        What was damaged, or cut short by a crash, is the end. Raises Unavailable, also for what was removed while the
        session ran.
        """
        ...


class Journals(Protocol):
    """The output of sessions while they run and until it is removed: what was read of one is read again after a crash.

    Use it from one event loop.
    """

    def journal(self, org_id: str, session_id: str) -> Journal:
        """The journal of a session, with what it has in it from earlier."""
        ...

    async def remove(self, session_id: str) -> None:
        """Remove a session's journal, if it has any; what was added before is gone then."""
        ...

    async def kept(self, before: datetime | None = None) -> Sequence[Kept]:
        """The sessions that have a journal, with a moment only those to which nothing was added since."""
        ...

    async def close(self) -> None:
        """Write what is queued and release everything."""
        ...
