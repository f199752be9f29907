"""The life of a session: one table of moves, and the one door through which a session moves."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypedDict

from enclave.contracts.audit import (
    AuditEvent,
    CloneCompleted,
    CloneStarted,
    ResultCollected,
    SandboxStarted,
    SessionCreated,
    SessionFailed,
    SessionTornDown,
    WorkloadExited,
)
from enclave.contracts.errors import Conflict
from enclave.contracts.files import SessionFile
from enclave.contracts.sessions import KillReason, Phase, Session, SessionResult
from enclave.core.claim import Claim
from enclave.core.files import digest
from enclave.core.grant import Grant

TRANSITIONS: Final[Mapping[Phase, frozenset[Phase]]] = {
    Phase.PENDING: frozenset({Phase.RUNNING, Phase.FAILED, Phase.TORN_DOWN}),
    Phase.RUNNING: frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.KILLED, Phase.TORN_DOWN}),
    Phase.SUCCEEDED: frozenset({Phase.TORN_DOWN}),
    Phase.FAILED: frozenset({Phase.TORN_DOWN}),
    Phase.KILLED: frozenset({Phase.TORN_DOWN}),
    Phase.TORN_DOWN: frozenset(),
}
"""Where each phase may lead. There is no cycle, so a phase is its own revision number."""

UNSETTLED: Final = frozenset({Phase.PENDING, Phase.RUNNING})
"""The phases in which something still has to happen."""


@dataclass(frozen=True, slots=True)
class Callback:
    """Where a session is posted when it is over: the host, and the whole URL, sealed."""

    host: str
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Change:
    """A session before and after, and the events that explain it; a store commits all of it or nothing.

    What brings a session into being may claim a key for it, and have a `callback`. The change that ends it is then also
    what makes its webhook due.
    """

    before: Phase | None
    session: Session
    events: tuple[AuditEvent, ...]
    claim: Claim | None = None
    callback: Callback | None = None

    @property
    def settles(self) -> bool:
        """Whether this is what ends the session."""
        return self.before in UNSETTLED and self.session.phase not in UNSETTLED


@dataclass(frozen=True, slots=True)
class Program:
    """What a session runs, the files that are put beside it, and what it was granted.

    Without code it is the entry point of its source. `bindings` are for the session's broker; `fetching` is for who
    fetches the source, and for nobody else. `claim` is the key that its session takes, `callback` where that is posted
    when it is over.
    """

    code: str | None
    files: Mapping[str, bytes] = field(default_factory=dict)
    bindings: tuple[Grant, ...] = ()
    fetching: Grant | None = None
    claim: Claim | None = None
    callback: Callback | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A sandbox has the code."""

    backend: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The program ended; `result_json` is the accepted value as it came, for its size and digest."""

    result: SessionResult
    kill_reason: KillReason | None = None
    result_json: bytes | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """The platform could not run the session to its end; `reason` and `detail` as in SessionFailed."""

    event: SessionFailed
    result: SessionResult


@dataclass(frozen=True, slots=True)
class TornDown:
    """The session was torn down; `result` is what a stopped program had left."""

    result: SessionResult | None = None


Outcome = Started | Finished | Lost | TornDown


def created(
    session: Session,
    code: str | None,
    files: Sequence[SessionFile] = (),
    claim: Claim | None = None,
    callback: Callback | None = None,
) -> Change:
    """The change that brings a session into being; without code its program is its source's entry point."""
    source = (code or "").encode()
    event = SessionCreated(
        ts=session.created_at,
        org_id=session.org_id,
        session_id=session.id,
        actor=session.created_by,
        language=session.language,
        limits=session.limits,
        egress=session.egress,
        labels=session.labels,
        service_bindings=session.service_bindings,
        code_bytes=len(source),
        code_sha256=hashlib.sha256(source).hexdigest(),
        files=digest(files),
    )
    return Change(None, session, (event,), claim, callback)


def phase_after(outcome: Outcome) -> Phase:
    """Where an outcome leads."""
    match outcome:
        case Started():
            return Phase.RUNNING
        case Lost():
            return Phase.FAILED
        case TornDown():
            return Phase.TORN_DOWN
        case Finished(kill_reason=reason) if reason is not None:
            return Phase.KILLED
        case Finished(result=result):
            return Phase.SUCCEEDED if result.exit_code == 0 else Phase.FAILED


def advance(session: Session, outcome: Outcome, *, at: datetime, actor: str) -> Change:
    """The change an outcome makes to a session; raises Conflict if the table does not have it."""
    phase = phase_after(outcome)
    if phase not in TRANSITIONS[session.phase]:
        raise Conflict(f"a session that is {session.phase} cannot become {phase}")
    moved = session.model_copy(update={"phase": phase, **_carried(session, outcome, at)})
    return Change(session.phase, moved, _events(session, moved, outcome, at, actor))


def _carried(session: Session, outcome: Outcome, at: datetime) -> dict[str, object]:
    match outcome:
        case Started(backend=backend):
            return {"started_at": at, "backend": backend}
        case Finished(result=result, kill_reason=reason):
            return {"result": result, "kill_reason": reason, "finished_at": at}
        case Lost(result=result):
            return {"result": result, "finished_at": at}
        case TornDown(result=result):
            return {"result": session.result or result, "finished_at": session.finished_at or at}


def noted(session: Session, event: AuditEvent) -> Change:
    """The change that adds to the trail and moves nothing: of a clone while the session is pending, of what its program
    attempts while that runs. Raises Conflict in any other phase."""
    if session.phase is not (Phase.PENDING if isinstance(event, CloneStarted | CloneCompleted) else Phase.RUNNING):
        raise Conflict(f"nothing is noted of a session that is {session.phase}")
    return Change(session.phase, session, (event,))


class _Stamp(TypedDict):
    ts: datetime
    org_id: str
    session_id: str
    actor: str


def _events(session: Session, moved: Session, outcome: Outcome, at: datetime, actor: str) -> tuple[AuditEvent, ...]:
    stamp = _Stamp(ts=at, org_id=session.org_id, session_id=session.id, actor=actor)
    match outcome:
        case Started(backend=backend):
            return (SandboxStarted(**stamp, backend=backend),)
        case Finished():
            return _ending(stamp, moved, outcome)
        case Lost(event=event):
            return (event,)
        case TornDown():
            return (SessionTornDown(**stamp, was=session.phase),)


def _ending(stamp: _Stamp, moved: Session, outcome: Finished) -> tuple[AuditEvent, ...]:
    result, value = outcome.result, outcome.result_json
    exited = WorkloadExited(
        **stamp,
        exit_code=result.exit_code,
        signal=result.signal,
        kill_reason=outcome.kill_reason,
        duration_ms=result.duration_ms,
    )
    collected = ResultCollected(
        **stamp,
        phase=moved.phase,
        stdout_bytes=len(result.stdout.encode()),
        stderr_bytes=len(result.stderr.encode()),
        result_bytes=len(value) if value is not None else 0,
        result_sha256=hashlib.sha256(value).hexdigest() if value is not None else None,
        files=digest(result.files),
    )
    return (exited, collected)
