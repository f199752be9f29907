"""The one thread that writes."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, Protocol, TypeVar

from enclave.contracts.errors import EnclaveError, Unavailable
from enclave.store.chain import End, Events, sealed

MAX_QUEUED: Final = 8192
MAX_BATCH: Final = 512
MAX_HEADS: Final = 16384

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Write(Protocol[T_co]):
    """Something to be written, and the events that tell of it."""

    @property
    def org_id(self) -> str:
        """Whose chain the events go to."""

    @property
    def events(self) -> Events:
        """What tells of it, not yet in the chain."""

    def run(self, connection: sqlite3.Connection, sealed: Events) -> T_co:
        """Write it, within a transaction, and answer. All that can fail because of what it holds comes before its first
        statement that writes: it then raises EnclaveError or ValueError, and fails alone."""


@dataclass(frozen=True, slots=True)
class _Unit:
    write: Write[Any]
    answer: asyncio.Future[Any]


class Writer:
    """Takes what has gathered in its queue, commits it in one transaction, answers; and again."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._queue: SimpleQueue[_Unit | None] = SimpleQueue()
        self._heads: dict[str, End] = {}
        self._closed = False
        self._thread = Thread(target=self._run, name="enclave-store-writer", daemon=True)
        self._thread.start()

    def put(self, write: Write[T]) -> asyncio.Future[T]:
        """Queue something; the future is its answer, and its refusal."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._closed or self._queue.qsize() >= MAX_QUEUED:
            answer.set_exception(Unavailable("the store is closed" if self._closed else "the store cannot keep up"))
        else:
            self._queue.put(_Unit(write, answer))
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

    def _settle(self, batch: list[_Unit]) -> list[object]:
        try:
            return self._commit(batch)
        except Exception as error:  # noqa: BLE001  these callers wait for an answer, and the next ones for this thread
            self._abandon()
            return [_refusal(error) for _ in batch]

    def _commit(self, batch: list[_Unit]) -> list[object]:
        self._connection.execute("BEGIN IMMEDIATE")
        answers = [self._apply(unit.write) for unit in batch]
        self._connection.execute("COMMIT")
        return answers

    def _abandon(self) -> None:
        # The heads may be of rows that are rolled back; the table knows the ones that are not.
        self._heads.clear()
        with suppress(sqlite3.Error):
            self._connection.rollback()

    def _apply(self, write: Write[object]) -> object:
        org_id = write.org_id
        try:
            events, links = sealed(write.events, self._head(org_id))
            answer = write.run(self._connection, events)
        except (EnclaveError, ValueError, RecursionError) as error:
            return error
        self._connection.executemany(_APPEND, links)
        self._heads[org_id] = End(events[-1].seq, events[-1].digest) if events else self._head(org_id)
        return answer

    def _head(self, org_id: str) -> End:
        if org_id not in self._heads:
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            found = self._connection.execute(_HEAD, (org_id,)).fetchone()
            self._heads[org_id] = End(*found) if found else End()
        return self._heads[org_id]


_APPEND: Final = (
    "INSERT INTO audit (org_id, seq, session_id, type, ts, body, previous, digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_HEAD: Final = "SELECT seq, digest FROM audit WHERE org_id = ? ORDER BY seq DESC LIMIT 1"


def _refusal(error: Exception) -> Unavailable:
    refusal = Unavailable("the database cannot be written")
    refusal.__cause__ = error
    return refusal


def _deliver(batch: list[_Unit], answers: list[object]) -> None:
    # A loop that is closed has nobody left who waits.
    with suppress(RuntimeError):
        batch[0].answer.get_loop().call_soon_threadsafe(_resolve, batch, answers)


def _resolve(batch: list[_Unit], answers: list[object]) -> None:
    for unit, answer in zip(batch, answers, strict=True):
        _answer(unit.answer, answer)


def _answer(future: asyncio.Future[Any], answer: object) -> None:
    if future.done():  # its caller was cancelled
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
