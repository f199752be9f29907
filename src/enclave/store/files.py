"""Files that programs left, as directories of the control plane's disk.

    <place>/SESSION/0, 1, …     the files, by their places in the session's result
                    owner       the org whose session it is

A directory has its name once it is whole and durable; what is still being made, or removed, has one that begins with a
dot, and is removed when the place is next opened. No name of a program's choice is used.
"""

import asyncio
import contextlib
import os
import shutil
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, Self, TypeVar

from enclave.contracts.errors import NoSuchFile, Unavailable
from enclave.contracts.sessions import Session
from enclave.store.base import Kept

_OWNER: Final = "owner"
_CHUNK: Final = 256 * 1024

T = TypeVar("T")


class DirectoryFiles:
    """A FileStore in a directory that only its owner can read."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._stored = Counter[str]()
        self._counting = threading.Lock()

    @classmethod
    def open(cls, place: Path) -> Self:
        """The store in this directory, which is made if there is none. Raises Unavailable, saying why."""
        try:
            place.mkdir(mode=0o700, exist_ok=True)
            for left in place.glob(".*"):
                shutil.rmtree(left)
            store = cls(place)
            for directory in place.iterdir():
                store._count(_owner(directory), _size(directory))
        except OSError as error:
            raise Unavailable(f"{place} cannot be used: {error.strerror or error}") from error
        return store

    async def keep(self, session: Session, take: Callable[[Path], Awaitable[T]]) -> T:
        """Have files put into an empty directory, and keep them if there are any. Raises OSError."""
        scaffold = self._place / f".{session.id}"
        await asyncio.to_thread(scaffold.mkdir, 0o700)
        try:
            taken = await take(scaffold)
            await asyncio.to_thread(self._finish, scaffold, session)
        except Exception:
            # One that is cancelled leaves it to the next start.
            await asyncio.to_thread(shutil.rmtree, scaffold, ignore_errors=True)
            raise
        return taken

    async def read(self, session_id: str, place: int) -> "Reading":
        """The content of a file. Raises NoSuchFile."""
        try:
            return Reading(await asyncio.to_thread(_opened, self._place / session_id / str(place)))
        except FileNotFoundError:
            raise NoSuchFile from None

    async def remove(self, session_id: str) -> None:
        """Remove a session's files, if it has any."""
        await asyncio.to_thread(self._remove, session_id)

    async def kept(self, before: datetime | None = None) -> Sequence[Kept]:
        """The sessions that have files, or had them already at a moment."""
        return await asyncio.to_thread(self._kept, before)

    def stored(self, org_id: str) -> int:
        """The bytes of an org's files."""
        return self._stored[org_id]

    def _count(self, org_id: str, change: int) -> None:
        with self._counting:
            self._stored[org_id] += change
            if not self._stored[org_id]:
                del self._stored[org_id]

    def _finish(self, scaffold: Path, session: Session) -> None:
        names = os.listdir(scaffold)
        if not names:
            scaffold.rmdir()
            return
        size = _size(scaffold)
        (scaffold / _OWNER).write_text(session.org_id)
        for path in (*(scaffold / name for name in (*names, _OWNER)), scaffold):
            make_durable(path)
        scaffold.rename(self._place / session.id)
        self._count(session.org_id, size)
        make_durable(self._place)

    def _remove(self, session_id: str) -> None:
        leaving = self._place / f".{session_id}"
        with contextlib.suppress(FileNotFoundError):
            (self._place / session_id).rename(leaving)
            org_id, size = _owner(leaving), _size(leaving)
            shutil.rmtree(leaving)
            # Not before: until then they take room.
            self._count(org_id, -size)

    def _kept(self, before: datetime | None) -> list[Kept]:
        found: list[Kept] = []
        with os.scandir(self._place) as entries:
            for entry in entries:
                # One that is just being removed is none.
                with contextlib.suppress(FileNotFoundError):
                    if not entry.name.startswith(".") and (before is None or moment(entry) < before):
                        found.append(Kept(_owner(Path(entry.path)), entry.name))
        return found


class Reading:
    """A file that is read piece by piece, off the event loop; close it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        # A reader that is given up may still read, and must not find another file behind its descriptor.
        self._lock = threading.Lock()

    async def piece(self) -> bytes:
        """The next piece; empty at the end."""
        return await asyncio.to_thread(self._read)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._file.close()

    def _read(self) -> bytes:
        with self._lock:
            return b"" if self._file.closed else self._file.read(_CHUNK)


def _opened(path: Path) -> BinaryIO:
    return path.open("rb", buffering=0)


def _owner(directory: Path) -> str:
    try:
        return (directory / _OWNER).read_text()
    except OSError:
        return ""  # nobody's, and nothing of ours


def _size(directory: Path) -> int:
    """The bytes of the files that a program left."""
    with os.scandir(directory) as entries:
        return sum(entry.stat(follow_symlinks=False).st_size for entry in entries if entry.name != _OWNER)


def moment(entry: "os.DirEntry[str]") -> datetime:
    """When it was last changed."""
    return datetime.fromtimestamp(entry.stat().st_mtime, UTC)


def make_durable(path: Path) -> None:
    """Return when what is in a file, or the names in a directory, would outlive a power cut. Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
