"""User tokens: JWTs signed with a secret that the control plane shares with whoever issues them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import jwt

from enclave.contracts.errors import InvalidRequest
from enclave.contracts.identity import Principal, Role
from enclave.core.access import ROLES

MIN_SECRET_BYTES: Final = 32

# One algorithm, whatever a token's header asks for.
_ALGORITHMS: Final = ("HS256",)
# A valid token is enough by itself, whatever audience it also names.
_OPTIONS: Final[Any] = {"require": ["exp", "sub"], "enforce_minimum_key_length": True, "verify_aud": False}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SIGN_IN: Final = re.compile(r"[0-9a-z]{16}", re.ASCII)

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

    def sign(self, claims: Mapping[str, object]) -> str:
        """A token that says this."""
        return jwt.encode(dict(claims), self.secret, algorithm=_ALGORITHMS[0])

    def read(self, token: str) -> "Read":
        """What a token says. Raises one of `INVALID`."""
        claims = jwt.decode(token, self.secret, algorithms=_ALGORITHMS, options=_OPTIONS)
        role = Role(claims["role"])
        user_id, org_id = _name(claims["sub"]), _name(claims["orgId"])
        principal = Principal(user_id=user_id, org_id=org_id, role=role, scopes=ROLES[role])
        return Read(principal, _moment(claims["exp"]), _sign_in(claims.get("sid")))


@dataclass(frozen=True, slots=True)
class Read:
    """Whom a token is for, until when (POSIX seconds), and the sign-in that it was given for, if it names one."""

    principal: Principal
    until: float
    sign_in: str | None


def _name(claim: str) -> str:
    # Names end up in logs and on terminals.
    if _CONTROL.search(claim):
        raise ValueError("a name with a control character")
    return claim


def _sign_in(claim: object) -> str | None:
    # Another issuer's may be anything, and names no sign-in here.
    return claim if isinstance(claim, str) and _SIGN_IN.fullmatch(claim) else None


def _moment(claim: object) -> float:
    # The library would take "4102444800" and true, which RFC 7519 does not.
    if isinstance(claim, bool) or not isinstance(claim, int | float):
        raise TypeError("a moment that is no number")
    return float(claim)
