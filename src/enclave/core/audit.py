"""The hash chain that makes an audit trail provable."""

import hashlib
import json
from collections.abc import Iterable
from typing import TypeVar

from enclave.contracts.audit import GENESIS, Event

E = TypeVar("E", bound=Event)


def canonical(event: Event) -> bytes:
    """The bytes a digest is taken of: the event's JSON without `digest`, keys sorted, no white space, UTF-8."""
    return _canonical(event, {})


def _canonical(event: Event, place: dict[str, object]) -> bytes:
    fields = event.model_dump(mode="json", by_alias=True, exclude={"digest"}) | place
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def link(event: E, *, seq: int, previous: str) -> tuple[E, bytes]:
    """The event at its place in the chain, with the digest that holds it there, and the bytes that were digested."""
    place: dict[str, object] = {"seq": seq, "previous": previous}
    body = _canonical(event, place)
    return event.model_copy(update={**place, "digest": hashlib.sha256(body).hexdigest()}), body


def seal(event: E, *, seq: int, previous: str) -> E:
    """The event at its place in the chain, with the digest that holds it there."""
    return link(event, seq=seq, previous=previous)[0]


def verify(events: Iterable[Event]) -> int | None:
    """The `seq` of the first event that does not hold, of one org's events from its first on; None if all hold."""
    previous, expected = GENESIS, 1
    for event in events:
        intact = hashlib.sha256(canonical(event)).hexdigest() == event.digest
        if not intact or event.previous != previous or event.seq != expected:
            return expected
        previous, expected = event.digest, expected + 1
    return None
