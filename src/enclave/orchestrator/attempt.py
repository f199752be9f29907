"""What a running program attempts, as its org's audit trail tells it."""

from datetime import datetime
from typing import TypedDict

from enclave.backends.base import Egress, Invocation, Violation
from enclave.contracts.audit import (
    Attempted,
    EgressAllowed,
    EgressClosed,
    EgressDenied,
    ServiceBindingInvoked,
    SyscallForbidden,
)
from enclave.contracts.sessions import Session


class _Stamp(TypedDict):
    ts: datetime
    org_id: str
    session_id: str
    actor: str


def event(session: Session, told: Egress | Invocation | Violation, at: datetime) -> Attempted:
    """The event of what a backend tells."""
    # The program is the one who acted; it acts as whoever started it.
    stamp = _Stamp(ts=at, org_id=session.org_id, session_id=session.id, actor=session.created_by)
    match told:
        case Violation(call=call):
            return SyscallForbidden(**stamp, call=call)
        case Invocation():
            return _invoked(stamp, told)
        case Egress(verdict="denied"):
            return _denied(stamp, told)
        case Egress(verdict="closed"):
            return _closed(stamp, told)
        case Egress():
            return EgressAllowed(**stamp, target=_target(told), name=told.name, rule=told.rule, count=told.count)


def _invoked(stamp: _Stamp, told: Invocation) -> ServiceBindingInvoked:
    return ServiceBindingInvoked(
        **stamp,
        binding=told.binding,
        method=told.method,
        path=told.path,
        status=told.status,
        sent_bytes=told.sent_bytes,
        received_bytes=told.received_bytes,
        duration_ms=round(told.seconds * 1000, 3),
        error=told.error,
        count=told.count,
    )


def _denied(stamp: _Stamp, told: Egress) -> EgressDenied:
    return EgressDenied(
        **stamp,
        target=_target(told),
        protocol=told.protocol,
        name=told.name,
        rule=told.rule,
        reason=told.reason,
        count=told.count,
    )


def _closed(stamp: _Stamp, told: Egress) -> EgressClosed:
    return EgressClosed(
        **stamp,
        target=_target(told),
        name=told.name,
        rule=told.rule,
        reason=told.reason,
        sent_bytes=told.sent_bytes,
        received_bytes=told.received_bytes,
        duration_ms=round(told.seconds * 1000, 3),
        count=told.count,
    )


def _target(told: Egress) -> str:
    if not told.port:
        return told.target
    return f"[{told.target}]:{told.port}" if ":" in told.target else f"{told.target}:{told.port}"
