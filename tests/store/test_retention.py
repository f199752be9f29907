"""What is old enough goes, in ranges that were examined, and what stays can still be proved."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from enclave.contracts.audit import KeyRevoked
from enclave.contracts.errors import Conflict, NotFound
from enclave.core.audit import verify as chain_holds
from enclave.core.proof import Finding
from enclave.core.session import TornDown, advance, created
from enclave.store.base import Head
from enclave.store.checkpoint import Checkpoints
from enclave.store.examination import stored, tombstones, verify
from enclave.store.retention import Retention
from enclave.store.signature import Signer
from enclave.store.sqlite import SqliteStore
from tests.store.test_examination import AT, SIGNER, edit
from tests.store.test_sqlite import a_session

pytestmark = pytest.mark.anyio
DAY = timedelta(days=1)


class Times:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at = AT

    def __call__(self) -> datetime:
        return self.at


async def note(store: SqliteStore, org_id: str, days: range) -> None:
    for day in days:
        event = KeyRevoked(ts=AT + day * DAY, org_id=org_id, session_id=None, actor="ada", key_id=f"k{day}")
        await store.note(f"{org_id}.{day}", event)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "enclave.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore.open(path)
    await note(store, "org_a", range(10))
    await note(store, "org_b", range(3))
    yield store
    await store.close()


@pytest.fixture
def times() -> Times:
    return Times()


@pytest.fixture
def retention(store: SqliteStore, times: Times, tmp_path: Path) -> Retention:
    return Retention(Checkpoints.to_file(store, SIGNER, times, tmp_path / "checkpoints.jsonl"), 5 * DAY)


async def seqs(store: SqliteStore, org_id: str) -> list[int]:
    return [event.seq for event in await store.chain(org_id)]


def found(path: Path, tmp_path: Path) -> dict[str, Finding]:
    key = SIGNER.public_key
    told = verify(stored(path), tmp_path / "checkpoints.jsonl", key, tombstones(path, key))
    return {one.org_id: one for one in told}


async def test_what_is_older_goes_and_what_stays_is_proved(
    store: SqliteStore, times: Times, retention: Retention, path: Path, tmp_path: Path
) -> None:
    times.at = AT + 9 * DAY
    await retention.tick()
    assert (await seqs(store, "org_a"), await seqs(store, "org_b")) == ([5, 6, 7, 8, 9, 10], [3])  # never the last
    held = found(path, tmp_path)
    assert {name: (one.entries, one.signed, one.flaw) for name, one in held.items()} == {
        "org_a": (6, 4, None),
        "org_b": (1, 2, None),
    }
    times.at = AT + 12 * DAY
    await note(store, "org_a", range(10, 12))
    await retention.tick()
    assert await seqs(store, "org_a") == [8, 9, 10, 11, 12]
    assert found(path, tmp_path)["org_a"].flaw is None


@pytest.mark.parametrize("body", ["replace(body, 'k2', 'k7')", "'{'", "'5'", "replace(body, '\"ts\"', '\"at\"')"])
async def test_nothing_goes_that_does_not_hold(
    store: SqliteStore, times: Times, retention: Retention, path: Path, caplog: pytest.LogCaptureFixture, body: str
) -> None:
    edit(path, f"UPDATE audit SET body = {body} WHERE org_id = 'org_a' AND seq = 3")
    times.at = AT + 9 * DAY
    await retention.tick()
    assert (len((await store.oldest("org_a")).entries), await seqs(store, "org_b")) == (10, [3])
    assert "org_a does not hold at entry 3" in caplog.text


async def test_the_database_removes_nothing_without_a_tombstone(store: SqliteStore, path: Path) -> None:
    def attempt(statement: str) -> None:
        with closing(sqlite3.connect(path)) as other, other:
            other.execute(statement)

    for statement in (
        "DELETE FROM audit WHERE org_id = 'org_a' AND seq = 1",
        "UPDATE audit SET body = 'x'",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            attempt(statement)
    await store.bury(SIGNER.sign(Head("org_b", 1, (await store.chain("org_b"))[0].digest), AT, "tombstone"))
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        attempt("DELETE FROM audit WHERE org_id = 'org_b'")
    for statement in ("DELETE FROM tombstones", "UPDATE tombstones SET seq = 3"):
        with pytest.raises(sqlite3.IntegrityError, match="tombstones stay"):
            attempt(statement)


async def test_a_tombstone_by_another_hand_is_found(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    chain = await store.chain("org_a")
    await store.bury(Signer(bytes(32)).sign(Head("org_a", 4, chain[3].digest), AT, "tombstone"))
    flaw = found(path, tmp_path)["org_a"].flaw
    assert flaw is not None
    assert (flaw.seq, "is not signed by that key" in flaw.what) == (4, True)


async def test_only_what_is_there_and_not_the_last_is_buried(store: SqliteStore) -> None:
    chain = await store.chain("org_b")
    heads = [Head("org_b", 3, chain[2].digest), Head("org_b", 2, "x"), Head("org_b", 9, "x"), Head("org_c", 1, "x")]
    for head in heads:
        with pytest.raises(Conflict):
            await store.bury(SIGNER.sign(head, AT, "tombstone"))
    assert await seqs(store, "org_b") == [1, 2, 3]


async def test_a_tombstone_whose_entries_are_still_there_does_no_harm(
    store: SqliteStore, times: Times, path: Path, tmp_path: Path
) -> None:
    # As when the server was killed between the two.
    checkpoints = Checkpoints.to_file(store, SIGNER, times, tmp_path / "checkpoints.jsonl")
    chain = await store.chain("org_a")
    await checkpoints.export([SIGNER.sign(Head("org_a", 4, chain[3].digest), AT, "tombstone")])
    held = found(path, tmp_path)["org_a"]
    assert (held.entries, held.signed, held.flaw) == (10, 4, None)


async def test_many_go_in_ranges(store: SqliteStore, times: Times, retention: Retention, path: Path) -> None:
    def event(number: int) -> KeyRevoked:
        return KeyRevoked(ts=AT, org_id="org_c", session_id=None, actor="ada", key_id=f"k{number}")

    await asyncio.gather(*(store.note(f"many.{number}", event(number)) for number in range(2500)))
    times.at = AT + 9 * DAY
    await retention.tick()
    assert await seqs(store, "org_c") == [2500]
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT seq FROM tombstones WHERE org_id = 'org_c'").fetchall() == [
            (1000,),
            (2000,),
            (2499,),
        ]


async def test_settled_sessions_go_and_their_events_stay(store: SqliteStore) -> None:
    async def settled(number: int) -> str:
        session = a_session(number)
        await store.commit(created(session, "x"))
        await store.commit(advance(session, TornDown(), at=AT, actor="x"))
        return session.id

    first, second = await settled(1), await settled(2)
    running = a_session(3)
    await store.commit(created(running, "x"))
    last = await settled(4)
    assert await store.forget(last, 1) == [first]
    assert await store.forget(last) == [second]
    assert await store.forget(last) == []
    for gone in (first, second):
        with pytest.raises(NotFound):
            await store.get("org_a", gone)
    assert (await store.get("org_a", last)).id == last
    assert await store.get("org_a", running.id) == running
    chain = await store.chain("org_a")
    assert (chain_holds(chain), [event.session_id for event in chain].count(first)) == (None, 2)


def downgraded(path: Path) -> None:
    """The file as version 5 had it: events refer to their sessions."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        (table,) = other.execute("SELECT sql FROM sqlite_master WHERE name = 'audit'").fetchone()
        other.executescript(
            "DROP TRIGGER audit_is_not_erased; DROP TABLE tombstones; ALTER TABLE audit RENAME TO kept;"
            + table.replace("session_id TEXT", "session_id TEXT REFERENCES sessions (id)")
            + "; INSERT INTO audit SELECT * FROM kept; DROP TABLE kept; PRAGMA user_version = 5;"
        )


async def test_a_database_of_version_5_becomes_one_of_version_6(path: Path) -> None:
    store = SqliteStore.open(path)
    session = a_session(1)
    await store.commit(created(session, "x"))
    await store.commit(advance(session, TornDown(), at=AT, actor="x"))
    await store.close()
    downgraded(path)

    store = SqliteStore.open(path)
    before = await store.chain("org_a")
    assert await store.forget("ses_z") == [session.id]
    assert (await store.chain("org_a"), chain_holds(before)) == (before, None)
    await store.note("k", KeyRevoked(ts=AT, org_id="org_a", session_id=None, actor="ada", key_id="k"))
    await store.close()
    with pytest.raises(sqlite3.IntegrityError, match="append-only"), closing(sqlite3.connect(path)) as other, other:
        other.execute("DELETE FROM audit")
