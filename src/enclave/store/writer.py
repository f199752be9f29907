"""The one thread that writes."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Final

from enclave.contracts.audit import GENESIS, AuditEvent
from enclave.contracts.errors import StaleSession, Unavailable
from enclave.core.audit import link
from enclave.core.session import Change

MAX_QUEUED: Final = 8192
MAX_BATCH: Final = 512
MAX_HEADS: Final = 16384

Events = tuple[AuditEvent, ...]


@dataclass(frozen=True, slots=True)
class _Unit:
    change: Change
    answer: asyncio.Future[Events]


@dataclass(frozen=True, slots=True)
class _Head:
    """Where an org's chain ends."""

    seq: int = 0
    digest: str = GENESIS


class Writer:
    """Takes what has gathered in its queue, commits it in one transaction, answers; and again."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._queue: SimpleQueue[_Unit | None] = SimpleQueue()
        self._heads: dict[str, _Head] = {}
        self._closed = False
        self._thread = Thread(target=self._run, name="enclave-store-writer", daemon=True)
        self._thread.start()

    def put(self, change: Change) -> asyncio.Future[Events]:
        """Queue a change; the future is its answer, and its refusal."""
        answer: asyncio.Future[Events] = asyncio.get_running_loop().create_future()
        if self._closed or self._queue.qsize() >= MAX_QUEUED:
            answer.set_exception(Unavailable("the store is closed" if self._closed else "the store cannot keep up"))
        else:
            self._queue.put(_Unit(change, answer))
        return answer

    def close(self) -> None:
        """Write what is queued, then release the connection; returns when that is done."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        units: Sequence[_Unit | None] = ()
        while None not in units:
            units = self._gather()
            self._serve([unit for unit in units if unit is not None])
        self._connection.close()

    def _gather(self) -> list[_Unit | None]:
        first = self._queue.get()
        more = min(self._queue.qsize(), MAX_BATCH - 1)
        return [first, *(self._queue.get() for _ in range(more))]

    def _serve(self, batch: list[_Unit]) -> None:
        if batch:
            _deliver(batch, self._settle(batch))

    def _settle(self, batch: list[_Unit]) -> list[Events | Exception]:
        try:
            return self._commit(batch)
        except Exception as error:  # noqa: BLE001  these callers wait for an answer, and the next ones for this thread
            self._abandon()
            return [_refusal(error) for _ in batch]

    def _commit(self, batch: list[_Unit]) -> list[Events | Exception]:
        self._connection.execute("BEGIN IMMEDIATE")
        answers = [self._apply(unit.change) for unit in batch]
        self._connection.execute("COMMIT")
        return answers

    def _abandon(self) -> None:
        # The heads may be of rows that are rolled back; the table knows the ones that are not.
        self._heads.clear()
        with suppress(sqlite3.Error):
            self._connection.rollback()

    def _apply(self, change: Change) -> Events | Exception:
        # All that can fail because of what a change holds comes before the first write: it fails alone.
        org_id = change.session.org_id
        try:
            row = _row(change)
            events, links = _sealed(change.events, self._head(org_id))
        except (ValueError, RecursionError) as error:
            return error
        if not self._move(change, row):
            return StaleSession()
        self._connection.executemany(_APPEND, links)
        self._heads[org_id] = _Head(events[-1].seq, events[-1].digest) if events else self._head(org_id)
        return events

    def _head(self, org_id: str) -> _Head:
        if org_id not in self._heads:
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            found = self._connection.execute(_HEAD, (org_id,)).fetchone()
            self._heads[org_id] = _Head(*found) if found else _Head()
        return self._heads[org_id]

    def _move(self, change: Change, row: "_Row") -> bool:
        """Whether the session was in `change.before`, and so is moved."""
        if change.before is not None:
            guard = (change.session.id, change.session.org_id, change.before.value)
            return self._connection.execute(_MOVE, (*row.state, *guard)).rowcount == 1
        created = self._connection.execute(_CREATE, (*row.origin, *row.state)).rowcount == 1
        if created:
            self._connection.executemany(_LABEL, row.labels)
        return created


@dataclass(frozen=True, slots=True)
class _Row:
    """A session as the table has it: what never changes, what every change replaces, and its labels."""

    origin: tuple[str, ...]
    state: tuple[str | None, ...]
    labels: list[tuple[str, ...]]


_CREATE: Final = (
    "INSERT INTO sessions (id, org_id, created_by, created_at, phase, doc, result)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_MOVE: Final = "UPDATE sessions SET phase = ?, doc = ?, result = ? WHERE id = ? AND org_id = ? AND phase = ?"
_LABEL: Final = "INSERT INTO labels (org_id, name, value, session_id) VALUES (?, ?, ?, ?)"
_APPEND: Final = (
    "INSERT INTO audit (org_id, seq, session_id, type, ts, body, previous, digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_HEAD: Final = "SELECT seq, digest FROM audit WHERE org_id = ? ORDER BY seq DESC LIMIT 1"

_Link = tuple[str | int | None, ...]


def _row(change: Change) -> _Row:
    session = change.session
    doc = session.model_dump_json(exclude={"result"})
    result = None if session.result is None else session.result.model_dump_json()
    return _Row(
        origin=(session.id, session.org_id, session.created_by, session.created_at.isoformat()),
        state=(session.phase.value, doc, result),
        labels=[(session.org_id, name, value, session.id) for name, value in session.labels.items()],
    )


def _sealed(events: Events, head: _Head) -> tuple[Events, list[_Link]]:
    """The events at the end of the chain, and their rows."""
    sealed: list[AuditEvent] = []
    links: list[_Link] = []
    for event in events:
        placed, body = link(event, seq=head.seq + 1, previous=head.digest)
        head = _Head(placed.seq, placed.digest)
        sealed.append(placed)
        links.append(_link(placed, body))
    return tuple(sealed), links


def _link(event: AuditEvent, body: bytes) -> _Link:
    place = (event.org_id, event.seq, event.session_id, event.type, event.ts.isoformat())
    return (*place, body.decode(), event.previous, event.digest)


def _refusal(error: Exception) -> Unavailable:
    refusal = Unavailable("the database cannot be written")
    refusal.__cause__ = error
    return refusal


def _deliver(batch: list[_Unit], answers: list[Events | Exception]) -> None:
    # A loop that is closed has nobody left who waits.
    with suppress(RuntimeError):
        batch[0].answer.get_loop().call_soon_threadsafe(_resolve, batch, answers)


def _resolve(batch: list[_Unit], answers: list[Events | Exception]) -> None:
    for unit, answer in zip(batch, answers, strict=True):
        _answer(unit.answer, answer)


def _answer(future: asyncio.Future[Events], answer: Events | Exception) -> None:
    if future.done():  # its caller was cancelled
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
