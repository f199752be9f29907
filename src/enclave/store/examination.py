"""An audit trail read from where it is kept or was exported to, to be examined without a server, or exported."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from pydantic import ValidationError

from enclave.contracts.checkpoint import Checkpoint
from enclave.contracts.errors import InvalidRequest, NotFound, Unavailable
from enclave.core.proof import Entry, Finding, Flaw, entry, examine, line
from enclave.store.signature import is_signed
from enclave.store.sqlite import SCHEMA_VERSION

MAX_LINE: Final = 8 * 1024 * 1024
"""The most bytes of an entry; no event has a hundredth of it."""

_ENTRIES: Final = (
    "SELECT body, digest, org_id, seq, session_id, type, ts, previous FROM audit"
    " WHERE ? IS NULL OR org_id = ? ORDER BY org_id, seq"
)
LAST_TOMBSTONES: Final = (
    "SELECT org_id, seq, doc FROM tombstones AS t WHERE seq = (SELECT max(seq) FROM tombstones WHERE org_id = t.org_id)"
)
BESIDE: Final = ("orgId", "seq", "sessionId", "type", "ts", "previous")


def stored(path: Path, org_id: str | None = None) -> Iterator[Entry]:
    """The entries in a database, of one org or of all; a server may be using it. Raises NotFound if there is none, and
    Unavailable, saying why, if it cannot be read."""
    with _opened(path) as connection:
        for row in connection.execute(_ENTRIES, (org_id, org_id)):
            yield _entry(row)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.exists():
        raise NotFound(f"there is no database at {path}")
    try:
        with closing(_connected(path)) as connection:
            # What is no text is to be found out, not to stop the search for it.
            connection.text_factory = bytes
            _check_version(connection, path)
            yield connection
    except sqlite3.Error as error:
        raise Unavailable(f"{path} cannot be read as a database: {error}") from error


def exported(file: BinaryIO) -> Iterator[Entry]:
    """The entries in an export, a line each."""
    while text := file.readline(MAX_LINE):
        if text.strip():
            yield entry(text.strip())


def export(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The lines of an export of a database's entries."""
    return (line(one.body, one.digest) for one in entries)


def verify(
    entries: Iterable[Entry],
    checkpoint_file: Path | None,
    public_key: str | None,
    buried: Sequence[Checkpoint | Flaw] = (),
) -> Iterator[Finding]:
    """What is found of each org in the entries of a database or an export, in the light of checkpoints and of the
    database's tombstones. Raises as those that read them do."""
    told = list(checkpoints(checkpoint_file, public_key)) if checkpoint_file else []
    told += [one for one in buried if isinstance(one, Checkpoint)]
    return examine(entries, told, [one for one in buried if isinstance(one, Flaw)])


def tombstones(path: Path, public_key: str | None) -> list[Checkpoint | Flaw]:
    """The tombstones in a database, the last of each org; in place of one that is none, or was not signed by the holder
    of the key, if one is given, a flaw. Raises as `stored` does."""
    with _opened(path) as connection:
        return believed(
            [(_plain(org_id), seq, doc) for org_id, seq, doc in connection.execute(LAST_TOMBSTONES)], public_key
        )


def believed(rows: Iterable[tuple[object, int, bytes | str]], public_key: str | None) -> list[Checkpoint | Flaw]:
    """The tombstones in rows; in place of one that is none, or was not signed by the holder of the key, if one is
    given, a flaw."""
    return [_believed(str(org_id), seq, doc, public_key) for org_id, seq, doc in rows]


def _believed(org_id: str, seq: int, doc: bytes | str, public_key: str | None) -> Checkpoint | Flaw:
    one = _tombstone(org_id, seq, doc)
    if one is None:
        return Flaw(org_id, seq, "what stands for it and all before it is no tombstone")
    if public_key is not None and not is_signed(one, public_key):
        return Flaw(org_id, seq, "the tombstone for it and all before it is not signed by that key")
    return one


def _tombstone(org_id: str, seq: int, doc: bytes | str) -> Checkpoint | None:
    try:
        one = Checkpoint.model_validate_json(doc)
    except (ValidationError, TypeError):
        return None
    return one if (one.kind, one.org_id, one.seq) == ("tombstone", org_id, seq) else None


def checkpoints(path: Path, public_key: str | None) -> Iterator[Checkpoint]:
    """The checkpoints in a file.

    All of them count: a server signs for what it finds in its database, also for a chain that was written anew while it
    did not look, and then an earlier one tells. Raises InvalidRequest for one that was not signed by the holder of the
    key, if one is given, or makes no sense; a last line that was cut off is no checkpoint.
    """
    for number, text in enumerate(_lines(path), 1):
        try:
            one = Checkpoint.model_validate_json(text)
        except ValidationError:
            raise InvalidRequest(f"{path}, line {number}, is no checkpoint") from None
        if public_key is not None and not is_signed(one, public_key):
            raise InvalidRequest(f"{path}: the {one.kind} of {one.org_id} at {one.seq} is not signed by that key")
        yield one


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error as error:
        connection.close()
        if not isinstance(error, sqlite3.OperationalError) or Path(f"{path}-wal").exists():
            raise
        # A copy on a medium that takes no writes, beside which no lock can be put; and nobody writes it.
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    return connection


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while text := file.readline(MAX_LINE):
                if text.endswith(b"\n") and text.strip():
                    yield text
    except FileNotFoundError:
        return
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise Unavailable(f"{path} has version {version}, made by a newer Enclave; this one knows {SCHEMA_VERSION}")


def _entry(row: tuple[object, ...]) -> Entry:
    body, digest, *beside = row
    told = {name: _plain(value) for name, value in zip(BESIDE, beside, strict=True)}
    return Entry(body if isinstance(body, bytes) else b"", str(_plain(digest)), told)


def _plain(value: object) -> object:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
