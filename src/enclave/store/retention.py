"""Entries of the chain that are old enough, removed in ranges that were examined, each attested by a tombstone."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from pydantic_core import from_json

from enclave.contracts.checkpoint import Checkpoint
from enclave.core.proof import Entry, examine
from enclave.store.base import Head
from enclave.store.checkpoint import Checkpoints

_RANGE: Final = 1000
_log = logging.getLogger(__name__)


class Retention:
    """Removes what is older than an age. What does not hold is not removed: it is told of, and stays."""

    def __init__(self, checkpoints: Checkpoints, age: timedelta) -> None:
        self._store = checkpoints.store
        self._signer = checkpoints.signer
        self._clock = checkpoints.clock
        self._export = checkpoints.export
        self._age = age

    async def tick(self) -> None:
        """Remove what is old enough. Raises Unavailable; what was not removed is so the next time."""
        _, heads = await self._store.heads()
        for head in heads:
            while await self._remove(head):
                pass

    async def _remove(self, head: Head) -> bool:
        oldest = await self._store.oldest(head.org_id, _RANGE)
        old = self._old(oldest.entries, head)
        if not old or not _holds(old, oldest.tombstone):
            return False
        last = Head(head.org_id, _seq(old[-1]), old[-1].digest)
        tombstone = self._signer.sign(last, self._clock(), "tombstone")
        # Told before it is done: a tombstone for what is still there does no harm.
        await self._export([tombstone])
        await self._store.bury(tombstone)
        return len(old) == _RANGE

    def _old(self, entries: Sequence[Entry], head: Head) -> list[Entry]:
        limit = self._clock() - self._age
        old: list[Entry] = []
        for one in entries:
            # What cannot be read is left to the examination, which tells of it.
            with suppress(ValueError, KeyError, TypeError):
                if _seq(one) >= head.seq or _at(one) >= limit:
                    break
            old.append(one)
        return old


def _holds(entries: list[Entry], tombstone: Checkpoint | None) -> bool:
    for found in examine(entries, () if tombstone is None else (tombstone,)):
        if found.flaw is not None:
            told = (found.org_id, found.flaw.seq, found.flaw.what)
            _log.error("the audit trail of %s does not hold at entry %s: %s; nothing of it is removed", *told)
            return False
    return True


def _seq(entry: Entry) -> int:
    return int(from_json(entry.body)["seq"])


def _at(entry: Entry) -> datetime:
    return datetime.fromisoformat(from_json(entry.body)["ts"])
