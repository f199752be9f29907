"""The one task that writes, on a connection of its own."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import asyncpg

from enclave.contracts.errors import StaleSession, Unavailable
from enclave.store.chain import End, Link
from enclave.store.postgres.batch import Batch, Write
from enclave.store.postgres.database import FAILURES, GONE, Database

MAX_QUEUED: Final = 8192
MAX_BATCH: Final = 256
MAX_KNOWN: Final = 32768
"""Of how many chains and sessions is kept in memory where they are."""

_FRESH_SECONDS: Final = 1.0

_ATTEMPTS: Final = 3
_DOUBT_SECONDS: Final = 5.0
"""How long is asked whether a commit came to be whose answer was lost."""

_AGAIN_SECONDS: Final = 0.1

# What a database rolls back and may be asked for again (https://www.postgresql.org/docs/current/errcodes-appendix.html);
# a unique violation is of another's row that was not there yet when it was looked for.
_ROLLED_BACK: Final = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.UniqueViolationError,
)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Unit:
    write: Write[Any]
    answer: asyncio.Future[Any]


class Writer:
    """Takes what has gathered in its queue, commits it in one transaction, answers; and again."""

    def __init__(self, database: Database, owner: str) -> None:
        self._database = database
        self._owner = owner
        self._queue: deque[_Unit] = deque()
        self._more = asyncio.Event()
        self._closed = False
        self._connection: Any = None
        self._used = -math.inf
        self._ends: dict[str, End] = {}
        self._phases: dict[str, tuple[str, str]] = {}
        self._task = asyncio.get_running_loop().create_task(self._run())

    def put(self, write: Write[T]) -> asyncio.Future[T]:
        """Queue something; the future is its answer, and its refusal."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._closed or len(self._queue) >= MAX_QUEUED:
            answer.set_exception(Unavailable("the store is closed" if self._closed else "the store cannot keep up"))
        else:
            self._queue.append(_Unit(write, answer))
            self._more.set()
        return answer

    async def close(self) -> None:
        """Write what is queued, then let go of the connection; returns when that is done."""
        self._closed = True
        self._more.set()
        await asyncio.wait((self._task,))

    async def _run(self) -> None:
        while self._queue or not self._closed:
            if not self._queue:
                self._more.clear()
                await self._more.wait()
                continue
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]
            answers = await self._settle([unit.write for unit in batch])
            for unit, answer in zip(batch, answers, strict=True):
                _answer(unit.answer, answer)
        self._drop()

    async def _settle(self, writes: list[Write[Any]]) -> list[object]:
        failure: Exception = TimeoutError()
        for _ in range(_ATTEMPTS):
            try:
                return await self._commit(writes)
            except (*_ROLLED_BACK, *GONE) as error:
                failure = error
                if self._drop() is None:  # there was none to be had
                    break
            except Exception as error:  # noqa: BLE001  these callers wait for an answer, and the next ones for this task
                failure = error
                self._drop()
                break
        return [_refusal(failure) for _ in writes]

    async def _commit(self, writes: list[Write[Any]]) -> list[object]:
        if self._connection is None or self._connection.is_closed():
            self._connection = None
            self._connection = await self._database.connect()
        answers = await self._at_once(writes) if self._is_simple(writes) else None
        if answers is None:
            answers = await self._step_by_step(writes)
        self._used = time.monotonic()
        return answers

    async def _step_by_step(self, writes: list[Write[Any]]) -> list[object]:
        batch = await Batch.begin(self._connection, self._owner, writes)
        answers = [await batch.apply(write) for write in writes]
        await batch.flush()
        await self._sure(batch, self._connection.execute("COMMIT"))
        self._learn(batch)
        return answers

    async def _at_once(self, writes: list[Write[Any]]) -> list[object] | None:
        """What `_step_by_step` does, in one statement, if all is as this process left it; None if it is not."""
        ends = {write.org_id: self._ends[write.org_id] for write in writes}
        ids = {write.session_id for write in writes if write.session_id in self._phases}
        batch = Batch.expecting(self._connection, self._owner, ends, {one: self._phases[one] for one in ids if one})
        answers = [await batch.apply(write) for write in writes]
        # One that is refused may be refused for what is not so any more.
        if any(isinstance(answer, StaleSession) for answer in answers) or not await self._sure(batch, batch.flush()):
            self._forget()
            return None
        self._learn(batch)
        return answers

    def _is_simple(self, writes: list[Write[Any]]) -> bool:
        # A connection that was idle is tried first: of a statement that was sent it would not be known whether it came.
        fresh = time.monotonic() - self._used < _FRESH_SECONDS
        return fresh and all(write.in_memory and write.org_id in self._ends for write in writes)

    async def _sure(self, batch: Batch, commit: Awaitable[Any]) -> Any:
        """What a commit answers; if the answer is lost, whether it came to be."""
        try:
            return await commit
        except asyncpg.PostgresError as error:
            if not isinstance(error, GONE):
                raise  # it was rolled back
            lost: Exception = error
        except FAILURES as error:
            lost = error
        self._drop()
        if not await self._is_committed(batch.last):
            raise _Undone from lost
        return True

    def _learn(self, batch: Batch) -> None:
        ends, phases = batch.learnt()
        if len(self._ends) + len(self._phases) > MAX_KNOWN:
            self._forget()
        self._ends.update(ends)
        self._phases.update(phases)

    def _forget(self) -> None:
        self._ends.clear()
        self._phases.clear()

    async def _is_committed(self, last: Link | None) -> bool:
        """Whether a transaction is durable whose commit nobody answered."""
        return last is not None and await _within(_DOUBT_SECONDS, lambda: self._has(last))

    async def _has(self, last: Link) -> bool:
        connection = await self._database.connect()
        try:
            async with connection.transaction():
                # Who still holds the chain may be that very transaction.
                await connection.execute(_HOLD, last[0])
                return bool(await connection.fetchval(_HAS, last[0], last[1], last[7]))
        finally:
            connection.terminate()

    def _drop(self) -> Any:
        """Let go of the connection, whatever state it is in; answers with it."""
        dropped, self._connection = self._connection, None
        self._forget()
        if dropped is not None:
            dropped.terminate()
        return dropped


class _Undone(Exception):
    """A commit that did not come to be, or of which it is not known."""


_HOLD: Final = "SELECT FROM heads WHERE org_id = $1 FOR UPDATE"
_HAS: Final = "SELECT 1 FROM audit WHERE org_id = $1 AND seq = $2 AND digest = $3"


async def _within(seconds: float, ask: Callable[[], Awaitable[bool]]) -> bool:
    """The answer, asked for again and again as long as asking fails; False if it was not had in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            return await ask()
        except FAILURES:
            await asyncio.sleep(_AGAIN_SECONDS)
    return False


def _refusal(error: Exception) -> Unavailable:
    refusal = Unavailable("the database cannot be written")
    refusal.__cause__ = error
    return refusal


def _answer(future: asyncio.Future[Any], answer: object) -> None:
    if future.done():  # its caller was cancelled
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
