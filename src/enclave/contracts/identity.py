"""Who a caller is, and what that lets them do."""

from enum import StrEnum

from pydantic import Field

from enclave.contracts.wire import OrgId, Wire


class Role(StrEnum):
    """A member's standing in an org: each has all the scopes of the next, but that an auditor only reads, and that
    nobody below an admin reads the org's audit trail but an auditor."""

    OWNER = "owner"
    ADMIN = "admin"
    DEVELOPER = "developer"
    VIEWER = "viewer"
    AUDITOR = "auditor"


class Scope(StrEnum):
    """A right that an operation asks for; `owners:write` beside another, where an owner is made or changed."""

    SESSIONS_READ = "sessions:read"
    SESSIONS_WRITE = "sessions:write"
    BINDINGS_READ = "bindings:read"
    BINDINGS_WRITE = "bindings:write"
    MEMBERS_READ = "members:read"
    MEMBERS_WRITE = "members:write"
    OWNERS_WRITE = "owners:write"
    KEYS_READ = "keys:read"
    KEYS_WRITE = "keys:write"
    AUDIT_READ = "audit:read"
    WEBHOOKS_READ = "webhooks:read"
    WEBHOOKS_WRITE = "webhooks:write"
    POLICY_WRITE = "policy:write"
    ORGS_WRITE = "orgs:write"


class Principal(Wire):
    """An authenticated caller: `user_id` is a JWT's `sub` or an API key's id."""

    user_id: str = Field(min_length=1, max_length=128)
    org_id: OrgId
    role: Role
    scopes: frozenset[Scope]


class WhoAmI(Wire):
    """The caller, as the control plane sees them; `user_id` is the id of the API key if it was one that called."""

    user_id: str
    org_id: str
    role: Role
    scopes: tuple[Scope, ...]


class Credential(Wire):
    """Where a control plane is and a key to it, as stored in `credentials.json`."""

    base_url: str
    api_key: str
