"""Session ids: ULIDs, so that the order of ids is the order of creation."""

import os
from collections.abc import Callable, Iterator
from datetime import datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 80


def session_ids(clock: Callable[[], datetime]) -> Iterator[str]:
    """Ids without end, each greater than the one before it, whatever the clock does."""
    last = 0
    while True:
        last = max(last + 1, _ulid(clock()))
        yield f"ses_{_crockford(last)}"


def first_id(moment: datetime) -> str:
    """What no id of a session that was created at a moment, or after it, is less than."""
    return f"ses_{_crockford(_stamp(moment))}"


def _ulid(moment: datetime) -> int:
    return _stamp(moment) | int.from_bytes(os.urandom(_RANDOM_BITS // 8))


def _stamp(moment: datetime) -> int:
    return int(moment.timestamp() * 1000) << _RANDOM_BITS


def _crockford(number: int) -> str:
    return "".join([_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5)])
