"""The table of operations: routes, OpenAPI, clients and the access matrix are all drawn from it."""

from dataclasses import dataclass
from typing import Any, Final, Literal

from enclave.contracts.audit import AuditEvent
from enclave.contracts.bindings import Binding, PutBinding
from enclave.contracts.frames import StreamFrame
from enclave.contracts.identity import Scope, WhoAmI
from enclave.contracts.introspection import IdentityHealth
from enclave.contracts.keys import CreateKey, Key, MadeKey
from enclave.contracts.logs import LogEntry
from enclave.contracts.members import (
    AcceptInvitation,
    ChangeMember,
    ChangePassword,
    Done,
    Invitation,
    Invite,
    Login,
    Member,
    OpenInvitation,
    Refresh,
    ResetPassword,
    Switch,
    Tokens,
)
from enclave.contracts.orgs import AskReset, CreateOrg, FoundedOrg, FoundOrg, Org, OrgState, ResetCode
from enclave.contracts.sessions import CreateSessionRequest, Health, Ready, Session, SessionResult
from enclave.contracts.tenancy import OrgPolicy, OrgTerms, OrgUsage, PolicyView
from enclave.contracts.webhooks import Delivery, WebhookSecret
from enclave.contracts.wire import Page, Wire

Authority = Literal["identity", "control_plane"]
IDENTITY: Final = "identity"
CONTROL_PLANE: Final = "control_plane"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One thing a caller can ask for.

    `scope` None is public, unless `any_scope` asks for a credential, whatever it may do, or `operator` for the
    operator's. `authority` is the part that answers: who a caller is, or what they may. `streams` answers with
    server-sent events of `result`; `replaced` is the status where what is asked to be made was there, and was replaced.
    A `result` of bytes is the body itself, of type `media`. `{path}` in a path may have slashes.
    """

    name: str
    method: str
    path: str
    scope: Scope | None
    summary: str
    result: Any
    media: str = "application/json"
    body: type[Wire] | None = None
    status: int = 200
    query: tuple[str, ...] = ()
    streams: bool = False
    replaced: int | None = None
    any_scope: bool = False
    operator: bool = False
    authority: Authority = CONTROL_PLANE

    @property
    def public(self) -> bool:
        """Whether it asks for no credential."""
        return self.scope is None and not self.any_scope and not self.operator


HEALTH: Final = Operation(
    name="health", method="GET", path="/healthz", scope=None, result=Health,
    summary="Liveness, and which backend is wired and reachable.",
)  # fmt: skip
READY: Final = Operation(
    name="ready", method="GET", path="/readyz", scope=None, result=Ready,
    summary="Whether sessions can be created now: the store takes writes and the backend stands; 503 if not.",
)  # fmt: skip
METRICS: Final = Operation(
    name="metrics", method="GET", path="/metrics", scope=None, operator=True, result=bytes,
    media="text/plain; version=0.0.4; charset=utf-8",
    summary="How the platform does, for Prometheus. Nothing in it is about an org.",
)  # fmt: skip
IDENTITY_HEALTH: Final = Operation(
    name="health", method="GET", path="/healthz", scope=None, result=IdentityHealth, authority=IDENTITY,
    summary="Liveness of an identity service of its own, in place of the control plane's.",
)  # fmt: skip
CREATE_SESSION: Final = Operation(
    name="create_session", method="POST", path="/sessions", scope=Scope.SESSIONS_WRITE, status=201,
    body=CreateSessionRequest, result=Session,
    summary="Create and run a session. `Prefer: wait=SECONDS` holds the answer until it is terminal.",
)  # fmt: skip
LIST_SESSIONS: Final = Operation(
    name="list_sessions", method="GET", path="/sessions", scope=Scope.SESSIONS_READ, result=Page[Session],
    query=("limit", "cursor", "phase", "label"),
    summary="The org's sessions, newest first, without their results. `label=name:value` keeps those with the label; "
    "repeatable.",
)  # fmt: skip
GET_SESSION: Final = Operation(
    name="get_session", method="GET", path="/sessions/{id}", scope=Scope.SESSIONS_READ, result=Session,
    summary="One session.",
)  # fmt: skip
GET_RESULT: Final = Operation(
    name="get_result", method="GET", path="/sessions/{id}/result", scope=Scope.SESSIONS_READ, result=SessionResult,
    summary="The structured result, once the session is terminal; 409 before.",
)  # fmt: skip
GET_AUDIT: Final = Operation(
    name="get_audit", method="GET", path="/sessions/{id}/audit", scope=Scope.SESSIONS_READ, result=Page[AuditEvent],
    query=("limit", "cursor"),
    summary="The session's audit trail, oldest first.",
)  # fmt: skip
STREAM_SESSION: Final = Operation(
    name="stream_session", method="GET", path="/sessions/{id}/stream", scope=Scope.SESSIONS_READ, result=StreamFrame,
    streams=True, summary="Everything that happens in the session, from its start, as server-sent events.",
)  # fmt: skip
GET_LOGS: Final = Operation(
    name="get_logs", method="GET", path="/sessions/{id}/logs", scope=Scope.SESSIONS_READ, result=Page[LogEntry],
    query=("limit", "after"),
    summary="What the program printed, in its order, while it runs and after. `nextCursor` is null once the session is "
    "over and all was given; until then ask with it for what came since.",
)  # fmt: skip
GET_FILE: Final = Operation(
    name="get_file", method="GET", path="/sessions/{id}/files/{path}", scope=Scope.SESSIONS_READ, result=bytes,
    media="application/octet-stream",
    summary="A file that the program left in `out`, until the session is torn down or the operator's retention passes; "
    "409 while it runs.",
)  # fmt: skip
TEARDOWN_SESSION: Final = Operation(
    name="teardown_session", method="DELETE", path="/sessions/{id}", scope=Scope.SESSIONS_WRITE, result=Session,
    summary="Stop the session if it runs and reclaim everything that belongs to it. Idempotent.",
)  # fmt: skip
PUT_BINDING: Final = Operation(
    name="put_binding", method="PUT", path="/bindings/{name}", scope=Scope.BINDINGS_WRITE, status=201, replaced=200,
    body=PutBinding, result=Binding,
    summary="Make a service binding, or replace it, its secret with it. The secret is never shown again.",
)  # fmt: skip
LIST_BINDINGS: Final = Operation(
    name="list_bindings", method="GET", path="/bindings", scope=Scope.BINDINGS_READ, result=Page[Binding],
    query=("limit", "cursor"),
    summary="The org's service bindings, by name.",
)  # fmt: skip
GET_BINDING: Final = Operation(
    name="get_binding", method="GET", path="/bindings/{name}", scope=Scope.BINDINGS_READ, result=Binding,
    summary="One service binding, without its secret.",
)  # fmt: skip
DELETE_BINDING: Final = Operation(
    name="delete_binding", method="DELETE", path="/bindings/{name}", scope=Scope.BINDINGS_WRITE, result=Binding,
    summary="Delete a service binding and its secret; the answer is the binding as it was.",
)  # fmt: skip
ROTATE_WEBHOOK_SECRET: Final = Operation(
    name="rotate_webhook_secret", method="POST", path="/webhooks/secret", scope=Scope.WEBHOOKS_WRITE, status=201,
    result=WebhookSecret,
    summary="Sign the org's webhooks with a new secret, which is shown this once. The one before it signs beside it "
    "for 24 hours.",
)  # fmt: skip
LIST_DELIVERIES: Final = Operation(
    name="list_deliveries", method="GET", path="/webhooks/deliveries", scope=Scope.WEBHOOKS_READ, result=Page[Delivery],
    query=("limit", "cursor", "session"),
    summary="The org's webhooks of sessions that are over, newest session first, and what became of each.",
)  # fmt: skip
REDELIVER: Final = Operation(
    name="redeliver", method="POST", path="/webhooks/deliveries/{id}/redeliver", scope=Scope.WEBHOOKS_WRITE,
    result=Delivery,
    summary="Send a webhook again, at once and with all its retries. Its `webhook-id` stays what it was.",
)  # fmt: skip
WHOAMI: Final = Operation(
    name="whoami", method="GET", path="/whoami", scope=None, any_scope=True, result=WhoAmI,
    summary="Who the credential is for: org, role and scopes.",
)  # fmt: skip
CREATE_KEY: Final = Operation(
    name="create_key", method="POST", path="/keys", scope=Scope.KEYS_WRITE, status=201, body=CreateKey, result=MadeKey,
    authority=IDENTITY,
    summary="Make an API key that may no more than its maker. `apiKey` is shown this once.",
)  # fmt: skip
LIST_KEYS: Final = Operation(
    name="list_keys", method="GET", path="/keys", scope=Scope.KEYS_READ, result=Page[Key], query=("limit", "cursor"),
    authority=IDENTITY,
    summary="The org's API keys, oldest first, revoked ones too. What makes them keys is shown nowhere.",
)  # fmt: skip
REVOKE_KEY: Final = Operation(
    name="revoke_key", method="DELETE", path="/keys/{id}", scope=Scope.KEYS_WRITE, result=Key, authority=IDENTITY,
    summary="Refuse an API key from now on. Idempotent.",
)  # fmt: skip
LIST_MEMBERS: Final = Operation(
    name="list_members", method="GET", path="/members", scope=Scope.MEMBERS_READ, result=Page[Member],
    query=("limit", "cursor"), authority=IDENTITY,
    summary="The org's members.",
)  # fmt: skip
CHANGE_MEMBER: Final = Operation(
    name="change_member", method="PUT", path="/members/{id}", scope=Scope.MEMBERS_WRITE, body=ChangeMember,
    result=Member, authority=IDENTITY,
    summary="Give a member another role; neither it nor the one they have may be more than yours.",
)  # fmt: skip
REMOVE_MEMBER: Final = Operation(
    name="remove_member", method="DELETE", path="/members/{id}", scope=Scope.MEMBERS_WRITE, result=Member,
    authority=IDENTITY,
    summary="Remove a member, with their keys, sign-ins and tokens.",
)  # fmt: skip
CREATE_INVITATION: Final = Operation(
    name="create_invitation", method="POST", path="/invitations", scope=Scope.MEMBERS_WRITE, status=201, body=Invite,
    result=Invitation, authority=IDENTITY,
    summary="Ask somebody into the org. `code` is shown this once; hand it to them.",
)  # fmt: skip
ACCEPT_INVITATION: Final = Operation(
    name="accept_invitation", method="POST", path="/invitations/accept", scope=None, body=AcceptInvitation,
    result=Tokens, authority=IDENTITY,
    summary="Join an org and sign in to it; whoever has no account gets one with this password.",
)  # fmt: skip
LOGIN: Final = Operation(
    name="login", method="POST", path="/login", scope=None, body=Login, result=Tokens, authority=IDENTITY,
    summary="Sign in with a password, for a token of 15 minutes and a refresh token that passes once.",
)  # fmt: skip
REFRESH_TOKEN: Final = Operation(
    name="refresh_token", method="POST", path="/token/refresh", scope=None, body=Refresh, result=Tokens,
    authority=IDENTITY,
    summary="The next token and refresh token. One that is used twice ends the sign-in.",
)  # fmt: skip
LOGOUT: Final = Operation(
    name="logout", method="POST", path="/logout", scope=None, body=Refresh, result=Done, authority=IDENTITY,
    summary="End a sign-in.",
)  # fmt: skip
GET_ORG_AUDIT: Final = Operation(
    name="get_org_audit", method="GET", path="/audit", scope=Scope.AUDIT_READ, result=Page[AuditEvent],
    query=("limit", "cursor"),
    summary="The org's whole audit trail, oldest first: the chain that can be verified, those of its sessions in it.",
)  # fmt: skip

LIST_INVITATIONS: Final = Operation(
    name="list_invitations", method="GET", path="/invitations", scope=Scope.MEMBERS_READ,
    result=Page[OpenInvitation], query=("limit", "cursor"), authority=IDENTITY,
    summary="The org's invitations that wait to be accepted.",
)  # fmt: skip
WITHDRAW_INVITATION: Final = Operation(
    name="withdraw_invitation", method="DELETE", path="/invitations/{id}", scope=Scope.MEMBERS_WRITE,
    result=OpenInvitation, authority=IDENTITY,
    summary="Take an invitation back that waits; its code passes no more.",
)  # fmt: skip
LIST_ORGS: Final = Operation(
    name="list_orgs", method="GET", path="/orgs", scope=None, any_scope=True, result=Page[Org],
    query=("limit", "cursor"), authority=IDENTITY,
    summary="The orgs that the caller is a member of; of an API key its own.",
)  # fmt: skip
CREATE_ORG: Final = Operation(
    name="create_org", method="POST", path="/orgs", scope=Scope.ORGS_WRITE, status=201, body=CreateOrg, result=Org,
    authority=IDENTITY,
    summary="Make an org that you own, signed in as a user; switch to it to act in it.",
)  # fmt: skip
SWITCH_ORG: Final = Operation(
    name="switch_org", method="POST", path="/token/switch", scope=None, body=Switch, result=Tokens,
    authority=IDENTITY,
    summary="Take a sign-in to another of the user's orgs; the refresh token that is given passes no more.",
)  # fmt: skip
CHANGE_PASSWORD: Final = Operation(
    name="change_password", method="POST", path="/password", scope=None, any_scope=True, body=ChangePassword,
    result=Tokens, authority=IDENTITY,
    summary="Set another password, signed in as a user. All sign-ins of the user end; the answer is a new one.",
)  # fmt: skip
RESET_PASSWORD: Final = Operation(
    name="reset_password", method="POST", path="/password/reset", scope=None, body=ResetPassword, result=Done,
    authority=IDENTITY,
    summary="Set a password anew with a code that the operator gave out. All sign-ins of the user end.",
)  # fmt: skip
GET_USAGE: Final = Operation(
    name="get_usage", method="GET", path="/usage", scope=Scope.SESSIONS_READ, result=OrgUsage,
    summary="What the org uses of each quota at the moment.",
)  # fmt: skip
GET_POLICY: Final = Operation(
    name="get_policy", method="GET", path="/policy", scope=Scope.SESSIONS_READ, result=PolicyView,
    summary="What the org's sessions may ask for: the operator's floor, the org's own policy, and the two together.",
)  # fmt: skip
PUT_POLICY: Final = Operation(
    name="put_policy", method="PUT", path="/policy", scope=Scope.POLICY_WRITE, body=OrgPolicy, result=PolicyView,
    summary="Set the org's own policy. It may only narrow the operator's floor.",
)  # fmt: skip
OPERATOR_LIST_ORGS: Final = Operation(
    name="operator_list_orgs", method="GET", path="/operator/orgs", scope=None, operator=True, result=Page[OrgState],
    query=("limit", "cursor"), authority=IDENTITY,
    summary="All orgs, by id.",
)  # fmt: skip
OPERATOR_FOUND_ORG: Final = Operation(
    name="operator_found_org", method="POST", path="/operator/orgs", scope=None, operator=True, status=201,
    body=FoundOrg, result=FoundedOrg, authority=IDENTITY,
    summary="Make an org, and invite its owner.",
)  # fmt: skip
OPERATOR_DISABLE_ORG: Final = Operation(
    name="operator_disable_org", method="POST", path="/operator/orgs/{id}/disable", scope=None, operator=True,
    result=OrgState, authority=IDENTITY,
    summary="Refuse an org's callers from now on, and tear down what it runs. Idempotent.",
)  # fmt: skip
OPERATOR_ENABLE_ORG: Final = Operation(
    name="operator_enable_org", method="POST", path="/operator/orgs/{id}/enable", scope=None, operator=True,
    result=OrgState, authority=IDENTITY,
    summary="Let an org's callers in again. Idempotent.",
)  # fmt: skip
OPERATOR_REVOKE_KEY: Final = Operation(
    name="operator_revoke_key", method="DELETE", path="/operator/keys/{id}", scope=None, operator=True, result=Key,
    authority=IDENTITY,
    summary="Refuse an API key of any org from now on. Idempotent.",
)  # fmt: skip
OPERATOR_RESET_PASSWORD: Final = Operation(
    name="operator_reset_password", method="POST", path="/operator/passwords", scope=None, operator=True, status=201,
    body=AskReset, result=ResetCode, authority=IDENTITY,
    summary="Make a code with which a user can set their password anew. `code` is shown this once; hand it to them.",
)  # fmt: skip
OPERATOR_GET_TERMS: Final = Operation(
    name="operator_get_terms", method="GET", path="/operator/orgs/{id}/terms", scope=None, operator=True,
    result=OrgTerms,
    summary="The floor and the quotas of an org; for one that was given none, those of every such org (`default`).",
)  # fmt: skip
OPERATOR_PUT_TERMS: Final = Operation(
    name="operator_put_terms", method="PUT", path="/operator/orgs/{id}/terms", scope=None, operator=True,
    body=OrgTerms, result=OrgTerms,
    summary="Set the floor and the quotas of an org, from now on; `default` is every org that was given none.",
)  # fmt: skip
OPERATOR_GET_USAGE: Final = Operation(
    name="operator_get_usage", method="GET", path="/operator/orgs/{id}/usage", scope=None, operator=True,
    result=OrgUsage,
    summary="What an org uses of each quota at the moment.",
)  # fmt: skip

OPERATIONS: Final = (
    HEALTH, READY, METRICS, CREATE_SESSION, LIST_SESSIONS, GET_SESSION, GET_RESULT, GET_AUDIT, STREAM_SESSION, GET_LOGS,
    GET_FILE, TEARDOWN_SESSION, PUT_BINDING, LIST_BINDINGS, GET_BINDING, DELETE_BINDING,
    ROTATE_WEBHOOK_SECRET, LIST_DELIVERIES, REDELIVER, WHOAMI,
    CREATE_KEY, LIST_KEYS, REVOKE_KEY, GET_ORG_AUDIT, LIST_MEMBERS, CHANGE_MEMBER, REMOVE_MEMBER, CREATE_INVITATION,
    ACCEPT_INVITATION, LOGIN, REFRESH_TOKEN, LOGOUT,
    GET_USAGE, GET_POLICY, PUT_POLICY, OPERATOR_GET_TERMS, OPERATOR_PUT_TERMS, OPERATOR_GET_USAGE,
    LIST_INVITATIONS, WITHDRAW_INVITATION, LIST_ORGS, CREATE_ORG, SWITCH_ORG, CHANGE_PASSWORD, RESET_PASSWORD,
    OPERATOR_LIST_ORGS, OPERATOR_FOUND_ORG, OPERATOR_DISABLE_ORG, OPERATOR_ENABLE_ORG, OPERATOR_REVOKE_KEY,
    OPERATOR_RESET_PASSWORD,
)  # fmt: skip

OF_IDENTITY: Final = (IDENTITY_HEALTH, WHOAMI, *(one for one in OPERATIONS if one.authority == IDENTITY))
"""What an identity service of its own answers."""
