"""Sessions that another control plane runs, on the store that both share: followed by what it commits, and torn down by
asking for it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from itertools import takewhile
from typing import Final
from weakref import ReferenceType, WeakValueDictionary, ref

from enclave.contracts.audit import AuditEvent
from enclave.contracts.errors import EnclaveError, InternalError, Unavailable
from enclave.contracts.sessions import Phase, Session
from enclave.core.session import UNSETTLED
from enclave.orchestrator.settling import trail_of
from enclave.orchestrator.stream import Stream, opens
from enclave.orchestrator.transcript import kept
from enclave.store.base import Channel, Chunk, Filter, Store
from enclave.store.base.replicas import Replicas, Wish

TEARDOWN_SECONDS: Final = 10.0
"""How long another control plane may take to tear a session down."""

LOOK_SECONDS: Final = 2.0
"""How often is looked even if nobody tells of anything."""

_MANY: Final = 10_000

_log = logging.getLogger(__name__)


class Unseen:
    """The transcript of a session that another control plane runs: its output is where it runs."""

    over = False

    def __init__(self) -> None:
        self.totals: dict[Channel, int] = {"stdout": 0, "stderr": 0}

    async def read(self, place: int) -> tuple[Sequence[Chunk], int]:
        """Nothing yet."""
        return (), place


class RemoteStream(Stream):
    """What is told of a session that another control plane runs: its events as they are committed, and what it printed
    when it is over."""

    def __init__(self, store: Store, session: Session) -> None:
        super().__init__(Unseen())
        self.session = session
        self.over = False
        # Somebody may come from where the output is live, and has more of it than there is here.
        self.shortened = True
        self._store = store
        self._seq = 0
        self._looking = asyncio.Lock()

    async def look(self) -> None:
        """Publish what was committed since the last time. Raises Unavailable."""
        async with self._looking:
            if not self.over:
                session = await self._store.get(self.session.org_id, self.session.id)
                self._tell_of(session, await trail_of(self._store, self.session, self._seq))

    def _tell_of(self, session: Session, events: tuple[AuditEvent, ...]) -> None:
        # Of a session that was not over a moment ago the end is not told before its result is known.
        self.session, self.over = session, session.phase not in UNSETTLED
        known = events if self.over else tuple(takewhile(opens, events))
        if self.over:
            self.transcript = kept(session, ())
            self.shortened = session.result is not None and session.result.error is not None
        if known:
            self._seq = known[-1].seq
            self.publish(known, session)


class Elsewhere:
    """What this control plane does about the others' sessions, and what it does for the others about its own."""

    def __init__(self, store: Store, replicas: Replicas) -> None:
        self._store = store
        self._replicas = replicas
        self._streams: WeakValueDictionary[str, RemoteStream] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._honouring: set[str] = set()

    async def follow(self, session: Session) -> Stream:
        """The stream of a session that another runs, with all that is committed of it. One for all who follow it, and
        as long as anyone does."""
        stream = self._streams.get(session.id)
        if stream is None:
            stream = self._streams[session.id] = RemoteStream(self._store, session)
            self._spawn(self._tell(session.id, ref(stream)))
        await stream.look()
        return stream

    async def wish(self, session: Session, actor: str) -> None:
        """Have the session torn down, and its files removed, by the one who runs it or ran it."""
        await self._replicas.wish(Wish(session.org_id, session.id, actor))

    async def evict(self, org_id: str, actor: str, ours: Collection[str]) -> None:
        """Have every session of an org torn down that others run."""
        for phase in UNSETTLED:
            for session in await self._store.find(org_id, Filter(phase=phase), limit=_MANY):
                if session.id not in ours:
                    await self.wish(session, actor)

    async def torn_down(self, session: Session) -> Session:
        """The session, once it is torn down. Raises Unavailable if it is not in time; it will be nonetheless."""
        try:
            async with asyncio.timeout(TEARDOWN_SECONDS):
                while session.phase is not Phase.TORN_DOWN:
                    changed = self._replicas.changed(session.id)
                    session = await self._store.get(session.org_id, session.id)
                    if session.phase is not Phase.TORN_DOWN:
                        await asyncio.wait((changed,), timeout=LOOK_SECONDS)
        except TimeoutError:
            raise Unavailable("another replica runs the session and has not torn it down yet", retry_after=1) from None
        return session

    async def attend(self, honour: Callable[[Wish], Awaitable[None]]) -> None:
        """Do for others what they ask for, until cancelled."""
        while True:
            wished = self._replicas.wished()
            try:
                for wish in await self._replicas.wishes():
                    if wish.session_id not in self._honouring:
                        self._honouring.add(wish.session_id)
                        self._spawn(self._honour(wish, honour))
            except Unavailable as error:
                _log.error("what other replicas ask for cannot be read: %s", error.detail)
            await asyncio.wait((wished,), timeout=LOOK_SECONDS)

    async def _honour(self, wish: Wish, honour: Callable[[Wish], Awaitable[None]]) -> None:
        try:
            await honour(wish)
            await self._replicas.honoured(wish)
        except (EnclaveError, OSError) as error:
            _log.error("session %s cannot be torn down: %r", wish.session_id, error)
        finally:
            self._honouring.discard(wish.session_id)

    async def _tell(self, session_id: str, told: "ReferenceType[RemoteStream]") -> None:
        """Have a stream look whenever there is something to be seen, as long as anyone holds it."""
        while True:
            changed = self._replicas.changed(session_id)
            if not await _look(told):
                return
            await asyncio.wait((changed,), timeout=LOOK_SECONDS)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _look(told: "ReferenceType[RemoteStream]") -> bool:
    """Whether there is still something to be seen."""
    stream = told()
    if stream is None or stream.over:
        return False
    try:
        await stream.look()
    except EnclaveError as error:
        stream.fail(error)
        return False
    except Exception as error:  # noqa: BLE001  whoever follows must not wait for nothing
        _log.error("session %s: %r", stream.session.id, error, exc_info=error)
        stream.fail(InternalError())
        return False
    return not stream.over
