"""What the control plane asks of the identity authority, wherever that runs."""

from dataclasses import dataclass
from typing import Protocol

from enclave.contracts.identity import Principal
from enclave.contracts.keys import CreateKey, Key, MadeKey
from enclave.contracts.members import (
    AcceptInvitation,
    ChangeMember,
    Invitation,
    Invite,
    Login,
    Member,
    Refresh,
    Tokens,
)
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

    async def logout(self, asked: Refresh) -> None:
        """End a sign-in; says nothing of whether there was one."""
        ...


@dataclass(frozen=True, slots=True)
class Accounts:
    """What the control plane leads its callers to, of the identity authority."""

    keys: Keys
    members: Members
    sign_ins: SignIns
