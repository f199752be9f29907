"""User tokens: JWTs signed with a secret that the control plane shares with whoever issues them."""

from dataclasses import dataclass, field
from typing import Any, Final

import jwt

from enclave.contracts.errors import InvalidRequest
from enclave.contracts.identity import Principal, Role
from enclave.core.access import ROLES

MIN_SECRET_BYTES: Final = 32

# One algorithm, whatever a token's header asks for.
_ALGORITHMS: Final = ("HS256",)
_OPTIONS: Final[Any] = {"require": ["exp", "sub"], "enforce_minimum_key_length": True}

INVALID: Final = (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError, RecursionError)
"""What bytes that are no valid token can raise here: a header of ten thousand brackets, an `exp` of infinity."""


@dataclass(frozen=True, slots=True)
class TokenReader:
    """Reads tokens signed with one secret. Raises InvalidRequest if the secret is too short to be one."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) < MIN_SECRET_BYTES:
            raise InvalidRequest(
                f"ENCLAVE_JWT_SECRET must be at least {MIN_SECRET_BYTES} bytes; try `openssl rand -hex 32`"
            )

    def read(self, token: str) -> tuple[Principal, float]:
        """Whom a token is for, and until when (POSIX seconds). Raises one of `INVALID`."""
        claims = jwt.decode(token, self.secret, algorithms=_ALGORITHMS, options=_OPTIONS)
        role = Role(claims["role"])
        principal = Principal(user_id=claims["sub"], org_id=claims["orgId"], role=role, scopes=ROLES[role])
        return principal, float(claims["exp"])
