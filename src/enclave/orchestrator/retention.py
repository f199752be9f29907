"""What is kept of sessions that are over, and for how long."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from enclave.contracts.errors import NotFound
from enclave.contracts.sessions import Phase, Session
from enclave.orchestrator.identifier import first_id
from enclave.orchestrator.record import Ports
from enclave.store.base import Kept

_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Ages:
    """How long files and journals of a session are kept, and sessions, which without an age are kept for good."""

    files: timedelta
    sessions: timedelta | None = None


class Retention:
    """Removes what is old enough, and what is nobody's. `ours` are the sessions that run here."""

    def __init__(self, ports: Ports, ages: Ages, ours: Collection[str]) -> None:
        self._ports = ports
        self._ages = ages
        self._ours = ours
        self._swept = False

    async def begin(self) -> None:
        """Remove files that no session tells of. Call it before any session runs."""
        for one in await self._ports.files.kept():
            if not await self._tells_of_files(one):
                await self._ports.files.remove(one.session_id)

    async def tick(self) -> None:
        """Remove what was kept for long enough, and once the journals that an earlier process left. Call it now and
        then. Raises OSError and Unavailable."""
        await self._forget()
        before = self._ports.clock() - self._ages.files
        for one in await self._ports.files.kept(before):
            await self._ports.files.remove(one.session_id)
        for one in await self._ports.journals.kept(before):
            if one.session_id not in self._ours:
                await self._ports.journals.remove(one.session_id)
        if not self._swept:
            await self._sweep()
            self._swept = True

    async def _forget(self) -> None:
        if self._ages.sessions is None:
            return
        before = first_id(self._ports.clock() - self._ages.sessions)
        while ids := await self._ports.store.forget(before, _AT_ONCE):
            for session_id in ids:
                await self._ports.files.remove(session_id)
                await self._ports.journals.remove(session_id)

    async def _sweep(self) -> None:
        """Remove journals that an earlier process left of sessions that were torn down, or never came to be."""
        for one in await self._ports.journals.kept():
            if one.session_id in self._ours:
                continue
            session = await self._found(one)
            if session is None or session.phase is Phase.TORN_DOWN:
                await self._ports.journals.remove(one.session_id)

    async def _tells_of_files(self, one: Kept) -> bool:
        session = await self._found(one)
        if session is None or session.phase is Phase.TORN_DOWN or session.result is None:
            return False
        return bool(session.result.files)

    async def _found(self, one: Kept) -> Session | None:
        try:
            return await self._ports.store.get(one.org_id, one.session_id)
        except NotFound:
            return None
