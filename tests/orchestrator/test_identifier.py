"""Ids are in the order of their making."""

import re
from datetime import UTC, datetime
from itertools import islice

from enclave.orchestrator.identifier import session_ids


def test_ids_grow_even_when_the_clock_stands_or_goes_back() -> None:
    moments = iter([1e9, 1e9, 1e9 - 60, 1e9 + 1])
    ids = list(islice(session_ids(lambda: datetime.fromtimestamp(next(moments), UTC)), 4))
    assert ids == sorted(set(ids))
    assert all(re.fullmatch(r"ses_[0-9a-hjkmnp-tv-z]{26}", one) for one in ids)
