"""Where an org's chain ends, and what comes to it there: one place for what every database writes."""

from dataclasses import dataclass

from enclave.contracts.audit import GENESIS, AuditEvent
from enclave.core.audit import link

Events = tuple[AuditEvent, ...]

Link = tuple[str | int | None, ...]
"""A row of the trail: org, seq, session, type, moment, body, previous digest and digest."""


@dataclass(frozen=True, slots=True)
class End:
    """Where an org's chain ends."""

    seq: int = 0
    digest: str = GENESIS


def sealed(events: Events, end: End) -> tuple[Events, list[Link]]:
    """The events at the end of the chain, and their rows."""
    placed: list[AuditEvent] = []
    links: list[Link] = []
    for event in events:
        one, body = link(event, seq=end.seq + 1, previous=end.digest)
        end = End(one.seq, one.digest)
        placed.append(one)
        links.append(_link(one, body))
    return tuple(placed), links


def _link(event: AuditEvent, body: bytes) -> Link:
    place = (event.org_id, event.seq, event.session_id, event.type, event.ts.isoformat())
    return (*place, body.decode(), event.previous, event.digest)
