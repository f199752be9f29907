"""What a caller can ask of the platform: authorize, look up in the caller's org, move the record.

Every lookup goes through the principal's org, so that another org's session and none are the same thing.
"""

import asyncio
import contextlib
import re
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from enclave.contracts.audit import AuditEvent, OrgDisabled, OrgEnabled
from enclave.contracts.errors import (
    Conflict,
    NoSuchFile,
    NotFound,
    QuotaExceeded,
    Unauthenticated,
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
from enclave.core.claim import Claim, claim_of
from enclave.core.cursor import check_limit, cut, event_cursor, log_of, refuse, seq_of, session_cursor, session_of
from enclave.core.files import check_files, contents
from enclave.core.policy import Ceiling, check_egress, check_template, require, required, resolve
from enclave.core.remote import Remote
from enclave.core.session import UNSETTLED, Program
from enclave.core.tenancy import Allowance
from enclave.orchestrator.account import Account
from enclave.orchestrator.bindings import ServiceBindings
from enclave.orchestrator.claims import Claims
from enclave.orchestrator.elsewhere import Elsewhere
from enclave.orchestrator.identifier import session_ids
from enclave.orchestrator.log import Pages
from enclave.orchestrator.record import Ports, Record
from enclave.orchestrator.retention import Ages, Retention
from enclave.orchestrator.run import Run, Stop
from enclave.orchestrator.settling import journalled, settle, trail_of
from enclave.orchestrator.stream import Follower, Stream, parse_place, told
from enclave.orchestrator.teardown import Teardown
from enclave.orchestrator.tenancy import Tenancy
from enclave.orchestrator.transcript import Transcript, kept
from enclave.orchestrator.webhook import Keyring, Webhooks
from enclave.store.base import Content, Filter

__all__ = ["Bounds", "Content", "Filter", "Keyring", "Orchestrator", "Ports", "ServiceBindings", "Webhooks"]

_ID: Final = re.compile(r"ses_[0-9a-z]{26}\Z")
DRAIN_SECONDS: Final = 3.0
"""How long the sessions that run may take to be stopped."""

DEFAULT_RETENTION: Final = timedelta(days=1)
"""How long files of a session are kept that is not torn down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the operator bounds: each session, how many run at once, and how long files and journals are kept, and
    sessions, which without a bound are kept for good."""

    max_concurrency: int
    ceiling: Ceiling = field(default_factory=Ceiling)
    file_retention: timedelta = DEFAULT_RETENTION
    session_retention: timedelta | None = None


class Orchestrator:
    """Sessions: created, run, shown, streamed and torn down, on any backend and any store."""

    def __init__(self, ports: Ports, bindings: ServiceBindings, bounds: Bounds, webhooks: Webhooks) -> None:
        self.bindings = bindings
        self.webhooks = webhooks
        self.tenancy = Tenancy(ports, bounds.ceiling)
        self._ports = ports
        self._bounds = bounds
        self._ids = session_ids(ports.clock)
        self._runs: dict[str, Run] = {}
        self._replays: WeakValueDictionary[tuple[str, Phase], Stream] = WeakValueDictionary()
        self._claims = Claims(ports.store, ports.clock)
        self._closed = False
        self._disabled: set[str] = set()
        self._elsewhere = Elsewhere(ports.store, ports.replicas) if ports.replicas is not None else None
        self._teardown = Teardown(ports, self._runs, self._elsewhere)
        self._retention = Retention(ports, Ages(bounds.file_retention, bounds.session_retention), self._runs)

    async def create(
        self, principal: Principal, request: CreateSessionRequest, *, wait_seconds: float | None = None
    ) -> Session:
        """Run a program. With a wait, the session as it is when terminal, or as it is after so many seconds."""
        authorize(principal, CREATE_SESSION)
        record = await self._begin(principal, request)
        del request  # it may be large, and the wait long
        return await record.answer(wait_seconds)

    async def create_once(
        self, principal: Principal, request: CreateSessionRequest, key: str, *, wait_seconds: float | None = None
    ) -> tuple[Session, bool]:
        """As `create`, but for the first of all requests with this key; the others get its session. And whether it was
        this one that made it. Raises KeyReused if the first asked for something else."""
        authorize(principal, CREATE_SESSION)
        claim = claim_of(key, request)
        make = partial(self._make, principal, request, claim)
        session_id, made = await self._claims.once(principal.org_id, claim, make)
        del request, make
        if (run := self._runs.get(session_id)) is not None:
            return await run.record.answer(wait_seconds), made
        return await self._ports.store.get(principal.org_id, session_id), made

    async def _make(self, principal: Principal, request: CreateSessionRequest, claim: Claim) -> str:
        record = await self._begin(principal, request, claim)
        return (await record.answer(None)).id

    async def _begin(self, principal: Principal, request: CreateSessionRequest, claim: Claim | None = None) -> Record:
        org_id = principal.org_id
        account = await self.tenancy.account(org_id)
        # Before anything costs; and again below, because others are accepted while this one is looked at.
        self.tenancy.check(org_id, account)
        program = replace(await self._program(principal, request), claim=claim)
        session = self._accept(principal, request, program, self.tenancy.allowance(account))
        self._admit(org_id)
        self.tenancy.check(org_id, account)
        if request.webhook_url is not None:
            program = replace(program, callback=self.webhooks.callback(session.id, request.webhook_url))
        run = self._runs[session.id] = Run(self._ports, session, program, account.observe)
        account.enter(session.id, session.created_at)
        run.task.add_done_callback(lambda _: self._let_go(account, session.id))
        if program.callback is not None:
            run.task.add_done_callback(lambda _: self.webhooks.stirred.set())
        return run.record

    def _let_go(self, account: Account, session_id: str) -> None:
        del self._runs[session_id]
        # One whose end could not be recorded is not observed.
        account.leave(session_id)

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
        return Follower(await (self._remote(session) if session.phase in UNSETTLED else self._replay(session)), place)

    async def logs(
        self, principal: Principal, session_id: str, *, after: str | None = None, limit: int = 50
    ) -> Page[LogEntry]:
        """What the session's program printed, behind a page's cursor: as much as is written, while it runs."""
        authorize(principal, GET_LOGS)
        check_limit(limit)
        stdout, stderr = log_of(after)
        session = await self._find(principal, session_id)
        transcript, whole = await self._transcript(session)
        if whole and (stdout > transcript.totals["stdout"] or stderr > transcript.totals["stderr"]):
            refuse("after")
        return await Pages(transcript, stdout, stderr).first(limit)

    async def file(self, principal: Principal, session_id: str, path: str) -> tuple[SessionFile, Content]:
        """A file that the session's program left. Raises Conflict while it runs, NoSuchFile, and Unavailable if another
        control plane keeps it."""
        authorize(principal, GET_FILE)
        session = await self._find(principal, session_id)
        if session.phase in UNSETTLED:
            raise Conflict(f"the session is {session.phase}; its files can be fetched when it is over")
        files = session.result.files if session.result is not None else ()
        for place, file in enumerate(files):
            if file.path == path and session.phase is not Phase.TORN_DOWN:
                return file, await self._content(session, place)
        raise NoSuchFile

    async def teardown(self, principal: Principal, session_id: str) -> Session:
        """Stop the session if it runs and reclaim what belongs to it; a session torn down stays as it is."""
        authorize(principal, TEARDOWN_SESSION)
        return await self._teardown.order(await self._find(principal, session_id), principal.user_id)

    async def attend(self) -> None:
        """Do what other control planes on the store ask for, until cancelled; for nothing where there can be none."""
        if self._elsewhere is not None:
            await self._elsewhere.attend(self._teardown.honour)

    def running(self) -> int:
        """How many sessions are pending or running here."""
        return self._unsettled()

    async def settle(self) -> None:
        """Bring to their end sessions that nobody runs, because whoever did is gone or could not record their end. Call
        it now and then. Raises Unavailable."""
        await settle(self._ports, self._runs)

    async def recover(self) -> None:
        """Settle what an earlier process left behind; its sandboxes died with it. Call it once, before anything."""
        await self.settle()
        await self._retention.begin()

    async def note(self, key: str, event: AuditEvent) -> AuditEvent:
        """Add an event of the identity authority's to its org's chain, and do what follows from it: of an org that is
        disabled no session is accepted from now on, and none goes on. Raises as `Store.note` does, after that."""
        if isinstance(event, OrgDisabled):
            self._disabled.add(event.org_id)
        elif isinstance(event, OrgEnabled):
            self._disabled.discard(event.org_id)
        try:
            return await self._ports.store.note(key, event)
        finally:
            if isinstance(event, OrgDisabled):
                await self.evict(event.org_id)

    async def evict(self, org_id: str) -> None:
        """Stop and tear down every session of an org that runs. Returns when that is done, or after 10 seconds, while
        it goes on."""
        await self._teardown.evict(org_id)

    async def tick(self) -> None:
        """Remove what was kept for long enough, and tell what quotas refused. Call it now and then."""
        await self.tenancy.tick()
        await self._retention.tick()

    async def close(self) -> None:
        """Take no more sessions, and stop those that run: they end as failed, by reason of platform_restart.

        It waits for `DRAIN_SECONDS`. What still runs then ends with its backend, and may be waited for again.
        """
        self._closed = True
        if runs := tuple(self._runs.values()):
            stopped = asyncio.gather(*(run.stop(Stop()) for run in runs), return_exceptions=True)
            await asyncio.wait((stopped,), timeout=DRAIN_SECONDS)
        with contextlib.suppress(Unavailable):
            await self.tenancy.tick()

    async def _program(self, principal: Principal, request: CreateSessionRequest) -> Program:
        name = request.source and request.source.git.binding
        return Program(
            request.code,
            contents(request.files),
            await self.bindings.grants(principal, request.service_bindings),
            await self.bindings.fetching(principal, name) if name else None,
        )

    def _accept(
        self, principal: Principal, request: CreateSessionRequest, program: Program, allowance: Allowance
    ) -> Session:
        check_egress(request.egress)
        limits = resolve(request.limits, allowance.ceiling)
        check_files(program.files, limits, beside_source=request.source is not None)
        if request.source is not None:
            Remote.parse(request.source.git.url)
        if request.webhook_url is not None:
            self.webhooks.receiver(request.webhook_url)
        allowance.check(request, self._ports.backend.name, program.bindings)
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
            egress=allowance.egress(request.egress),
            service_bindings=request.service_bindings,
            backend=self._ports.backend.name,
            labels=request.labels,
            created_at=self._ports.clock(),
        )

    def _guarantees(self) -> frozenset[Guarantee]:
        without = frozenset({Guarantee.GIT_SOURCE}) if self._ports.sources is None else frozenset[Guarantee]()
        return self._ports.backend.guarantees - without

    def _admit(self, org_id: str) -> None:
        if self._closed:
            raise Unavailable("the platform is shutting down", retry_after=1)
        if org_id in self._disabled:
            # The credential held when it was looked at.
            raise Unauthenticated
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

    async def _content(self, session: Session, place: int) -> Content:
        try:
            return await self._ports.files.read(session.id, place)
        except NoSuchFile:
            ended = session.finished_at or session.created_at
            if self._elsewhere is None or ended + self._bounds.file_retention < self._ports.clock():
                raise
            raise Unavailable("the file is kept by another replica, the one that ran the session") from None

    async def _transcript(self, session: Session) -> tuple[Transcript, bool]:
        """What a session printed, and whether nobody can have seen more of it."""
        if (run := self._runs.get(session.id)) is not None:
            stream = run.record.stream
            if stream.error is not None:
                raise stream.error
            await stream.transcript.flush()
            return stream.transcript, True
        if session.phase in UNSETTLED:
            remote = await self._remote(session)
            return remote.transcript, not remote.shortened
        printed = kept(session, await journalled(self._ports.journals, session))
        return printed, session.result is None or session.result.error is None

    async def _remote(self, session: Session) -> Stream:
        """The stream of a session that another control plane runs."""
        if self._elsewhere is None:
            raise Unavailable("the end of this session could not be recorded")
        return await self._elsewhere.follow(session)

    async def _replay(self, session: Session) -> Stream:
        # Many may follow one session that is over; its output is held once for all of them, and while they do.
        key = (session.id, session.phase)
        if (held := self._replays.get(key)) is not None:
            return held
        trail, printed = await trail_of(self._ports.store, session), await journalled(self._ports.journals, session)
        return self._replays.setdefault(key, told(session, trail, printed))


def _check_id(session_id: str) -> None:
    if not _ID.match(session_id):
        raise NotFound
