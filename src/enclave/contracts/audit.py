"""The facts an audit trail is made of.

Every event is a row of its org's hash chain: `digest` is the SHA-256 of the event's canonical JSON without `digest`,
`previous` the digest of the org's event before it (`enclave.core.audit`). Code, output and secrets are in none of them;
sizes and digests are. A field that an event did not have from the first is left out of its JSON when it is empty, so
that the digests of older events hold.
"""

from typing import Annotated, Literal

from pydantic import Field

from enclave.contracts.bindings import BindingName, InjectionKind, Method
from enclave.contracts.event import GENESIS as GENESIS
from enclave.contracts.event import Event as Event
from enclave.contracts.files import FilesDigest
from enclave.contracts.identity import Role, Scope
from enclave.contracts.policy import EgressPolicy, Language, SessionLimits
from enclave.contracts.sessions import GrantedBindings, KillReason, Labels, Phase
from enclave.contracts.tenancy import OrgPolicy, OrgTerms
from enclave.contracts.webhooks import WebhookDelivered, WebhookFailed, WebhookRedelivered, WebhookSecretRotated
from enclave.contracts.wire import Timestamp


def _absent(value: object) -> bool:
    return value is None


class SessionCreated(Event):
    """A request was accepted; the session is pending."""

    type: Literal["session_created"] = "session_created"
    language: Language
    limits: SessionLimits
    egress: EgressPolicy
    labels: Labels
    service_bindings: GrantedBindings = ()
    code_bytes: int
    code_sha256: str
    files: FilesDigest | None = Field(default=None, exclude_if=_absent)


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


class EgressAllowed(Event):
    """The program was let through to `target`, an address and a port; under a rule on names, to the host `name`."""

    type: Literal["egress_allowed"] = "egress_allowed"
    target: str
    name: str | None
    rule: str | None
    count: int


class EgressDenied(Event):
    """The program was refused: `target` is an address and a port, or for protocol `dns` the name it looked up.

    `rule` is the rule that denied it, null if none allowed it. `count` attempts are told as one.
    """

    type: Literal["egress_denied"] = "egress_denied"
    target: str
    protocol: Literal["tcp", "udp", "dns"]
    name: str | None
    rule: str | None
    reason: str
    count: int


class EgressClosed(Event):
    """A connection that was allowed is over; `reason` says why, if it did not end by itself."""

    type: Literal["egress_closed"] = "egress_closed"
    target: str
    name: str | None
    rule: str | None
    reason: str
    sent_bytes: int
    received_bytes: int
    duration_ms: float
    count: int


class ServiceBindingInvoked(Event):
    """The program called a service through a binding, `count` times; what was injected is nowhere told."""

    type: Literal["service_binding_invoked"] = "service_binding_invoked"
    binding: str
    method: str
    path: str
    status: int | None
    sent_bytes: int
    received_bytes: int
    duration_ms: float
    error: str | None
    count: int


class SyscallForbidden(Event):
    """The program made a system call that only an exploit makes; the session is ended for it."""

    type: Literal["syscall_forbidden"] = "syscall_forbidden"
    call: str


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
    files: FilesDigest | None = Field(default=None, exclude_if=_absent)


class SessionFailed(Event):
    """The platform, not the program, ended the session."""

    type: Literal["session_failed"] = "session_failed"
    reason: Literal["launch_failed", "sandbox_lost", "platform_restart", "clone_failed"]
    detail: str


class SessionTornDown(Event):
    """Everything that belonged to the session was reclaimed; a running program was stopped for it."""

    type: Literal["session_torn_down"] = "session_torn_down"
    was: Phase


Attempted = EgressAllowed | EgressDenied | EgressClosed | ServiceBindingInvoked | SyscallForbidden
"""What a program did that is told while it runs."""


class BindingPut(Event):
    """A service binding was made or replaced, its secret with it. It belongs to no session."""

    type: Literal["binding_put"] = "binding_put"
    session_id: None = None
    name: BindingName
    url: str
    inject: InjectionKind
    methods: tuple[Method, ...]
    paths: tuple[str, ...]


class BindingDeleted(Event):
    """A service binding and its secret were deleted. It belongs to no session."""

    type: Literal["binding_deleted"] = "binding_deleted"
    session_id: None = None
    name: BindingName


class KeyCreated(Event):
    """An API key was made; its secret is nowhere told. It belongs to no session."""

    type: Literal["key_created"] = "key_created"
    session_id: None = None
    key_id: str
    name: str
    role: Role
    scopes: tuple[Scope, ...]
    expires_at: Timestamp | None


class KeyRevoked(Event):
    """An API key was put out of force. It belongs to no session."""

    type: Literal["key_revoked"] = "key_revoked"
    session_id: None = None
    key_id: str


class SignedIn(Event):
    """The actor signed in to the org with their password. It belongs to no session."""

    type: Literal["signed_in"] = "signed_in"
    session_id: None = None


class SignInsRefused(Event):
    """Since a minute or so, `count` sign-ins as the actor were refused. It belongs to no session."""

    type: Literal["sign_ins_refused"] = "sign_ins_refused"
    session_id: None = None
    count: int


class RefreshReused(Event):
    """A refresh token of the actor was used twice; the sign-in is over. It belongs to no session."""

    type: Literal["refresh_reused"] = "refresh_reused"
    session_id: None = None


class MemberInvited(Event):
    """Somebody was asked into the org. It belongs to no session."""

    type: Literal["member_invited"] = "member_invited"
    session_id: None = None
    invitation_id: str
    role: Role


class MemberJoined(Event):
    """The actor accepted an invitation. It belongs to no session."""

    type: Literal["member_joined"] = "member_joined"
    session_id: None = None
    invitation_id: str
    role: Role


class MemberChanged(Event):
    """A member was given another role. It belongs to no session."""

    type: Literal["member_changed"] = "member_changed"
    session_id: None = None
    user_id: str
    was: Role
    role: Role


class MemberRemoved(Event):
    """A member was removed, and their keys and sign-ins ended. It belongs to no session."""

    type: Literal["member_removed"] = "member_removed"
    session_id: None = None
    user_id: str
    was: Role


class OrgCreated(Event):
    """The org was made. It belongs to no session."""

    type: Literal["org_created"] = "org_created"
    session_id: None = None
    name: str


class OrgDisabled(Event):
    """The operator disabled the org: nobody calls for it, and what it ran is stopped. It belongs to no session."""

    type: Literal["org_disabled"] = "org_disabled"
    session_id: None = None


class OrgEnabled(Event):
    """The operator enabled the org again. It belongs to no session."""

    type: Literal["org_enabled"] = "org_enabled"
    session_id: None = None


class SignedOut(Event):
    """The actor ended a sign-in. It belongs to no session."""

    type: Literal["signed_out"] = "signed_out"
    session_id: None = None


class PasswordChanged(Event):
    """The actor set another password, and their other sign-ins ended; `reset` is by a code of the operator's. It is
    told in each of their orgs, and belongs to no session."""

    type: Literal["password_changed"] = "password_changed"
    session_id: None = None
    reset: bool


class InvitationWithdrawn(Event):
    """An invitation that waited was taken back. It belongs to no session."""

    type: Literal["invitation_withdrawn"] = "invitation_withdrawn"
    session_id: None = None
    invitation_id: str


class AccessRefused(Event):
    """Since a minute or so, `count` calls of the actor were refused: for a `credential` that is theirs and does not
    hold, for a `scope` they lack, or by a `policy`. `operation` is null where it was refused before it was known. It
    belongs to no session."""

    type: Literal["access_refused"] = "access_refused"
    session_id: None = None
    operation: str | None
    reason: Literal["credential", "scope", "policy"]
    count: int


class QuotaRefused(Event):
    """Since a minute or so, `count` sessions of the org were refused because `quota` was used up. It belongs to no
    session."""

    type: Literal["quota_refused"] = "quota_refused"
    session_id: None = None
    quota: str
    count: int


class OrgPolicyChanged(Event):
    """The org's own policy is another. It belongs to no session."""

    type: Literal["org_policy_changed"] = "org_policy_changed"
    session_id: None = None
    policy: OrgPolicy


class OrgTermsChanged(Event):
    """What the operator grants the org is another. It belongs to no session."""

    type: Literal["org_terms_changed"] = "org_terms_changed"
    session_id: None = None
    terms: OrgTerms


AuditEvent = Annotated[
    SessionCreated
    | CloneStarted
    | CloneCompleted
    | SandboxStarted
    | Attempted
    | WorkloadExited
    | ResultCollected
    | SessionFailed
    | SessionTornDown
    | BindingPut
    | BindingDeleted
    | WebhookSecretRotated
    | WebhookDelivered
    | WebhookFailed
    | WebhookRedelivered
    | KeyCreated
    | KeyRevoked
    | SignedIn
    | SignInsRefused
    | RefreshReused
    | MemberInvited
    | MemberJoined
    | MemberChanged
    | MemberRemoved
    | OrgCreated
    | OrgDisabled
    | OrgEnabled
    | SignedOut
    | PasswordChanged
    | InvitationWithdrawn
    | AccessRefused
    | QuotaRefused
    | OrgPolicyChanged
    | OrgTermsChanged,
    Field(discriminator="type"),
]
"""One fact, told apart by `type`."""
