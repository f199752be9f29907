"""What a program left in `out`, copied out of its sandbox once everything in that is dead.

The tree is hostile and nobody changes it any more. Nothing is opened but directories and regular files, and those by
openat2(2), which crosses no link and no mount; no name of the tree is used on our side.
"""

import contextlib
import hashlib
import itertools
import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from enclave.sandbox import linux

OUT: Final = "out"
_WITHIN: Final = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_XDEV | linux.RESOLVE_NO_MAGICLINKS
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK: Final = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The most that is kept; `entries` is how many names are looked at, `depth` how many directories deep."""

    files: int
    file_bytes: int
    total_bytes: int
    path_bytes: int
    entries: int = 4096
    depth: int = 16


@dataclass(frozen=True, slots=True)
class Found:
    """A file that was copied."""

    path: str
    size: int
    sha256: str


@dataclass(slots=True)
class Harvest:
    """What was copied, in the order of its places, and how many entries were not, by reason."""

    found: list[Found] = field(default_factory=list)
    omitted: Counter[str] = field(default_factory=Counter)


def is_left(work: int) -> bool:
    """Whether there is anything called `out` in a program's directory."""
    try:
        os.close(os.open(OUT, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=work))
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def collect(work: int, into: int, bounds: Bounds) -> Harvest:
    """Copy what is below `out` into the directory `into`, the n-th file as `n`. Raises OSError if that cannot be."""
    collection = _Collection(into, bounds)
    collection.take(work, OUT, "")
    return collection.harvest


class _Collection:
    """One walk."""

    def __init__(self, into: int, bounds: Bounds) -> None:
        self.harvest = Harvest()
        self._into = into
        self._bounds = bounds
        self._entries_left = bounds.entries
        self._bytes_left = bounds.total_bytes

    def take(self, directory: int, name: str, path: str, depth: int = 0) -> None:
        """Take a file, or what is below a directory; `path` is where it is below `out`."""
        if reason := self._refusal(directory, name, path, depth):
            self.harvest.omitted[reason] += 1
            return
        try:
            source = linux.openat2(directory, name, _OPEN, _WITHIN)
        except OSError:
            self.harvest.omitted["unreadable"] += 1
            return
        try:
            if stat.S_ISDIR(os.fstat(source).st_mode):
                self._walk(source, path, depth)
            else:
                self._copy(source, path)
        finally:
            os.close(source)

    def _refusal(self, directory: int, name: str, path: str, depth: int) -> str | None:
        try:
            about = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError:
            return "unreadable"
        if not _is_plain(path):
            return "bad_name"
        if stat.S_ISDIR(about.st_mode):
            return "too_deep" if depth > self._bounds.depth else None
        if not stat.S_ISREG(about.st_mode) or not path:
            return "not_a_file"
        return self._excess(about.st_size, path)

    def _excess(self, size: int, path: str) -> str | None:
        if len(path.encode()) > self._bounds.path_bytes:
            return "too_deep"
        if size > self._bounds.file_bytes:
            return "too_large"
        if len(self.harvest.found) >= self._bounds.files:
            return "too_many"
        return "too_much" if size > self._bytes_left else None

    def _walk(self, source: int, path: str, depth: int) -> None:
        with os.scandir(source) as entries:
            # Sorted, so that which ones are kept is no accident; not all of them, of which there may be millions.
            names = sorted(entry.name for entry in itertools.islice(entries, self._entries_left))
            self._entries_left -= len(names)
            if self._entries_left == 0 and next(entries, None) is not None:
                self.harvest.omitted["too_many"] += 1
        for name in names:
            self.take(source, name, f"{path}/{name}" if path else name, depth + 1)

    def _copy(self, source: int, path: str) -> None:
        place = str(len(self.harvest.found))
        target = os.open(place, _CREATE, 0o600, dir_fd=self._into)
        try:
            size, digest = self._pour(source, target)
        finally:
            os.close(target)
        if size is None:
            os.unlink(place, dir_fd=self._into)
            self.harvest.omitted["unreadable"] += 1
            return
        self._bytes_left -= size
        self.harvest.found.append(Found(path, size, digest))

    def _pour(self, source: int, target: int) -> tuple[int | None, str]:
        digest, size = hashlib.sha256(), 0
        while chunk := _read(source):
            size += len(chunk)
            if size > min(self._bounds.file_bytes, self._bytes_left):
                return None, ""
            digest.update(chunk)
            _write(target, chunk)
        return (size if chunk is not None else None), digest.hexdigest()


def _read(source: int) -> bytes | None:
    with contextlib.suppress(OSError):
        return os.read(source, _CHUNK)
    return None


def _write(target: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(target, view) :]


def _is_plain(path: str) -> bool:
    """Whether it is Unicode text without control characters; names come with what is no UTF-8 as lone surrogates."""
    return not any(ord(one) < 0x20 or 0x7F <= ord(one) < 0xA0 or 0xD800 <= ord(one) < 0xE000 for one in path)
