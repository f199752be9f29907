"""Checkpoints signed with Ed25519 (RFC 8032), and what tells whether one is."""

from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from enclave.contracts.checkpoint import Checkpoint
from enclave.core.proof import signed
from enclave.store.base import Head

PUBLIC_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs with the key of a seed of 32 bytes."""

    seed: bytes = field(repr=False)

    @property
    def public_key(self) -> str:
        """The key that the signatures are checked with, in base64."""
        return b64encode(self._key.public_key().public_bytes_raw()).decode()

    def sign(self, head: Head, at: datetime, kind: Literal["checkpoint", "tombstone"] = "checkpoint") -> Checkpoint:
        """That this is where the chain ends, or was removed up to."""
        bare = Checkpoint(
            kind=kind, org_id=head.org_id, seq=head.seq, digest=head.digest, ts=at, public_key=self.public_key
        )
        return bare.model_copy(update={"signature": b64encode(self._key.sign(signed(bare))).decode()})

    @property
    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


def is_signed(checkpoint: Checkpoint, public_key: str) -> bool:
    """Whether a checkpoint was signed by the holder of this key."""
    try:
        key = Ed25519PublicKey.from_public_bytes(b64decode(public_key, validate=True))
        key.verify(b64decode(checkpoint.signature, validate=True), signed(checkpoint))
    except (InvalidSignature, ValueError):
        return False
    return checkpoint.public_key == public_key
