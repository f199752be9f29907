"""What every fact of an audit trail says."""

from enclave.contracts.wire import OrgId, SessionId, Timestamp, Wire

GENESIS = "0" * 64


class Event(Wire):
    """What every event says: when, whose, by whom, and its place in the chain (`seq` counts from 1 in each org)."""

    ts: Timestamp
    org_id: OrgId
    session_id: SessionId | None
    actor: str
    seq: int = 0
    previous: str = GENESIS
    digest: str = ""
