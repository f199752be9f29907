"""The hash chain that makes an audit trail provable."""

import hashlib
import json
from collections.abc import Iterable
from typing import TypeVar

from enclave.contracts.audit import GENESIS, Event

E = TypeVar("E", bound=Event)


def canonical(event: Event) -> bytes:
    """The bytes a digest is taken of: the event's JSON without `digest`, keys sorted, no white space, UTF-8."""
    fields = event.model_dump(mode="json", by_alias=True, exclude={"digest"})
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def seal(event: E, *, seq: int, previous: str) -> E:
    """The event at its place in the chain, with the digest that holds it there."""
    placed = event.model_copy(update={"seq": seq, "previous": previous})
    return placed.model_copy(update={"digest": hashlib.sha256(canonical(placed)).hexdigest()})


def verify(events: Iterable[Event]) -> int | None:
    """The `seq` of the first event that does not hold, of one org's events from its first on; None if all hold."""
    previous, expected = GENESIS, 1
    for event in events:
        intact = hashlib.sha256(canonical(event)).hexdigest() == event.digest
        if not intact or event.previous != previous or event.seq != expected:
            return expected
        previous, expected = event.digest, expected + 1
    return None
