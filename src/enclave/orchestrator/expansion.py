"""What an audit event says in a stream: the log and the stream are one thing read twice."""

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
from enclave.contracts.frames import AuditFrame, PhaseFrame, ResultFrame, StreamFrame
from enclave.contracts.sessions import Phase, SessionResult
from enclave.core.session import UNSETTLED


def expand(event: AuditEvent, result: SessionResult | None) -> tuple[StreamFrame, ...]:
    """The frames of an event: the phase it led to, the event, and the result if it brought one."""
    phase = _phase(event)
    moved = (PhaseFrame(phase=phase, ts=event.ts),) if phase else ()
    brought = (ResultFrame(result=result, ts=event.ts),) if result and _settles(event) else ()
    return (*moved, AuditFrame(event=event), *brought)


def _phase(event: AuditEvent) -> Phase | None:
    match event:
        case SessionCreated():
            return Phase.PENDING
        case SandboxStarted():
            return Phase.RUNNING
        case WorkloadExited() | CloneStarted() | CloneCompleted():
            return None
        case ResultCollected(phase=phase):
            return phase
        case SessionFailed():
            return Phase.FAILED
        case SessionTornDown():
            return Phase.TORN_DOWN


def _settles(event: AuditEvent) -> bool:
    return isinstance(event, ResultCollected | SessionFailed) or (
        isinstance(event, SessionTornDown) and event.was in UNSETTLED
    )
