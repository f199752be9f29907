"""What a caller can ask of the platform: authorize, look up in the caller's org, move the record.

Every lookup goes through the principal's org, so that another org's session and none are the same thing.
"""

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from weakref import WeakValueDictionary

from enclave.backends.base import Exit
from enclave.contracts.audit import AuditEvent
from enclave.contracts.errors import (
    Conflict,
    FieldProblem,
    NoSuchFile,
    NotFound,
    PolicyUnenforceable,
    QuotaExceeded,
    Unavailable,
)
from enclave.contracts.files import SessionFile
from enclave.contracts.identity import Principal
from enclave.contracts.logs import LogEntry
from enclave.contracts.operations import (
    CREATE_SESSION,
    GET_AUDIT,
    GET_FILE,
    GET_LOGS,
    GET_ORG_AUDIT,
    GET_RESULT,
    GET_SESSION,
    LIST_SESSIONS,
    STREAM_SESSION,
    TEARDOWN_SESSION,
)
from enclave.contracts.policy import Guarantee
from enclave.contracts.sessions import CreateSessionRequest, Phase, Session, SessionResult
from enclave.contracts.wire import Page
from enclave.core.access import authorize
from enclave.core.cursor import check_limit, cut, event_cursor, log_of, refuse, seq_of, session_cursor, session_of
from enclave.core.files import check_files, contents
from enclave.core.policy import Ceiling, check_egress, check_template, require, required, resolve
from enclave.core.remote import Remote
from enclave.core.session import UNSETTLED, Program, TornDown, advance
from enclave.orchestrator.bindings import ServiceBindings
from enclave.orchestrator.ending import Loss, Printed, cut_short, lost
from enclave.orchestrator.identifier import session_ids
from enclave.orchestrator.log import Pages
from enclave.orchestrator.record import PLATFORM, Ports, Record
from enclave.orchestrator.run import Run, Stop
from enclave.orchestrator.stream import Follower, Stream, parse_place, told
from enclave.orchestrator.transcript import Transcript, everything, joined, kept
from enclave.store.base import Chunk, Content, Filter, Kept

__all__ = ["Bounds", "Content", "Filter", "Orchestrator", "Ports", "ServiceBindings"]

_log = logging.getLogger(__name__)

_ID: Final = re.compile(r"ses_[0-9a-z]{26}\Z")
_RESTARTED: Final = Loss("platform_restart", "the platform was restarted while the session ran")
_TRAIL_PART: Final = 1000
_RECOVERED_AT_ONCE: Final = 32
"""How many sessions are settled in one go: their output is in memory meanwhile."""

DRAIN_SECONDS: Final = 3.0
"""How long the sessions that run may take to be stopped."""

DEFAULT_RETENTION: Final = timedelta(days=1)
"""How long files of a session are kept that is not torn down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the operator bounds: each session, how many run at once, and how long files and journals are kept."""

    max_concurrency: int
    ceiling: Ceiling = field(default_factory=Ceiling)
    file_retention: timedelta = DEFAULT_RETENTION


class Orchestrator:
    """Sessions: created, run, shown, streamed and torn down, on any backend and any store."""

    def __init__(self, ports: Ports, bindings: ServiceBindings, bounds: Bounds) -> None:
        self.bindings = bindings
        self._ports = ports
        self._bounds = bounds
        self._ids = session_ids(ports.clock)
        self._runs: dict[str, Run] = {}
        self._replays: WeakValueDictionary[tuple[str, Phase], Stream] = WeakValueDictionary()
        self._closed = False
        self._swept = False

    async def create(
        self, principal: Principal, request: CreateSessionRequest, *, wait_seconds: float | None = None
    ) -> Session:
        """Run a program. With a wait, the session as it is when terminal, or as it is after so many seconds."""
        authorize(principal, CREATE_SESSION)
        record = await self._begin(principal, request)
        del request  # it may be large, and the wait long
        return await record.answer(wait_seconds)

    async def _begin(self, principal: Principal, request: CreateSessionRequest) -> Record:
        program = await self._program(principal, request)
        session = self._accept(principal, request, program)
        self._admit()
        run = self._runs[session.id] = Run(self._ports, session, program)
        run.task.add_done_callback(lambda _: self._runs.pop(session.id))
        return run.record

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

    async def org_audit(self, principal: Principal, *, cursor: str | None = None, limit: int = 50) -> Page[AuditEvent]:
        """The whole chain of the org, oldest first."""
        authorize(principal, GET_ORG_AUDIT)
        check_limit(limit)
        found = await self._ports.store.chain(principal.org_id, after=seq_of(cursor), limit=limit + 1)
        items, last = cut(found, limit)
        return Page[AuditEvent](items=tuple(items), next_cursor=event_cursor(last.seq) if last else None)

    async def follow(self, principal: Principal, session_id: str, cursor: str | None = None) -> Follower:
        """The session's stream from a place on; an async iterator of (place behind the frame, frame)."""
        authorize(principal, STREAM_SESSION)
        session = await self._find(principal, session_id)
        place = parse_place(cursor)
        if (run := self._runs.get(session_id)) is not None:
            return Follower(run.record.stream, place)
        _check_settled(session)
        return Follower(await self._replay(session), place)

    async def logs(
        self, principal: Principal, session_id: str, *, after: str | None = None, limit: int = 50
    ) -> Page[LogEntry]:
        """What the session's program printed, behind a page's cursor: as much as is written, while it runs."""
        authorize(principal, GET_LOGS)
        check_limit(limit)
        stdout, stderr = log_of(after)
        session = await self._find(principal, session_id)
        transcript = await self._transcript(session)
        lost = session.result is not None and session.result.error is not None
        if not lost and (stdout > transcript.totals["stdout"] or stderr > transcript.totals["stderr"]):
            refuse("after")
        return await Pages(transcript, stdout, stderr).first(limit)

    async def file(self, principal: Principal, session_id: str, path: str) -> tuple[SessionFile, Content]:
        """A file that the session's program left. Raises Conflict while it runs, and NoSuchFile."""
        authorize(principal, GET_FILE)
        session = await self._find(principal, session_id)
        if session.phase in UNSETTLED:
            raise Conflict(f"the session is {session.phase}; its files can be fetched when it is over")
        files = session.result.files if session.result is not None else ()
        for place, file in enumerate(files):
            if file.path == path and session.phase is not Phase.TORN_DOWN:
                return file, await self._ports.files.read(session_id, place)
        raise NoSuchFile

    async def teardown(self, principal: Principal, session_id: str) -> Session:
        """Stop the session if it runs and reclaim what belongs to it; a session torn down stays as it is."""
        authorize(principal, TEARDOWN_SESSION)
        session = await self._find(principal, session_id)
        if (run := self._runs.get(session_id)) is not None:
            await run.stop(Stop(principal.user_id))
            session = await self._find(principal, session_id)
        while session.phase is not Phase.TORN_DOWN:
            session = await self._tear_down(principal, session)
        if session.result is not None and session.result.files:
            await self._ports.files.remove(session.id)
        await self._ports.journals.remove(session.id)
        return session

    async def recover(self) -> None:
        """Settle what an earlier process left behind; its sandboxes died with it. Call it once, before anything."""
        unsettled = await self._ports.store.unsettled()
        for start in range(0, len(unsettled), _RECOVERED_AT_ONCE):
            await asyncio.gather(*map(self._settle, unsettled[start : start + _RECOVERED_AT_ONCE]))
        for one in await self._ports.files.kept():
            if not await self._tells_of_files(one):
                await self._ports.files.remove(one.session_id)

    async def tick(self) -> None:
        """Remove files and journals that were kept for long enough, or are nobody's. Call it now and then."""
        before = self._ports.clock() - self._bounds.file_retention
        for one in await self._ports.files.kept(before):
            await self._ports.files.remove(one.session_id)
        for one in await self._ports.journals.kept(before):
            if one.session_id not in self._runs:
                await self._ports.journals.remove(one.session_id)
        if not self._swept:
            await self._sweep()
            self._swept = True

    async def _settle(self, session: Session) -> None:
        at = self._ports.clock()
        printed = joined(await self._journalled(session))
        result = cut_short(Exit(code=None), printed, _RESTARTED.detail)
        await self._ports.store.commit(advance(session, lost(session, _RESTARTED, at, result), at=at, actor=PLATFORM))

    async def _sweep(self) -> None:
        """Remove journals that an earlier process left of sessions that were torn down, or never came to be."""
        for one in await self._ports.journals.kept():
            if one.session_id not in self._runs and not await self._is_whole(one):
                await self._ports.journals.remove(one.session_id)

    async def _is_whole(self, one: Kept) -> bool:
        try:
            session = await self._ports.store.get(one.org_id, one.session_id)
        except NotFound:
            return False
        return session.phase is not Phase.TORN_DOWN

    async def close(self) -> None:
        """Take no more sessions, and stop those that run: they end as failed, by reason of platform_restart.

        It waits for `DRAIN_SECONDS`. What still runs then ends with its backend, and may be waited for again.
        """
        self._closed = True
        if runs := tuple(self._runs.values()):
            stopped = asyncio.gather(*(run.stop(Stop()) for run in runs), return_exceptions=True)
            await asyncio.wait((stopped,), timeout=DRAIN_SECONDS)

    async def _tells_of_files(self, kept: Kept) -> bool:
        try:
            session = await self._ports.store.get(kept.org_id, kept.session_id)
        except NotFound:
            return False
        return session.phase is not Phase.TORN_DOWN and session.result is not None and bool(session.result.files)

    async def _program(self, principal: Principal, request: CreateSessionRequest) -> Program:
        name = request.source and request.source.git.binding
        return Program(
            request.code,
            contents(request.files),
            await self.bindings.grants(principal, request.service_bindings),
            await self.bindings.fetching(principal, name) if name else None,
        )

    def _accept(self, principal: Principal, request: CreateSessionRequest, program: Program) -> Session:
        _check_implemented(request)
        check_egress(request.egress)
        limits = resolve(request.limits, self._bounds.ceiling)
        check_files(program.files, limits, beside_source=request.source is not None)
        if request.source is not None:
            Remote.parse(request.source.git.url)
        require(required(request), self._guarantees())
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
            service_bindings=request.service_bindings,
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
        if len(self._runs) >= self._bounds.max_concurrency and self._unsettled() >= self._bounds.max_concurrency:
            raise QuotaExceeded(f"{self._bounds.max_concurrency} sessions are running; wait and retry", retry_after=1)

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

    async def _transcript(self, session: Session) -> Transcript:
        run = self._runs.get(session.id)
        if run is None:
            _check_settled(session)
            return kept(session, await self._journalled(session))
        stream = run.record.stream
        if stream.error is not None:
            raise stream.error
        await stream.transcript.flush()
        return stream.transcript

    async def _replay(self, session: Session) -> Stream:
        # Many may follow one session that is over; its output is held once for all of them, and while they do.
        key = (session.id, session.phase)
        if (held := self._replays.get(key)) is not None:
            return held
        journalled = await self._journalled(session)
        return self._replays.setdefault(key, told(session, await self._trail(session), journalled))

    async def _journalled(self, session: Session) -> Sequence[Chunk]:
        try:
            return await everything(self._ports.journals.journal(session.org_id, session.id))
        except Unavailable as error:
            _log.error("session %s: its journal cannot be read: %r", session.id, error, exc_info=error)
            return ()

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


def _check_settled(session: Session) -> None:
    if session.phase in UNSETTLED:
        raise Unavailable("the end of this session could not be recorded")


def _check_implemented(request: CreateSessionRequest) -> None:
    if request.webhook_url:
        problem = FieldProblem(field="webhookUrl", message="is not implemented yet; leave it out")
        raise PolicyUnenforceable("this platform does not implement: webhookUrl", errors=(problem,))
