"""Sessions that nobody runs, brought to their end; and all that was written of one."""

import contextlib
from collections.abc import Collection

from enclave.backends.base import Exit
from enclave.contracts.audit import AuditEvent
from enclave.contracts.errors import StaleSession
from enclave.contracts.sessions import Session
from enclave.core.session import advance
from enclave.orchestrator.ending import Loss, Printed, cut_short, lost
from enclave.orchestrator.record import PLATFORM, Ports
from enclave.store.base import Store

_RESTARTED = Loss("platform_restart", "the platform was restarted while the session ran")
_PART = 1000


async def settle(ports: Ports, ours: Collection[str]) -> None:
    """End every unsettled session but those that this process runs. Raises Unavailable."""
    for session in await ports.store.unsettled():
        if session.id not in ours:
            at = ports.clock()
            result = cut_short(Exit(code=None), Printed("", ""), _RESTARTED.detail)
            change = advance(session, lost(session, _RESTARTED, at, result), at=at, actor=PLATFORM)
            # Of several who see the same, the store lets one.
            with contextlib.suppress(StaleSession):
                await ports.store.commit(change)


async def trail_of(store: Store, session: Session, after: int = 0) -> tuple[AuditEvent, ...]:
    """All of a session's events with `seq` above `after`. Raises NotFound."""
    events: tuple[AuditEvent, ...] = ()
    while True:
        last = events[-1].seq if events else after
        part = await store.trail(session.org_id, session.id, after=last, limit=_PART)
        events += tuple(part)
        if len(part) < _PART:
            return events
