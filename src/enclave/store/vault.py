"""Secrets at rest: sealed with a key that is not in the database."""

import hashlib
import os
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from enclave.contracts.errors import SecretUnreadable
from enclave.core.key import KEY_BYTES

_NONCE_BYTES: Final = 12  # NIST SP 800-38D, section 8.2.2: random ones serve 2**32 secrets
_MARK_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Vault:
    """AES-256-GCM under one key. What is sealed opens only beside the very bytes that it was sealed with."""

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise ValueError(f"the key must have {KEY_BYTES} bytes")

    def seal(self, secret: str, beside: bytes) -> bytes:
        """The secret as it is stored: which key it was, a nonce, and the sealed text."""
        nonce = os.urandom(_NONCE_BYTES)
        return self._mark + nonce + AESGCM(self.key).encrypt(nonce, secret.encode(), beside)

    def open(self, sealed: bytes, beside: bytes) -> str:
        """The secret. Raises SecretUnreadable, saying whether it is the key or the record."""
        mark, rest = sealed[:_MARK_BYTES], sealed[_MARK_BYTES:]
        try:
            return AESGCM(self.key).decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], beside).decode()
        except (InvalidTag, ValueError, TypeError):
            raise SecretUnreadable(_CHANGED if mark == self._mark else _OTHER_KEY) from None

    @property
    def _mark(self) -> bytes:
        # Of a key that is random through and through, a digest tells nothing.
        return hashlib.sha256(b"enclave secret key mark" + self.key).digest()[:_MARK_BYTES]


_CHANGED: Final = "a stored secret was not written by this server as it stands there; put the binding again"
_OTHER_KEY: Final = "a stored secret was sealed with another key; restore the key, or put the binding again"
