"""The facts an audit trail is made of.

Every event is a row of its org's hash chain: `digest` is the SHA-256 of the event's canonical JSON without `digest`,
`previous` the digest of the org's event before it (`enclave.core.audit`). Code, output and secrets are in none of them;
sizes and digests are.
"""

from typing import Annotated, Literal

from pydantic import Field

from enclave.contracts.policy import EgressPolicy, Language, SessionLimits
from enclave.contracts.sessions import KillReason, Labels, Phase
from enclave.contracts.wire import OrgId, SessionId, Timestamp, Wire

GENESIS = "0" * 64


class Event(Wire):
    """What every event says: when, whose, by whom, and its place in the chain (`seq` counts from 1 in each org)."""

    ts: Timestamp
    org_id: OrgId
    session_id: SessionId | None
    actor: str
    seq: int = 0
    previous: str = GENESIS
    digest: str = ""


class SessionCreated(Event):
    """A request was accepted; the session is pending."""

    type: Literal["session_created"] = "session_created"
    language: Language
    limits: SessionLimits
    egress: EgressPolicy
    labels: Labels
    code_bytes: int
    code_sha256: str


class CloneStarted(Event):
    """The session's source is being fetched; the session is still pending. `url` holds no credentials."""

    type: Literal["clone_started"] = "clone_started"
    url: str
    ref: str | None
    binding: str | None
    entrypoint: str | None


class CloneCompleted(Event):
    """The source is there: the tree of `commit`, so many files and bytes.

    `omitted` counts the symbolic links that led out of the tree and were left out.
    """

    type: Literal["clone_completed"] = "clone_completed"
    commit: str
    files: int
    bytes: int
    omitted: int
    duration_ms: float


class SandboxStarted(Event):
    """A sandbox was given the code; the session is running."""

    type: Literal["sandbox_started"] = "sandbox_started"
    backend: str


class WorkloadExited(Event):
    """The program ended, by itself or by a limit."""

    type: Literal["workload_exited"] = "workload_exited"
    exit_code: int | None
    signal: int | None
    kill_reason: KillReason | None
    duration_ms: float


class ResultCollected(Event):
    """What the program left was taken; the session is `phase`, a terminal one."""

    type: Literal["result_collected"] = "result_collected"
    phase: Phase
    stdout_bytes: int
    stderr_bytes: int
    result_bytes: int
    result_sha256: str | None


class SessionFailed(Event):
    """The platform, not the program, ended the session."""

    type: Literal["session_failed"] = "session_failed"
    reason: Literal["launch_failed", "sandbox_lost", "platform_restart", "clone_failed"]
    detail: str


class SessionTornDown(Event):
    """Everything that belonged to the session was reclaimed; a running program was stopped for it."""

    type: Literal["session_torn_down"] = "session_torn_down"
    was: Phase


AuditEvent = Annotated[
    SessionCreated
    | CloneStarted
    | CloneCompleted
    | SandboxStarted
    | WorkloadExited
    | ResultCollected
    | SessionFailed
    | SessionTornDown,
    Field(discriminator="type"),
]
"""One fact, told apart by `type`."""
