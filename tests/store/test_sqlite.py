"""The SQLite store: the public examination, and what only a file can get wrong."""

import asyncio
import hashlib
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from enclave.contracts.audit import AuditEvent
from enclave.contracts.errors import StaleSession, Unavailable
from enclave.contracts.policy import EgressPolicy, Language, SessionLimits
from enclave.contracts.sessions import Phase, Session, SessionResult
from enclave.core.audit import verify
from enclave.core.session import Finished, Started, advance, created
from enclave.store.base import Filter, Store
from enclave.store.sqlite import SCHEMA_VERSION, SqliteStore, _search
from enclave.store.writer import MAX_BATCH, MAX_QUEUED
from enclave.testing.store import AT, check_store

pytestmark = pytest.mark.anyio


def a_session(number: int, org_id: str = "org_a") -> Session:
    return Session(
        id=f"ses_{number:026d}",
        org_id=org_id,
        created_by="k",
        phase=Phase.PENDING,
        language=Language.PYTHON,
        limits=SessionLimits(),
        egress=EgressPolicy(),
        backend="local",
        created_at=AT,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "enclave.db"


def modes(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore.open(path)
    yield opened
    await opened.close()


async def chain(store: Store, org_id: str = "org_a") -> list[AuditEvent]:
    trails = [await store.trail(org_id, one.id) for one in await store.find(org_id, Filter(), limit=100_000)]
    return sorted((event for trail in trails for event in trail), key=lambda event: event.seq)


async def test_it_keeps_every_promise_of_a_store(tmp_path: Path) -> None:
    async def make(name: str) -> Store:
        return SqliteStore.open(tmp_path / f"{name}.db")

    await check_store(make)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET body = '{}'",
        "UPDATE OR REPLACE audit SET seq = 2 WHERE seq = 1",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT org_id, seq, session_id, type, ts, '{}', previous, digest FROM audit",
        "INSERT INTO audit SELECT org_id, seq + 5, session_id, type, ts, body, previous, digest FROM audit",
    ],
)
async def test_the_database_itself_refuses_to_rewrite_the_trail(store: SqliteStore, path: Path, statement: str) -> None:
    await store.commit(created(a_session(1), "x"))
    with closing(sqlite3.connect(path)) as other:
        before = other.execute("SELECT * FROM audit").fetchall()

        with pytest.raises(sqlite3.IntegrityError, match="audit trail"):
            other.execute(statement)

        assert before == other.execute("SELECT * FROM audit").fetchall()


async def test_a_digest_can_be_checked_without_enclave(store: SqliteStore, path: Path) -> None:
    (event,) = await store.commit(created(a_session(1), "x"))
    with closing(sqlite3.connect(path)) as other:
        body, digest = other.execute("SELECT body, digest FROM audit").fetchone()

    assert event.digest == digest == hashlib.sha256(body.encode()).hexdigest()


async def test_nobody_else_can_read_the_files(store: SqliteStore, path: Path) -> None:
    await store.commit(created(a_session(1), "x"))

    assert modes(path.parent) == {"enclave.db": 0o600, "enclave.db-wal": 0o600, "enclave.db-shm": 0o600}


def test_a_database_that_others_could_read_is_closed_to_them(path: Path) -> None:
    path.touch()
    path.chmod(0o644)

    asyncio.run(SqliteStore.open(path).close())

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_commit_is_synchronous_with_the_disk(store: SqliteStore) -> None:
    connection = store._writer._connection

    settings = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")]

    assert settings == [2, "wal"]


async def test_readers_cannot_write(store: SqliteStore) -> None:
    def write(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM labels")

    with pytest.raises(Unavailable) as refused:
        await store._readers.run(write)

    assert "readonly" in str(refused.value.__cause__)


async def test_a_row_that_somebody_damaged_is_told_of(store: SqliteStore, path: Path) -> None:
    await store.commit(created(a_session(1), "print(1)"))
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("""UPDATE sessions SET doc = '{"id": "secret"}'""")
    for read in (store.unsettled(), store.get("org_a", a_session(1).id)):
        with pytest.raises(Unavailable, match=r"^the database has a damaged Session$"):
            await read


def test_a_database_of_a_newer_version_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")

    with pytest.raises(Unavailable, match=f"version {SCHEMA_VERSION + 1}, made by a newer"):
        SqliteStore.open(path)


def test_a_new_database_is_at_no_time_open_to_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "chmod", lambda path, mode: None)
    previous = os.umask(0)
    try:
        asyncio.run(SqliteStore.open(path).close())
    finally:
        os.umask(previous)

    assert modes(path.parent) == {"enclave.db": 0o600}


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"hello" * 1000)

    with pytest.raises(Unavailable, match=r"enclave\.db cannot be used"):
        SqliteStore.open(path)


async def test_a_failing_write_is_told_and_the_next_one_works(store: SqliteStore, path: Path) -> None:
    await store.commit(created(a_session(1), "x"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TRIGGER broken BEFORE INSERT ON audit BEGIN SELECT RAISE (ABORT, 'disk'); END")
        answers = await asyncio.gather(
            *(store.commit(created(a_session(number), "x")) for number in (2, 3)), return_exceptions=True
        )
        other.execute("DROP TRIGGER broken")

    assert [Unavailable, Unavailable] == [type(answer) for answer in answers]
    await store.commit(created(a_session(2), "x"))
    assert (verify(await chain(store)), [event.seq for event in await chain(store)]) == (None, [1, 2])


async def test_a_chain_written_to_by_another_process_goes_on_after_one_refusal(store: SqliteStore, path: Path) -> None:
    await store.commit(created(a_session(1), "x"))
    other = SqliteStore.open(path)
    await other.commit(created(a_session(2), "x"))
    await other.close()

    with pytest.raises(Unavailable):
        await store.commit(created(a_session(3), "x"))
    await store.commit(created(a_session(3), "x"))

    assert (verify(await chain(store)), len(await chain(store))) == (None, 3)


async def test_a_change_that_cannot_be_written_down_fails_alone(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # so that all of them wait, and most are one batch
        running = advance(a_session(2), Started("local"), at=AT, actor="x")
        unwritable = advance(running.session, Finished(SessionResult(exit_code=0)), at=AT, actor="x")
        broken = unwritable.session.model_copy(update={"result": SessionResult(exit_code=0, result="\ud800")})
        changes = [created(a_session(1), "x"), created(a_session(2), "x"), running, created(a_session(1), "x")]
        changes += [replace(unwritable, session=broken), created(a_session(3), "x")]
        answers = [store.commit(change) for change in changes]
        other.execute("ROLLBACK")
    done = await asyncio.gather(*answers, return_exceptions=True)

    assert isinstance(done[3], StaleSession)
    assert isinstance(done[4], ValueError)
    assert [event.seq for answer in done if isinstance(answer, tuple) for event in answer] == [1, 2, 3, 4]
    assert verify(await chain(store)) is None


async def test_a_queue_that_is_full_refuses(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        change = created(a_session(1), "x")
        answers = [store.commit(change) for _ in range(MAX_QUEUED + MAX_BATCH + 10)]
        other.execute("ROLLBACK")
    done = await asyncio.gather(*answers, return_exceptions=True)

    # One batch may have left the queue before the lock stopped it, and made room.
    assert isinstance(done[0], tuple)
    assert sum(isinstance(answer, Unavailable) for answer in done) >= 10


async def test_a_caller_that_gave_up_does_not_stop_the_others(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        tasks = [asyncio.ensure_future(store.commit(created(a_session(number), "x"))) for number in (1, 2, 3)]
        tasks[1].cancel()
        other.execute("ROLLBACK")
    done = await asyncio.gather(*tasks, return_exceptions=True)

    assert [tuple, asyncio.CancelledError, tuple] == [type(answer) for answer in done]
    assert len(await chain(store)) == 3


async def test_after_close_a_commit_is_refused(path: Path) -> None:
    store = SqliteStore.open(path)
    await store.close()
    await store.close()

    with pytest.raises(Unavailable, match="closed"):
        await store.commit(created(a_session(1), "x"))


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (Filter(), "sessions_of_org "),
        (Filter(phase=Phase.KILLED), "sessions_of_org_in_phase"),
        (Filter(labels={"a": "b"}), "SEARCH first USING PRIMARY KEY"),
    ],
)
async def test_a_search_walks_an_index_in_order(store: SqliteStore, path: Path, wanted: Filter, index: str) -> None:
    query, values = _search("org_a", wanted, "ses_1")
    with closing(sqlite3.connect(path)) as other:
        plan = " ".join(row[3] for row in other.execute(f"EXPLAIN QUERY PLAN {query}", (*values, 10)))

    assert index in plan
    assert "TEMP B-TREE" not in plan
    assert "SCAN" not in plan


TORN = """
import asyncio, os, sys
from pathlib import Path
from tests.store.test_sqlite import a_session
from enclave.core.session import created
from enclave.store.sqlite import SqliteStore

async def main():
    store = SqliteStore.open(Path(sys.argv[1]))
    acknowledged = 0

    async def worker(first):
        nonlocal acknowledged
        for number in range(first, 10**9, 16):
            await store.commit(created(a_session(number, f"org_{number % 3}"), "x"))
            os.write(1, b"%d\\n" % number)
            acknowledged += 1
            if acknowledged == 200:
                os._exit(7)  # others are queued, and the writer is at work

    await asyncio.gather(*(worker(first) for first in range(16)))

asyncio.run(main())
"""


def torn_process(path: Path) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run([sys.executable, "-c", TORN, path], env=environment, stdout=subprocess.PIPE, timeout=30)


async def test_a_process_that_dies_amid_commits_loses_nothing_it_acknowledged(path: Path) -> None:
    torn = torn_process(path)
    acknowledged = {a_session(int(line)).id for line in torn.stdout.split()}
    store = SqliteStore.open(path)
    kept = {one.id for org in range(3) for one in await store.find(f"org_{org}", Filter(), limit=100_000)}
    broken = [verify(await chain(store, f"org_{org}")) for org in range(3)]
    await store.close()

    assert torn.returncode == 7
    assert len(acknowledged) == 200
    assert acknowledged <= kept
    assert broken == [None, None, None]
