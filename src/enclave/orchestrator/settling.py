"""Sessions that nobody runs, brought to their end; and all that was written of one."""

import asyncio
import contextlib
import logging
from collections.abc import Collection, Sequence
from typing import Final

from enclave.backends.base import Exit
from enclave.contracts.audit import AuditEvent
from enclave.contracts.errors import StaleSession, Unavailable
from enclave.contracts.sessions import Session
from enclave.core.session import advance
from enclave.orchestrator.ending import Loss, cut_short, lost
from enclave.orchestrator.record import PLATFORM, Ports
from enclave.orchestrator.transcript import everything, joined
from enclave.store.base import Chunk, Journals, Store

_LOST: Final = Loss(
    "platform_restart", "the platform was restarted while the session ran, or could not record how it ended"
)
_PART: Final = 1000
_AT_ONCE: Final = 32
"""How many sessions are settled in one go: their output is in memory meanwhile."""

_log = logging.getLogger(__name__)


async def settle(ports: Ports, ours: Collection[str]) -> None:
    """End every unsettled session but those that this process runs, with what their journals have. Raises
    Unavailable."""
    adrift = [session for session in await ports.store.unsettled() if session.id not in ours]
    for start in range(0, len(adrift), _AT_ONCE):
        await asyncio.gather(*(_settle(ports, session) for session in adrift[start : start + _AT_ONCE]))


async def _settle(ports: Ports, session: Session) -> None:
    printed = joined(await journalled(ports.journals, session))
    at = ports.clock()
    result = cut_short(Exit(code=None), printed, _LOST.detail)
    change = advance(session, lost(session, _LOST, at, result), at=at, actor=PLATFORM)
    # Of several who see the same, the store lets one; and one that ran here may have ended by itself meanwhile.
    with contextlib.suppress(StaleSession):
        await ports.store.commit(change)


async def journalled(journals: Journals, session: Session) -> Sequence[Chunk]:
    """What a session printed, as far as it is there to be read."""
    try:
        return await everything(journals.journal(session.org_id, session.id))
    except Unavailable as error:
        _log.error("session %s: its journal cannot be read: %r", session.id, error, exc_info=error)
        return ()


async def trail_of(store: Store, session: Session, after: int = 0) -> tuple[AuditEvent, ...]:
    """All of a session's events with `seq` above `after`. Raises NotFound."""
    events: tuple[AuditEvent, ...] = ()
    while True:
        last = events[-1].seq if events else after
        part = await store.trail(session.org_id, session.id, after=last, limit=_PART)
        events += tuple(part)
        if len(part) < _PART:
            return events
