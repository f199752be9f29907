"""The output of sessions, as files of the control plane's disk: `<place>/SESSION`, of the records in `record`.

One thread writes, all that has gathered at a time, so that the event loop waits for no disk. What is written outlives
the process, not a power cut: for that another thread has the disk catch up, now and then, where nobody waits for it.
"""

import asyncio
import contextlib
import os
import re
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple, Self, TypeVar

from enclave.contracts.errors import Unavailable
from enclave.store import record
from enclave.store.base import Chunk, Kept
from enclave.store.files import make_durable, moment

SYNC_SECONDS: Final = 0.5
"""How long the disk may be behind, and some more for what it takes."""

# What is there and no file of ours is an error at once, not something to wait for.
_FILE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_READ_BYTES: Final = 2 * record.MAX_TEXT_BYTES
_ID: Final = re.compile(r"ses_[0-9a-z]{26}\Z")

T = TypeVar("T")


class DirectoryJournals:
    """Journals in a directory that only its owner can read. Use it from one event loop, and close it."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._writer = _Writer()
        self._syncer = _Syncer(place)
        self._readers = ThreadPoolExecutor(2, "enclave-journal-reader")

    @classmethod
    def open(cls, place: Path) -> Self:
        """The journals in this directory, which is made if there is none. Raises Unavailable, saying why."""
        try:
            place.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"{place} cannot be used: {error.strerror or error}") from error
        return cls(place)

    def journal(self, org_id: str, session_id: str) -> "FileJournal":
        """The journal of a session; there is no file until something is in it."""
        return FileJournal(self, org_id, session_id)

    async def remove(self, session_id: str) -> None:
        """Remove a session's journal, if it has any."""
        await self._writer.put(lambda: (self._place / session_id).unlink(missing_ok=True))

    async def kept(self, before: datetime | None = None) -> Sequence[Kept]:
        """The sessions that have a journal, or whose journal was last added to before a moment."""
        return await self.reading(lambda: list(self._kept(before)))

    async def close(self) -> None:
        """Write what is queued, have the disk catch up, and end the threads."""
        await asyncio.to_thread(self._writer.close)
        await asyncio.to_thread(self._syncer.close)
        self._readers.shutdown()

    def writing(self, session_id: str, size: int, data: bytes, *, sync: bool) -> asyncio.Future[int]:
        """Have bytes written behind the first `size` of a session's file; answers the new size."""

        def write() -> int:
            self._write(self._place / session_id, size, data)
            if sync:
                self._syncer.dirty(session_id, new=not size)
            return size + len(data)

        return self._writer.put(write)

    async def reading(self, read: Callable[[], T]) -> T:
        """What is read, off the event loop. Raises Unavailable."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, read)
        except OSError as error:
            raise Unavailable("the output of a session cannot be read") from error

    def read(self, session_id: str, place: int, stop: int | None) -> bytes:
        """Bytes of a session's file, at most to a place. Raises OSError."""
        most = _READ_BYTES if stop is None else min(_READ_BYTES, stop - place)
        fd = os.open(self._place / session_id, os.O_RDONLY | _FILE)
        try:
            return os.pread(fd, most, place)
        finally:
            os.close(fd)

    @staticmethod
    def _write(path: Path, size: int, data: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | _FILE | (0 if size else os.O_CREAT), 0o600)
        try:
            # Over what a write that failed may have left there.
            written = 0
            while written < len(data):
                written += os.pwrite(fd, data[written:], size + written)
        finally:
            os.close(fd)

    def _kept(self, before: datetime | None) -> Iterator[Kept]:
        with os.scandir(self._place) as entries:
            for entry in entries:
                # One that is just being removed is none.
                with contextlib.suppress(FileNotFoundError):
                    ours = _ID.match(entry.name) and entry.is_file(follow_symlinks=False)
                    if ours and (before is None or moment(entry) < before):
                        yield Kept(record.owner(self.read(entry.name, 0, 4096)), entry.name)


class FileJournal:
    """The journal of one session."""

    def __init__(self, journals: DirectoryJournals, org_id: str, session_id: str) -> None:
        self._journals = journals
        self._org_id = org_id
        self._session_id = session_id
        self._size: int | None = None

    def append(self, chunks: Sequence[Chunk], *, sync: bool = True) -> Awaitable[int]:
        """Add chunks behind those that were added through this object. Raises Unavailable when awaited."""
        size = self._size or 0
        data = record.encode(chunks)
        whole = data if size else record.opening(self._org_id) + data
        written = self._journals.writing(self._session_id, size, whole, sync=sync)
        written.add_done_callback(self._grown)
        return written

    async def read(self, place: int = 0) -> tuple[Sequence[Chunk], int]:
        """Some of the chunks from a place on, and the place behind them; none at the end."""
        if self._size is not None and place >= self._size:
            return (), place
        try:
            data = await self._journals.reading(lambda: self._journals.read(self._session_id, place, self._size))
        except Unavailable as error:
            if self._size is None and isinstance(error.__cause__, FileNotFoundError):
                return (), place
            raise
        chunks, whole = record.decode(data)
        return chunks, place + whole

    def _grown(self, written: asyncio.Future[int]) -> None:
        if not written.cancelled() and written.exception() is None:
            self._size = written.result()


class _Unit(NamedTuple):
    work: Callable[[], object]
    answer: "asyncio.Future[object]"


class _Writer:
    """Does what has gathered in its queue, answers it all at once; and again."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Unit | None] = SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="enclave-journal-writer", daemon=True)
        self._thread.start()

    def put(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._closed:
            answer.set_exception(Unavailable("the journals are closed"))
        else:
            self._queue.put(_Unit(work, answer))  # type: ignore[arg-type]
        return answer

    def close(self) -> None:
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        units: list[_Unit | None] = []
        while None not in units:
            units = [self._queue.get(), *(self._queue.get() for _ in range(self._queue.qsize()))]
            _deliver([(unit.answer, _done(unit.work)) for unit in units if unit is not None])


def _done(work: Callable[[], object]) -> object:
    try:
        return work()
    except (OSError, ValueError) as error:
        refusal = Unavailable("the output of a session cannot be written")
        refusal.__cause__ = error
        return refusal


_Answer = tuple["asyncio.Future[object]", object]


def _deliver(answers: list[_Answer]) -> None:
    # A loop that is closed has nobody left who waits.
    with contextlib.suppress(RuntimeError):
        if answers:
            answers[0][0].get_loop().call_soon_threadsafe(_resolve, answers)


def _resolve(answers: list[_Answer]) -> None:
    for future, answer in answers:
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)


class _Syncer:
    """Has the disk catch up with what was written, all of it at a time."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._dirty: set[str] = set()
        self._grown = False
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="enclave-journal-sync", daemon=True)
        self._thread.start()

    def dirty(self, name: str, *, new: bool) -> None:
        with self._lock:
            self._dirty.add(name)
            self._grown |= new
        self._wake.set()

    def close(self) -> None:
        self._over.set()
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            self._wake.wait()
            self._over.wait(SYNC_SECONDS)
            self._wake.clear()
            self._sync()

    def _sync(self) -> None:
        with self._lock:
            dirty, self._dirty = self._dirty, set()
            grown, self._grown = self._grown, False
        for name in dirty:
            # One that was removed has nothing to keep; a disk that fails tells those who write next.
            with contextlib.suppress(OSError):
                make_durable(self._place / name)
        if grown:
            with contextlib.suppress(OSError):
                make_durable(self._place)
