"""What a store is: few writes, each with its event, and reads that are scoped to an org by their signature.

Beside it, what keeps files, and what keeps the output of sessions while they run.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar

from enclave.contracts.audit import (
    AuditEvent,
    BindingDeleted,
    BindingPut,
    OrgPolicyChanged,
    OrgTermsChanged,
)
from enclave.contracts.bindings import Binding
from enclave.contracts.checkpoint import Checkpoint
from enclave.contracts.sessions import Phase, Session
from enclave.contracts.tenancy import OrgPolicy, OrgTerms
from enclave.contracts.webhooks import Delivery, WebhookRedelivered, WebhookSecretRotated
from enclave.core import proof
from enclave.core.claim import Claimed
from enclave.core.grant import Grant
from enclave.core.session import Callback, Change
from enclave.core.usage import Used

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


@dataclass(frozen=True, slots=True)
class Oldest:
    """The oldest entries of an org's chain, as they are stored, and the tombstone that they follow."""

    tombstone: Checkpoint | None
    entries: Sequence[proof.Entry]


class Store(Protocol):
    """Sessions and audit events, kept together."""

    def commit(self, change: Change) -> Awaitable[tuple[AuditEvent, ...]]:
        """Write a change, whole or not at all; the answer, the sealed events, comes when it is durable.

        The write is queued when `commit` is called, not when the answer is awaited: what is committed first is written
        first. Raises StaleSession when the session is no longer in `change.before`, and KeyReused when its claim was
        made within the last 24 hours (by the session's `created_at`).
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

    async def claimed(self, org_id: str, key: str, since: datetime) -> Claimed | None:
        """Whom a key of an org's requests was taken by, if that was since then."""
        ...

    def note(self, key: str, event: AuditEvent) -> Awaitable[AuditEvent]:
        """Add an event that belongs to no session to its org's chain; the answer, the sealed event, comes when it is
        durable. Raises Conflict if one was added with this key."""
        ...

    async def heads(self, after: int = 0) -> tuple[int, Sequence[Head]]:
        """Where the chains end that grew since a moment, which an earlier answer named; of all that there are with 0.
        And the moment of this answer, to ask with next."""
        ...

    async def oldest(self, org_id: str, limit: int = 1000) -> Oldest:
        """The oldest entries of an org's chain, at most so many."""
        ...

    def bury(self, tombstone: Checkpoint) -> Awaitable[None]:
        """Remove the entries of an org up to one that is not its last, and keep what attests them: both or neither.
        Nothing else removes an entry. Raises Conflict if that is not so."""
        ...

    def forget(self, before: str, limit: int = 1000) -> Awaitable[Sequence[str]]:
        """Remove sessions that are settled, the oldest first, of ids below one, at most so many; the answer is their
        ids. Their events stay in the chain. None goes whose webhook is still to be sent."""
        ...

    async def unsettled(self) -> Sequence[Session]:
        """Every session, of any org, that is pending or running; but those that another control plane runs that shares
        the store and lives."""
        ...

    async def check(self) -> None:
        """Pass if the store can be read and written now. Raises Unavailable, saying what cannot be."""
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


@dataclass(frozen=True, slots=True)
class Standing:
    """What is written of an org: its terms, None if it was given none, its own policy, and what it used on a day."""

    terms: OrgTerms | None
    policy: OrgPolicy
    used: Used


class Tenancy(Protocol):
    """What orgs may have and what they use. Beside a Store: what a change that it commits uses (`core.usage`) is
    written in the change's transaction."""

    def put_terms(self, event: OrgTermsChanged) -> Awaitable[None]:
        """Give an org the event's terms, and write the event: both or neither. The answer comes when it is durable."""
        ...

    def put_default(self, terms: OrgTerms) -> Awaitable[None]:
        """Give terms to every org that was given none. No event tells of it: it belongs to no org."""
        ...

    def put_policy(self, event: OrgPolicyChanged) -> Awaitable[None]:
        """Set an org's own policy to the event's, and write the event: both or neither."""
        ...

    async def default(self) -> OrgTerms:
        """The terms of every org that was given none."""
        ...

    async def standing(self, org_id: str, day: date) -> Standing:
        """What is written of an org, which need not be known: an org is known where its callers are."""
        ...


@dataclass(frozen=True, slots=True)
class Share:
    """How much may be offered at once: of one org to one host, of one org, and of all."""

    host: int
    org: int
    all: int


@dataclass(frozen=True, slots=True)
class Due:
    """A webhook that is to be sent: whose, to which host, and of which session."""

    org_id: str
    host: str
    session_id: str


@dataclass(frozen=True, slots=True)
class Held:
    """A webhook that is nobody else's to send until a moment; `sealed` is its URL, `phase` how its session ended."""

    due: Due
    phase: Phase
    attempts: int
    sealed: bytes = field(repr=False)
    until: datetime


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of a webhook that was claimed: without an error it was taken. With `next_at` it is tried again then,
    and without it it is over."""

    claimed: Held
    at: datetime
    status: int | None
    error: str | None
    next_at: datetime | None
    events: tuple[AuditEvent, ...] = ()


class Outbox(Protocol):
    """Webhooks, from a session's creation until they are delivered or given up. Beside a Store, whose `commit` keeps a
    change's callback, and makes it due with the change that ends its session: both or neither."""

    def seal(self, session_id: str, host: str, url: str) -> Callback:
        """A callback for a session that is to be created. The URL is not to be found in what is stored."""
        ...

    def url(self, claimed: Held) -> str:
        """Where a webhook goes. Raises SecretUnreadable."""
        ...

    async def due(self, at: datetime, share: Share) -> Sequence[Due]:
        """What is to be sent at a moment and claimed by nobody: each org's in turn, of each org each host's in turn,
        the oldest first, so that nobody is kept waiting by what others have to be sent."""
        ...

    def claim(self, due: Due, at: datetime, until: datetime) -> Awaitable[Held]:
        """Take a webhook until a moment. Of all that ask at once, one gets it: raises Conflict for the others, and if
        it is not due."""
        ...

    def settle(self, attempt: Attempt) -> Awaitable[None]:
        """Write what became of a webhook, and the events of it: both or neither. Raises Conflict if the claim was not
        in force any more; whoever has it now will tell."""
        ...

    async def find(
        self, org_id: str, *, session_id: str | None = None, before: str | None = None, limit: int = 50
    ) -> Sequence[Delivery]:
        """The org's webhooks of sessions that are over, newest (greatest id) first; `before` excludes a session and
        all newer."""
        ...

    def redeliver(self, event: WebhookRedelivered) -> Awaitable[Delivery]:
        """Make the webhook that the event tells of due, as if it was never tried, and write the event: both or
        neither. Raises NotFound, for another org's just as for none."""
        ...


class Signing(Protocol):
    """What orgs' webhooks are signed with; not to be found in what is stored."""

    def rotate(self, secret: str, event: WebhookSecretRotated) -> Awaitable[None]:
        """Sign with a secret from now on, with the one before until the event's `previous_until`, and write the event:
        all or nothing. Raises Conflict if there is one before and the event says that there is none, or the reverse."""
        ...

    async def has_one(self, org_id: str) -> bool:
        """Whether there is anything that an org's webhooks are signed with."""
        ...

    async def secrets(self, org_id: str, at: datetime) -> Sequence[str]:
        """What an org's webhooks are signed with at a moment, the newest first. Raises SecretUnreadable."""
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

    def stored(self, org_id: str) -> int:
        """The bytes of an org's files, known without looking."""
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
