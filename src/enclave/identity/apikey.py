"""API keys: `ek_<id>_<secret>`. The id is public; the secret is 256 random bits, kept only as a keyed hash.

Refresh tokens, the codes of invitations and resets, and the operator's credential are made and kept in the same way,
each with a prefix of its own.
"""

import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Final

# The secret is URL-safe Base64 and may hold underscores itself: its place is told by length, not by splitting.
_SHAPE: Final = re.compile(r"([a-z]{2})_([0-9a-z]{16})_([0-9A-Za-z_-]{43})", re.ASCII)
KEY: Final = "ek"
OPERATOR: Final = "eo"
SERVICE: Final = "es"
NO_HASH: Final = bytes(32)
"""What no secret hashes to; compared with where there is no key, so that both take the same time."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key in its two parts."""

    id: str
    secret: str = field(repr=False)
    prefix: str = KEY

    def __str__(self) -> str:
        return f"{self.prefix}_{self.id}_{self.secret}"

    def hash(self, pepper: bytes) -> bytes:
        """What is stored of the secret."""
        return hmac.digest(pepper, self.secret.encode(), "sha256")

    def has_hash(self, expected: bytes, pepper: bytes) -> bool:
        """Whether this secret was stored as `expected`, in constant time."""
        return hmac.compare_digest(self.hash(pepper), expected)


def new_api_key(prefix: str = KEY) -> ApiKey:
    """A key that nobody has seen."""
    return ApiKey(secrets.token_hex(8), secrets.token_urlsafe(32), prefix)


def looks_like_key(credential: str) -> bool:
    """Whether it has the shape of a key, of whatever prefix."""
    return _SHAPE.fullmatch(credential) is not None


def parse(credential: str, prefix: str = KEY) -> ApiKey | None:
    """The key in a credential; None if it does not look like one."""
    found = _SHAPE.fullmatch(credential)
    return ApiKey(found[2], found[3], prefix) if found and found[1] == prefix else None
