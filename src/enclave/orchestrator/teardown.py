"""The end that callers and the operator give sessions, wherever they run: stopped, told, and what they left removed."""

import asyncio
from collections.abc import Mapping
from typing import Final

from enclave.backends.base import Exit
from enclave.contracts.errors import Conflict
from enclave.contracts.sessions import Phase, Session
from enclave.core.session import UNSETTLED, TornDown, advance
from enclave.orchestrator.elsewhere import Elsewhere
from enclave.orchestrator.ending import Printed, cut_short
from enclave.orchestrator.record import OPERATOR, Ports
from enclave.orchestrator.run import Run, Stop
from enclave.store.base.replicas import Wish

_EVICTION_SECONDS: Final = 10.0


class Teardown:
    """Tears sessions down: `runs` are those of this control plane, and those of others are asked for `elsewhere`."""

    def __init__(self, ports: Ports, runs: Mapping[str, Run], elsewhere: Elsewhere | None) -> None:
        self._ports = ports
        self._runs = runs
        self._elsewhere = elsewhere
        self._evicting: set[asyncio.Task[None]] = set()

    async def order(self, session: Session, actor: str) -> Session:
        """Tear a session down, or have it torn down; the session as it is then. Raises Unavailable."""
        if self._elsewhere is None or session.id in self._runs:
            return await self._end(session, actor)
        if session.phase in UNSETTLED:
            await self._elsewhere.wish(session, actor)
            return await self._elsewhere.torn_down(session)
        if _left_something(session):
            await self._elsewhere.wish(session, actor)
        return await self._end(session, actor)

    async def honour(self, wish: Wish) -> None:
        """Tear down what another control plane was asked to."""
        await self._end(await self._ports.store.get(wish.org_id, wish.session_id), wish.actor)

    async def evict(self, org_id: str) -> None:
        """Stop and tear down every session of an org that runs, in the operator's name; returns after 10 seconds at the
        latest, while it goes on."""
        if self._elsewhere is not None:
            await self._elsewhere.evict(org_id, OPERATOR, set(self._runs))
        theirs = [run for run in self._runs.values() if run.record.session.org_id == org_id]
        stopping = {asyncio.get_running_loop().create_task(run.stop(Stop(OPERATOR))) for run in theirs}
        self._evicting |= stopping
        for task in stopping:
            task.add_done_callback(self._evicting.discard)
        if stopping:
            await asyncio.wait(stopping, timeout=_EVICTION_SECONDS)

    async def _end(self, session: Session, actor: str) -> Session:
        """Tear a session down that this control plane runs, or nobody does."""
        if (run := self._runs.get(session.id)) is not None:
            await run.stop(Stop(actor))
            session = await self._ports.store.get(session.org_id, session.id)
        while session.phase is not Phase.TORN_DOWN:
            session = await self._move(session, actor)
        if session.result is not None and session.result.files:
            await self._ports.files.remove(session.id)
        await self._ports.journals.remove(session.id)
        return session

    async def _move(self, session: Session, actor: str) -> Session:
        left = cut_short(Exit(code=None), Printed("", "")) if session.result is None else None
        change = advance(session, TornDown(left), at=self._ports.clock(), actor=actor)
        try:
            await self._ports.store.commit(change)
        except Conflict:
            return await self._ports.store.get(session.org_id, session.id)
        return change.session


def _left_something(session: Session) -> bool:
    """Whether whoever ran a session that is not torn down may keep files or a journal of it."""
    result = session.result
    if session.phase is Phase.TORN_DOWN or result is None:
        return False
    return bool(result.files or result.stdout or result.stderr)
