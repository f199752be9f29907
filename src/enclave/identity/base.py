"""What the control plane asks of the identity authority, wherever that runs."""

from typing import Protocol

from enclave.contracts.identity import Principal
from enclave.contracts.keys import CreateKey, Key, MadeKey
from enclave.contracts.wire import Page


class Authenticator(Protocol):
    """Turns a bearer credential into a principal."""

    async def authenticate(self, credential: str) -> Principal:
        """The caller behind an API key or a user JWT. Raises Unauthenticated; the answer never says what was wrong
        in a way that tells an existing key from none."""
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
