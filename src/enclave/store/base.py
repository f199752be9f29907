"""What a store is: one write, and reads that are scoped to an org by their signature."""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from enclave.contracts.audit import AuditEvent
from enclave.contracts.sessions import Phase, Session
from enclave.core.session import Change


@dataclass(frozen=True, slots=True)
class Filter:
    """Which of an org's sessions to find: in this phase, and with each of these labels."""

    phase: Phase | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


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

    async def unsettled(self) -> Sequence[Session]:
        """Every session, of any org, that is pending or running."""
        ...

    async def close(self) -> None:
        """Write what is queued and release everything."""
        ...
