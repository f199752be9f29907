"""What the control plane asks of the identity authority, wherever that runs."""

from typing import Protocol

from enclave.contracts.identity import Principal


class Authenticator(Protocol):
    """Turns a bearer credential into a principal."""

    async def authenticate(self, credential: str) -> Principal:
        """The caller behind an API key or a user JWT. Raises Unauthenticated; the answer never says what was wrong
        in a way that tells an existing key from none."""
        ...
