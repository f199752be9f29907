"""What other replicas commit, heard of as they do (https://www.postgresql.org/docs/current/sql-notify.html)."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

from enclave.store.postgres.batch import SESSION_CHANNEL
from enclave.store.postgres.database import FAILURES, Database

WISH_CHANNEL: Final = "enclave_wish"

_AGAIN_SECONDS: Final = 1.0
_CHECK_SECONDS: Final = 5.0


class Feed:
    """Wakes who waits for a session or for wishes. What is told while the connection is away is told by waking all."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._closed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen, until it is closed."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def changed(self, topic: str) -> asyncio.Future[None]:
        """Done when a topic, a session's id or WISH_CHANNEL, is told of. It is shared: wait for it, never cancel it."""
        if topic not in self._waiting:
            self._waiting[topic] = asyncio.get_running_loop().create_future()
        return self._waiting[topic]

    async def close(self) -> None:
        """Stop listening."""
        self._closed.set()
        if self._task is not None:
            await asyncio.wait((self._task,))
        self._wake_all()

    async def _run(self) -> None:
        # It is asked to end, not cancelled: a connection that is just being made would be lost.
        while not self._closed.is_set():
            try:
                await self._listen()
            except FAILURES:
                await _one_of((self._closed,), _AGAIN_SECONDS)

    async def _listen(self) -> None:
        connection = await self._database.connect()
        gone = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: gone.set())
            await connection.add_listener(SESSION_CHANNEL, self._told(lambda payload: payload.split(",")))
            await connection.add_listener(WISH_CHANNEL, self._told(lambda _: [WISH_CHANNEL]))
            self._wake_all()
            while not await _one_of((gone, self._closed), _CHECK_SECONDS):
                # One that is cut off without a word would never be missed.
                await connection.execute("SELECT")
        finally:
            connection.terminate()

    def _told(self, topics: Callable[[str], list[str]]) -> Callable[..., None]:
        def told(_connection: Any, _pid: int, _channel: str, payload: str) -> None:
            for topic in topics(payload):
                self._wake(topic)

        return told

    def _wake_all(self) -> None:
        for topic in tuple(self._waiting):
            self._wake(topic)

    def _wake(self, topic: str) -> None:
        waiting = self._waiting.pop(topic, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)


async def _one_of(events: Iterable[asyncio.Event], seconds: float) -> bool:
    """Whether one of them is set, within so many seconds."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    done, left = await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for one in left:
        one.cancel()
    return bool(done)
