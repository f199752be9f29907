"""What the control plane asks of the identity authority, wherever that runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from enclave.contracts.identity import Principal
from enclave.contracts.introspection import Events, Introspect, Introspection, TakeEvents
from enclave.contracts.keys import CreateKey, Key, MadeKey
from enclave.contracts.members import (
    AcceptInvitation,
    ChangeMember,
    ChangePassword,
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
from enclave.contracts.wire import Page


class Authenticator(Protocol):
    """Knows callers by their bearer credentials."""

    async def authenticate(self, credential: str) -> Principal:
        """The caller behind an API key or a user JWT. Raises Unauthenticated; the answer never says what was wrong
        in a way that tells an existing key from none. Raises Forbidden to the operator, who acts in no org."""
        ...

    async def authenticate_operator(self, credential: str) -> None:
        """Pass the operator's credential. Raises Forbidden to an org's caller, and Unauthenticated."""
        ...


class Keys(Protocol):
    """An org's API keys. Every change is told in the org's audit trail."""

    async def create(self, principal: Principal, request: CreateKey) -> MadeKey:
        """A new key. Raises Forbidden if it were to have more than its maker, InvalidRequest, and Conflict for too
        many."""
        ...

    async def list(self, principal: Principal, *, cursor: str | None = None, limit: int = 50) -> Page[Key]:
        """The org's keys, oldest first, those that are revoked among them."""
        ...

    async def revoke(self, principal: Principal, key_id: str) -> Key:
        """Put a key out of force for good. Raises NotFound, for another org's just as for none. Idempotent."""
        ...


class Members(Protocol):
    """An org's members. Every change is told in the org's audit trail."""

    async def list(self, principal: Principal, *, cursor: str | None = None, limit: int = 50) -> Page[Member]:
        """The org's members."""
        ...

    async def change(self, principal: Principal, user_id: str, asked: ChangeMember) -> Member:
        """Give a member another role. Raises NotFound, Forbidden where either role may more than the principal, and
        Conflict if no owner were left."""
        ...

    async def remove(self, principal: Principal, user_id: str) -> Member:
        """Remove a member, with their keys and sign-ins. Raises as `change` does."""
        ...

    async def invite(self, principal: Principal, asked: Invite) -> Invitation:
        """Ask somebody in. Raises Forbidden for a role that may more than the principal, and Conflict for too many."""
        ...

    async def list_invitations(
        self, principal: Principal, *, cursor: str | None = None, limit: int = 50
    ) -> Page[OpenInvitation]:
        """The org's invitations that wait, without their codes."""
        ...

    async def withdraw(self, principal: Principal, invitation_id: str) -> OpenInvitation:
        """Take an invitation back that waits. Raises NotFound, for another org's just as for none, and Forbidden for a
        role that may more than the principal."""
        ...

    async def accept(self, asked: AcceptInvitation, address: str) -> Tokens:
        """Join an org and sign in to it. Raises Unauthenticated, InvalidRequest, Conflict and QuotaExceeded."""
        ...


class SignIns(Protocol):
    """Who is signed in. Refusals are the same, and take as long, whatever it is that is wrong."""

    async def login(self, asked: Login, address: str) -> Tokens:
        """Sign in, from an address. Raises Unauthenticated, Forbidden and QuotaExceeded."""
        ...

    async def refresh(self, asked: Refresh) -> Tokens:
        """The next token and refresh token of a sign-in. Raises Unauthenticated."""
        ...

    async def switch(self, asked: Switch) -> Tokens:
        """As `refresh`, for another of the user's orgs. Raises Unauthenticated and Forbidden."""
        ...

    async def logout(self, asked: Refresh) -> None:
        """End a sign-in; says nothing of whether there was one."""
        ...


class Orgs(Protocol):
    """The orgs that callers are members of."""

    async def list(self, principal: Principal, *, cursor: str | None = None, limit: int = 50) -> Page[Org]:
        """The caller's orgs that are enabled; of an API key its own."""
        ...

    async def create(self, principal: Principal, asked: CreateOrg) -> Org:
        """A new org that the user owns. Raises Forbidden, to an API key and where only the operator makes orgs, and
        Conflict for too many."""
        ...


class Passwords(Protocol):
    """Passwords that are set anew. Whichever way, every sign-in of the user ends."""

    async def change(self, principal: Principal, asked: ChangePassword, address: str) -> Tokens:
        """Set one's own anew, for a new sign-in. Raises Forbidden to an API key, InvalidRequest for a wrong or a short
        one, QuotaExceeded and Conflict."""
        ...

    async def reset(self, asked: ResetPassword, address: str) -> None:
        """Set one anew with a code of the operator's. Raises Unauthenticated, InvalidRequest and QuotaExceeded."""
        ...


class Operator(Protocol):
    """What the operator does. `authenticate_operator` of the Authenticator is asked before."""

    async def list_orgs(self, *, cursor: str | None = None, limit: int = 50) -> Page[OrgState]:
        """All orgs, by id."""
        ...

    async def found_org(self, asked: FoundOrg) -> FoundedOrg:
        """An org, and the invitation of its owner."""
        ...

    async def disable_org(self, org_id: str) -> OrgState:
        """Refuse an org's callers from now on. Raises NotFound. Idempotent."""
        ...

    async def enable_org(self, org_id: str) -> OrgState:
        """Let an org's callers in again. Raises NotFound. Idempotent."""
        ...

    async def revoke_key(self, key_id: str) -> Key:
        """Put a key of any org out of force for good. Raises NotFound. Idempotent."""
        ...

    async def reset_password(self, asked: AskReset) -> ResetCode:
        """A code with which a user sets their password anew; one before passes no more. Raises NotFound."""
        ...


@dataclass(frozen=True, slots=True)
class Accounts:
    """What the control plane leads its callers to, of the identity authority."""

    keys: Keys
    members: Members
    sign_ins: SignIns
    orgs: Orgs
    passwords: Passwords
    operator: Operator


@dataclass(frozen=True, slots=True)
class Asked:
    """An operation of the identity authority's, on its way there: `target` is its path and query, `address` where it
    came from."""

    method: str
    target: str
    body: bytes = field(repr=False)
    credential: str | None = field(repr=False)
    address: str


@dataclass(frozen=True, slots=True)
class Answered:
    """What it was answered with; of its headers those that are for the caller."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Relay(Protocol):
    """The identity authority in another process, as its operations are led there."""

    async def relay(self, asked: Asked) -> Answered:
        """What it answers. Raises Unavailable; then what was asked may have been done all the same."""
        ...

    def forget(self, org_id: str | None = None) -> None:
        """An org, or all of them, may have changed: ask anew about its callers."""
        ...


class Service(Protocol):
    """What the identity authority does for a control plane in another process."""

    def admits(self, credential: str) -> bool:
        """Whether it is the credential of a control plane, told in constant time."""
        ...

    async def introspect(self, asked: Introspect) -> Introspection:
        """Whose credential it is."""
        ...

    async def events(self, asked: TakeEvents) -> Events:
        """What is to be told in the chains of orgs."""
        ...
