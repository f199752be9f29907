"""The tree of a commit as files, written by ourselves: git's own checkout is never run.

What git says of the tree is judged before the first byte is written, so that no repository's size, depth or names are
found out by running into them. It runs where git runs (`cage`), with the standard library alone.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Final

MOST_BYTES: Final = 256 * 1024 * 1024
MOST_FILES: Final = 20_000
_MOST_DEPTH: Final = 64
_MOST_PATH: Final = 3072
"""Bytes of a path: below PATH_MAX (linux/limits.h) with room for where the tree is."""

_CHUNK: Final = 64 * 1024
_LINK, _SUBMODULE, _EXECUTABLE, _REGULAR = "120000", "160000", "100755", ("100644", "100664", "100755")
_IGNORED: Final = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
"""Characters that HFS+ does not tell names apart by (git's utf8.c)."""


class Refused(Exception):
    """What was fetched is not taken; the message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, link or submodule of the tree, with its path from the tree's root."""

    mode: str
    object: str
    size: int
    path: bytes


@dataclass(frozen=True, slots=True)
class Written:
    """What was written of a tree."""

    files: int
    bytes: int
    omitted: int


def judged(listing: IO[bytes]) -> list[Entry]:
    """The entries in the output of `git ls-tree -r -z -l`. Raises Refused."""
    entries: list[Entry] = []
    total = 0
    for record in _records(listing):
        entry = _entry(record)
        total += entry.size
        if len(entries) == MOST_FILES:
            raise Refused(f"it has more than {MOST_FILES} files")
        if total > MOST_BYTES:
            raise Refused(f"its files have more than {MOST_BYTES >> 20} MiB")
        entries.append(entry)
    return entries


def write(entries: Sequence[Entry], contents: IO[bytes], root: bytes) -> Written:
    """Write a tree into a directory that does not exist yet. `contents` is what `git cat-file --batch` says of `blobs`.

    Links come last: nothing is ever written through one. Raises Refused or OSError.
    """
    os.mkdir(root, 0o755)
    for entry in entries:
        os.makedirs(os.path.dirname(os.path.join(root, entry.path)), 0o755, exist_ok=True)
    links: list[tuple[bytes, bytes]] = []
    for entry in entries:
        place = os.path.join(root, entry.path)
        if entry.mode == _SUBMODULE:
            os.mkdir(place, 0o755)
        elif entry.mode == _LINK:
            links.append((place, b"".join(_content(entry, contents))))
        else:
            _write_file(place, entry, contents)
    omitted = _link(links, root)
    files = sum(entry.mode != _SUBMODULE for entry in entries) - omitted
    return Written(files, sum(entry.size for entry in entries), omitted)


def blobs(entries: Sequence[Entry]) -> bytes:
    """The objects to ask `git cat-file --batch` for."""
    return "".join(f"{entry.object}\n" for entry in entries if entry.mode != _SUBMODULE).encode()


def _records(listing: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while chunk := listing.read(_CHUNK):
        *records, rest = (rest + chunk).split(b"\0")
        yield from records
        if len(rest) > _CHUNK:
            raise Refused("it has a path that is too long")


def _entry(record: bytes) -> Entry:
    about, tab, path = record.partition(b"\t")
    fields = about.decode("ascii", "replace").split()
    if not tab or len(fields) != 4:
        raise Refused("its tree is malformed")
    mode, _, name, size = fields
    if mode not in (_LINK, _SUBMODULE, *_REGULAR):
        raise Refused(f"it has a file of mode {mode}")
    _judge_path(path)
    if mode == _SUBMODULE:
        return Entry(mode, name, 0, path)
    if not size.isdigit():
        raise Refused("an object of its tree is missing")
    if mode == _LINK and int(size) > _MOST_PATH:
        raise Refused("it has a link that is too long")
    return Entry(mode, name, int(size), path)


def _judge_path(path: bytes) -> None:
    parts = path.split(b"/")
    if len(path) > _MOST_PATH or len(parts) > _MOST_DEPTH:
        raise Refused("it has a path that is too long")
    if any(part in (b"", b".", b"..") or _stands_for_git(part) for part in parts):
        raise Refused("it has a name that no tree may have (such as .. or .git)")


def _stands_for_git(part: bytes) -> bool:
    # Git's own checks of names (fsck.c, path.c): what some file system takes for .git is refused on every one.
    plain = _IGNORED.sub("", part.decode(errors="replace")).partition(":")[0].rstrip(". ").lower()
    return plain in (".git", "git~1")


def _content(entry: Entry, contents: IO[bytes]) -> Iterator[bytes]:
    if contents.readline(_CHUNK) != f"{entry.object} blob {entry.size}\n".encode():
        raise Refused("an object of its tree is missing")
    left = entry.size
    while left:
        if not (part := contents.read(min(left, _CHUNK))):
            raise Refused("an object of its tree is cut short")
        left -= len(part)
        yield part
    contents.read(1)


def _write_file(place: bytes, entry: Entry, contents: IO[bytes]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(place, flags, 0o555 if entry.mode == _EXECUTABLE else 0o444), "wb") as file:
        file.writelines(_content(entry, contents))


def _link(links: Sequence[tuple[bytes, bytes]], root: bytes) -> int:
    """Make the links that stay in the tree; the number of those that do not, which are left out."""
    made = [place for place, target in links if _is_relative(target) and _made(place, target)]
    # Where a link leads hangs on the others: it is looked up once all are there, as the kernel would.
    inside = os.path.realpath(root) + b"/"
    escaping = [place for place in made if not (os.path.realpath(place) + b"/").startswith(inside)]
    for place in escaping:
        os.unlink(place)
    return len(links) - len(made) + len(escaping)


def _is_relative(target: bytes) -> bool:
    return not target.startswith(b"/") and target != b"" and b"\0" not in target


def _made(place: bytes, target: bytes) -> bool:
    os.symlink(target, place)
    return True
