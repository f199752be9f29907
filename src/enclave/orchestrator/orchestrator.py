"""What a caller can ask of the platform: authorize, look up in the caller's org, move the record.

Every lookup goes through the principal's org, so that another org's session and none are the same thing.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final
from weakref import WeakValueDictionary

from enclave.backends.base import Backend, Exit
from enclave.contracts.audit import AuditEvent
from enclave.contracts.errors import (
    Conflict,
    FieldProblem,
    InvalidRequest,
    NotFound,
    PolicyUnenforceable,
    QuotaExceeded,
    Unavailable,
)
from enclave.contracts.identity import Principal
from enclave.contracts.operations import (
    CREATE_SESSION,
    GET_AUDIT,
    GET_RESULT,
    GET_SESSION,
    LIST_SESSIONS,
    STREAM_SESSION,
    TEARDOWN_SESSION,
)
from enclave.contracts.policy import Guarantee
from enclave.contracts.sessions import CreateSessionRequest, Phase, Session, SessionResult, Source
from enclave.contracts.wire import Page
from enclave.core.access import authorize
from enclave.core.binding import Grant
from enclave.core.policy import Ceiling, check_egress, check_template, require, required, resolve
from enclave.core.remote import Remote
from enclave.core.session import UNSETTLED, TornDown, advance
from enclave.orchestrator.cursor import check_limit, cut, event_cursor, seq_of, session_cursor, session_of
from enclave.orchestrator.ending import Loss, Printed, cut_short, lost
from enclave.orchestrator.identifier import session_ids
from enclave.orchestrator.record import PLATFORM, Ports
from enclave.orchestrator.run import Run, Stop
from enclave.orchestrator.stream import Follower, Stream, parse_place, told
from enclave.source.base import SourceFetcher
from enclave.store.base import Filter, Store

__all__ = ["Filter", "Orchestrator"]

_ID: Final = re.compile(r"ses_[0-9a-z]{26}\Z")
_RESTARTED: Final = Loss("platform_restart", "the platform was restarted while the session ran")
_TRAIL_PART: Final = 1000


class Orchestrator:
    """Sessions: created, run, shown, streamed and torn down, on any backend and any store."""

    def __init__(  # noqa: PLR0913  the parts it is composed of
        self,
        store: Store,
        backend: Backend,
        ceiling: Ceiling,
        clock: Callable[[], datetime],
        max_concurrency: int,
        *,
        sources: SourceFetcher | None = None,
    ) -> None:
        self._ports = Ports(store, backend, clock, sources)
        self._ceiling = ceiling
        self._max_concurrency = max_concurrency
        self._ids = session_ids(clock)
        self._runs: dict[str, Run] = {}
        self._replays: WeakValueDictionary[tuple[str, Phase], Stream] = WeakValueDictionary()
        self._closed = False

    async def create(
        self, principal: Principal, request: CreateSessionRequest, *, wait_seconds: float | None = None
    ) -> Session:
        """Run a program. With a wait, the session as it is when terminal, or as it is after so many seconds."""
        authorize(principal, CREATE_SESSION)
        session = self._accept(principal, request)
        grant = _grant_of(request.source)
        self._admit()
        run = self._runs[session.id] = Run(self._ports, session, request.code, grant)
        run.task.add_done_callback(lambda _: self._runs.pop(session.id))
        return await run.record.answer(wait_seconds)

    async def get(self, principal: Principal, session_id: str) -> Session:
        """One session of the principal's org."""
        authorize(principal, GET_SESSION)
        return await self._find(principal, session_id)

    async def list(
        self, principal: Principal, wanted: Filter, *, cursor: str | None = None, limit: int = 50
    ) -> Page[Session]:
        """The org's sessions, newest first, without results."""
        authorize(principal, LIST_SESSIONS)
        check_limit(limit)
        before = session_of(cursor)
        found = await self._ports.store.find(principal.org_id, wanted, before=before, limit=limit + 1)
        items, last = cut(found, limit)
        return Page[Session](items=tuple(items), next_cursor=session_cursor(last.id) if last else None)

    async def result(self, principal: Principal, session_id: str) -> SessionResult:
        """The result of a session; raises Conflict while there is none."""
        authorize(principal, GET_RESULT)
        session = await self._find(principal, session_id)
        if session.result is None:
            raise Conflict(f"the session is {session.phase}; it has no result yet")
        return session.result

    async def audit(
        self, principal: Principal, session_id: str, *, cursor: str | None = None, limit: int = 50
    ) -> Page[AuditEvent]:
        """The session's audit trail, oldest first."""
        authorize(principal, GET_AUDIT)
        check_limit(limit)
        after = seq_of(cursor)
        _check_id(session_id)
        found = await self._ports.store.trail(principal.org_id, session_id, after=after, limit=limit + 1)
        items, last = cut(found, limit)
        return Page[AuditEvent](items=tuple(items), next_cursor=event_cursor(last.seq) if last else None)

    async def follow(self, principal: Principal, session_id: str, cursor: str | None = None) -> Follower:
        """The session's stream from a place on; an async iterator of (place behind the frame, frame)."""
        authorize(principal, STREAM_SESSION)
        session = await self._find(principal, session_id)
        place = parse_place(cursor)
        if (run := self._runs.get(session_id)) is not None:
            return Follower(run.record.stream, place)
        if session.phase in UNSETTLED:
            raise Unavailable("the end of this session could not be recorded")
        return Follower(await self._replay(session), place)

    async def teardown(self, principal: Principal, session_id: str) -> Session:
        """Stop the session if it runs and reclaim what belongs to it; a session torn down stays as it is."""
        authorize(principal, TEARDOWN_SESSION)
        session = await self._find(principal, session_id)
        if (run := self._runs.get(session_id)) is not None:
            await run.stop(Stop(principal.user_id))
            session = await self._find(principal, session_id)
        while session.phase is not Phase.TORN_DOWN:
            session = await self._tear_down(principal, session)
        return session

    async def recover(self) -> None:
        """Settle what an earlier process left behind; its sandboxes died with it. Call it once, before anything."""
        for session in await self._ports.store.unsettled():
            at = self._ports.clock()
            result = cut_short(Exit(code=None), Printed("", ""), _RESTARTED.detail)
            change = advance(session, lost(session, _RESTARTED, at, result), at=at, actor=PLATFORM)
            await self._ports.store.commit(change)

    async def close(self) -> None:
        """Take no more sessions, and stop those that run: they end as failed, by reason of platform_restart."""
        self._closed = True
        runs = tuple(self._runs.values())
        await asyncio.gather(*(run.stop(Stop()) for run in runs), return_exceptions=True)

    def _accept(self, principal: Principal, request: CreateSessionRequest) -> Session:
        _check_implemented(request)
        check_egress(request.egress)
        limits = resolve(request.limits, self._ceiling)
        if request.source is not None:
            Remote.parse(request.source.git.url)
        require(required(request.language, request.egress, request.source), self._guarantees())
        if request.template is not None:
            check_template(request.template, request.language, self._ports.backend.templates())
        return Session(
            id=next(self._ids),
            org_id=principal.org_id,
            created_by=principal.user_id,
            phase=Phase.PENDING,
            language=request.language,
            template=request.template,
            source=request.source,
            limits=limits,
            egress=request.egress,
            backend=self._ports.backend.name,
            labels=request.labels,
            created_at=self._ports.clock(),
        )

    def _guarantees(self) -> frozenset[Guarantee]:
        without = frozenset({Guarantee.GIT_SOURCE}) if self._ports.sources is None else frozenset[Guarantee]()
        return self._ports.backend.guarantees - without

    def _admit(self) -> None:
        if self._closed:
            raise Unavailable("the platform is shutting down", retry_after=1)
        # Runs whose sandbox is reaped behind the answer do not count; only among many is it worth telling them apart.
        if len(self._runs) >= self._max_concurrency and self._unsettled() >= self._max_concurrency:
            raise QuotaExceeded(f"{self._max_concurrency} sessions are running; wait and retry", retry_after=1)

    def _unsettled(self) -> int:
        return sum(not run.record.settled for run in self._runs.values())

    async def _find(self, principal: Principal, session_id: str) -> Session:
        _check_id(session_id)
        run = self._runs.get(session_id)
        if run is not None and run.record.shown is not None and run.record.shown.org_id == principal.org_id:
            return run.record.shown
        return await self._ports.store.get(principal.org_id, session_id)

    async def _tear_down(self, principal: Principal, session: Session) -> Session:
        left = cut_short(Exit(code=None), Printed("", "")) if session.result is None else None
        change = advance(session, TornDown(left), at=self._ports.clock(), actor=principal.user_id)
        try:
            await self._ports.store.commit(change)
        except Conflict:
            return await self._ports.store.get(principal.org_id, session.id)
        return change.session

    async def _replay(self, session: Session) -> Stream:
        # Many may follow one session that is over; its output is held once for all of them, and while they do.
        key = (session.id, session.phase)
        if (held := self._replays.get(key)) is not None:
            return held
        return self._replays.setdefault(key, told(session, await self._trail(session)))

    async def _trail(self, session: Session) -> tuple[AuditEvent, ...]:
        events: tuple[AuditEvent, ...] = ()
        while True:
            after = events[-1].seq if events else 0
            part = await self._ports.store.trail(session.org_id, session.id, after=after, limit=_TRAIL_PART)
            events += tuple(part)
            if len(part) < _TRAIL_PART:
                return events


def _check_id(session_id: str) -> None:
    if not _ID.match(session_id):
        raise NotFound


def _grant_of(source: Source | None) -> Grant | None:
    """The binding whose secret a clone is made with. The one place to change once an org can have bindings."""
    if source is None or source.git.binding is None:
        return None
    problem = FieldProblem(field="source.git.binding", message="there is no such binding")
    raise InvalidRequest("no such binding", errors=(problem,))


def _check_implemented(request: CreateSessionRequest) -> None:
    asked: Mapping[str, object] = {"serviceBindings": request.service_bindings, "webhookUrl": request.webhook_url}
    if named := tuple(name for name, value in asked.items() if value):
        message = "is not implemented yet; leave it out"
        raise PolicyUnenforceable(
            f"this platform does not implement: {', '.join(named)}",
            errors=tuple(FieldProblem(field=name, message=message) for name in named),
        )
