"""The pieces of a session's live stream, told apart by `kind`."""

from typing import Annotated, Literal

from pydantic import Field

from enclave.contracts.audit import AuditEvent
from enclave.contracts.sessions import Phase, SessionResult
from enclave.contracts.wire import Timestamp, Wire


class PhaseFrame(Wire):
    """The session moved to `phase`."""

    kind: Literal["phase"] = "phase"
    phase: Phase
    ts: Timestamp


class StdoutFrame(Wire):
    """The program printed `chunk`."""

    kind: Literal["stdout"] = "stdout"
    chunk: str
    ts: Timestamp


class StderrFrame(Wire):
    """The program printed `chunk` on standard error."""

    kind: Literal["stderr"] = "stderr"
    chunk: str
    ts: Timestamp


class AuditFrame(Wire):
    """An audit event was recorded."""

    kind: Literal["audit"] = "audit"
    event: AuditEvent


class ResultFrame(Wire):
    """The session is over, and this is its result."""

    kind: Literal["result"] = "result"
    result: SessionResult
    ts: Timestamp


class EndFrame(Wire):
    """Nothing follows; the stream closes."""

    kind: Literal["end"] = "end"
    phase: Phase
    ts: Timestamp


StreamFrame = Annotated[
    PhaseFrame | StdoutFrame | StderrFrame | AuditFrame | ResultFrame | EndFrame, Field(discriminator="kind")
]
"""One piece of a stream."""
