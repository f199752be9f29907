"""What a control plane signs of an audit trail, so that nobody who can write its database can write another one."""

from typing import Literal

from enclave.contracts.wire import OrgId, Timestamp, Wire


class Checkpoint(Wire):
    """That at `ts` the chain of an org ended with entry `seq`, whose digest was `digest`; a `tombstone` says that it
    was verified up to there, and removed up to there because it was old.

    `public_key` and `signature` are of Ed25519 (RFC 8032), in base64; what is signed is `enclave.core.proof.signed`.
    """

    kind: Literal["checkpoint", "tombstone"]
    org_id: OrgId
    seq: int
    digest: str
    ts: Timestamp
    public_key: str
    signature: str = ""
