"""Where chains end, signed and brought to where whoever can write the database cannot, now and then."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Self

from enclave.contracts.checkpoint import Checkpoint
from enclave.contracts.errors import Unavailable
from enclave.store.base import Store
from enclave.store.examination import MAX_LINE, checkpoints
from enclave.store.signature import Signer

Clock = Callable[[], datetime]
Export = Callable[[Sequence[Checkpoint]], Awaitable[None]]
"""Where checkpoints go. Raises Unavailable if they did not all get there; some may be sent twice."""

_POST_SECONDS: Final = 10.0


class Checkpoints:
    """Signs for what a store's chains grew by since the last time."""

    def __init__(self, store: Store, signer: Signer, clock: Clock, export: Export) -> None:
        self.store = store
        self.clock = clock
        self._known: Mapping[str, int] = {}
        self.signer = signer
        self.export = export
        self._moment = 0

    async def tick(self) -> None:
        """Sign for what is new, and export it. Raises Unavailable; what was not exported is with the next."""
        moment, heads = await self.store.heads(self._moment)
        grown = [head for head in heads if self._known.get(head.org_id) != head.seq]
        if grown:
            await self.export([self.signer.sign(head, self.clock()) for head in grown])
        self._moment = moment
        self._known = {}

    @classmethod
    def to_file(cls, store: Store, signer: Signer, clock: Clock, path: Path) -> Self:
        """Checkpoints that are added to a file, a line of JSON each. Raises Unavailable if it cannot be read."""
        made = cls(store, signer, clock, _appended_to(path))
        # One of a chain that was cut since is behind the last.
        made._known = {one.org_id: one.seq for one in checkpoints(path, None) if one.kind == "checkpoint"}
        return made

    @classmethod
    def to_url(cls, store: Store, signer: Signer, clock: Clock, url: str) -> Self:
        """Checkpoints that are posted to a URL, a line of JSON each, many in one body."""
        return cls(store, signer, clock, _posted_to(url))


def _appended_to(path: Path) -> Export:
    async def export(those: Sequence[Checkpoint]) -> None:
        try:
            await asyncio.to_thread(_append, path, _lines(those))
        except OSError as error:
            raise Unavailable(f"checkpoints cannot be added to {path}: {error.strerror}") from error

    return export


def _append(path: Path, lines: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        _drop_cut_line(descriptor)
        while lines:
            lines = lines[os.write(descriptor, lines) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _drop_cut_line(descriptor: int) -> None:
    """A line that a crash cut off was never an answer to anyone."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, MAX_LINE, max(0, size - MAX_LINE))
    if tail and not tail.endswith(b"\n"):
        os.ftruncate(descriptor, size - len(tail) + tail.rfind(b"\n") + 1)


def _posted_to(url: str) -> Export:
    from httpx2 import AsyncClient, HTTPError

    async def export(those: Sequence[Checkpoint]) -> None:
        try:
            async with AsyncClient(timeout=_POST_SECONDS, trust_env=False) as client:
                answer = await client.post(url, content=_lines(those), headers={"content-type": "application/jsonl"})
        except HTTPError as error:
            raise Unavailable(f"checkpoints cannot be posted: {type(error).__name__}") from error
        if not answer.is_success:
            raise Unavailable(f"checkpoints cannot be posted: the receiver answered {answer.status_code}")

    return export


def _lines(those: Sequence[Checkpoint]) -> bytes:
    return b"".join(one.model_dump_json().encode() + b"\n" for one in those)
