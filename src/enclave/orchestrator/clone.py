"""The source of one session: fetched before its sandbox is made, and removed when that is gone."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import TypedDict

from enclave.backends.base import Mounted
from enclave.contracts.audit import AuditEvent, CloneCompleted, CloneStarted
from enclave.contracts.sessions import GitSource, Session
from enclave.core.grant import Grant
from enclave.core.remote import Remote
from enclave.orchestrator.record import PLATFORM
from enclave.source.base import SourceFetcher, Tree


class _Stamp(TypedDict):
    ts: datetime
    org_id: str
    session_id: str
    actor: str


class Clone:
    """A session's source, if it has one. It owns the tree: whatever becomes of the session, `release` removes it."""

    def __init__(
        self, fetcher: SourceFetcher | None, session: Session, clock: Callable[[], datetime], grant: Grant | None
    ) -> None:
        self._fetcher = fetcher
        self._session = session
        self._clock = clock
        self._grant = grant
        self._fetching: asyncio.Task[Tree] | None = None
        self._tree: Tree | None = None
        self._cancelled = False

    @property
    def mounted(self) -> Mounted | None:
        """What the sandbox is to be given; None without a source."""
        if self._tree is None or self._session.source is None:
            return None
        return Mounted(self._tree.path, self._session.source.git.entrypoint)

    async def make(self, note: Callable[[AuditEvent], None]) -> None:
        """Fetch the source if there is one, telling of it. Raises FetchFailed; cancelled, it returns without a tree."""
        if self._session.source is None or self._fetcher is None or self._cancelled:
            return
        source, grant, self._grant = self._session.source.git, self._grant, None
        note(self._started(source))
        self._fetching = asyncio.get_running_loop().create_task(self._fetcher.fetch(source, grant))
        await asyncio.wait((self._fetching,))
        if not self._fetching.cancelled():
            self._tree = self._fetching.result()
            note(self._completed(self._tree))

    def cancel(self) -> None:
        """Fetch no further."""
        self._cancelled = True
        if self._fetching is not None:
            self._fetching.cancel()

    async def release(self) -> None:
        """Remove the tree, if there is one."""
        if self._tree is not None and self._fetcher is not None:
            await self._fetcher.release(self._tree)

    def _started(self, source: GitSource) -> CloneStarted:
        return CloneStarted(
            **self._stamp(),
            url=Remote.parse(source.url).url,
            ref=source.ref,
            binding=source.binding,
            entrypoint=source.entrypoint,
        )

    def _completed(self, tree: Tree) -> CloneCompleted:
        return CloneCompleted(
            **self._stamp(),
            commit=tree.commit,
            files=tree.files,
            bytes=tree.bytes,
            omitted=tree.omitted,
            duration_ms=round(tree.seconds * 1000, 3),
        )

    def _stamp(self) -> _Stamp:
        session = self._session
        return _Stamp(ts=self._clock(), org_id=session.org_id, session_id=session.id, actor=PLATFORM)
