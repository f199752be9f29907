"""What is removed for its age from a PostgreSQL database, and what nobody can remove."""

import asyncio
import math
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from enclave.contracts.audit import SessionFailed
from enclave.contracts.errors import Conflict, InvalidRequest, KeyReused, NotFound, StaleSession
from enclave.contracts.sessions import SessionResult
from enclave.core.claim import Claim
from enclave.core.session import Lost, Started, TornDown, advance, created
from enclave.store.base import Filter, Head
from enclave.store.base.replicas import Wish
from enclave.store.checkpoint import Checkpoints
from enclave.store.examination import verify
from enclave.store.postgres import examination
from enclave.store.postgres.store import PostgresStore
from enclave.store.retention import Retention
from enclave.store.signature import Signer
from enclave.testing.store import AT
from tests.store.postgres.conftest import Open, chain
from tests.store.postgres.test_store import a_session, sql

__all__ = ["sql"]

pytestmark = pytest.mark.anyio
SIGNER = Signer(bytes(32))


async def write(store: PostgresStore, count: int, org_id: str = "org_a") -> None:
    await asyncio.gather(*(store.commit(created(a_session(at, org_id, {"a": "b"}), "x")) for at in range(count)))


async def test_what_is_older_goes_and_what_stays_is_proved(store: PostgresStore, database: str, tmp_path: Path) -> None:
    await write(store, 10)
    file, later = tmp_path / "checkpoints.jsonl", AT + timedelta(days=9)
    retention = Retention(Checkpoints.to_file(store, SIGNER, lambda: later, file), timedelta(days=5))
    await retention.tick()

    def examined(key: str) -> list[Any]:
        told = verify(examination.stored(database), file, key, examination.tombstones(database, key))
        return [(one.entries, one.signed, one.flaw) for one in told]

    assert [event.seq for event in await store.chain("org_a")] == [10]  # never the last
    assert await asyncio.to_thread(examined, SIGNER.public_key) == [(1, 9, None)]
    with pytest.raises(InvalidRequest, match="not signed by that key"):
        await asyncio.to_thread(examined, Signer(bytes(range(32))).public_key)
    await store.commit(created(a_session(99), "x"))
    assert [event.seq for event in await store.chain("org_a")] == [10, 11]


async def test_the_database_removes_nothing_without_a_tombstone(store: PostgresStore, sql: Any) -> None:
    await write(store, 5)
    before = await chain(store)
    await store.bury(SIGNER.sign(Head("org_a", 2, before[1].digest), AT, "tombstone"))
    first = "('org_a', 1, NULL, 't', 'ts', '{}', repeat('0', 64), encode(sha256('{}'), 'hex'))"
    for statement in (
        "DELETE FROM audit",
        "DELETE FROM audit WHERE seq = 3",
        "DELETE FROM tombstones",
        "UPDATE tombstones SET seq = 5",
        "TRUNCATE tombstones",
        f"INSERT INTO audit VALUES {first}",  # a chain that was begun anew below what stays
    ):
        with pytest.raises(asyncpg.RestrictViolationError):
            await sql.execute(statement)
    assert await store.chain("org_a") == before[2:]


async def test_only_what_is_there_and_not_the_last_is_buried(store: PostgresStore) -> None:
    await write(store, 3)
    events = await store.chain("org_a")
    heads = [Head("org_a", 3, events[2].digest), Head("org_a", 2, "x"), Head("org_a", 9, "x"), Head("org_c", 1, "x")]
    for head in heads:
        with pytest.raises(Conflict):
            await store.bury(SIGNER.sign(head, AT, "tombstone"))
    assert await store.chain("org_a") == events


async def test_sessions_that_are_over_are_forgotten_and_their_events_are_not(store: PostgresStore) -> None:
    await write(store, 4)
    running = advance(a_session(1, labels={"a": "b"}), Started("local"), at=AT, actor="x")
    for at in (0, 2, 3):
        await store.commit(advance(a_session(at, labels={"a": "b"}), TornDown(), at=AT, actor="x"))
    await store.commit(running)
    await store.wish(Wish("org_a", a_session(0).id, "x"))

    assert await store.forget(a_session(3).id) == [a_session(0).id, a_session(2).id]
    assert await store.forget(a_session(3).id) == []
    left = [one.id for one in await store.find("org_a", Filter(labels={"a": "b"}))]
    assert left == [a_session(3).id, a_session(1).id]
    with pytest.raises(NotFound):
        await store.trail("org_a", a_session(0).id)
    assert len(await chain(store)) == 8


async def test_what_others_have_forgotten_is_not_moved(opened: Open) -> None:
    """No event tells of it, so the chain ends where it did."""
    one, other = await opened("r1"), await opened("r2")
    session = a_session(1)
    await one.commit(created(session, "x"))
    failed = advance(session, Lost(_FAILED, SessionResult(exit_code=None)), at=AT, actor="x")
    await one.commit(failed)
    assert await other.forget(a_session(2).id) == [session.id]
    one._writer._used = math.inf

    with pytest.raises(StaleSession):
        await one.commit(advance(failed.session, TornDown(), at=AT, actor="x"))
    assert len(await chain(one)) == 2


_FAILED = SessionFailed(
    ts=AT, org_id="org_a", session_id=a_session(1).id, actor="x", reason="sandbox_lost", detail="gone"
)


async def test_a_key_is_taken_once_by_all(opened: Open) -> None:

    stores = [await opened(f"r{at}") for at in range(4)]
    changes = [replace(created(a_session(at), "x"), claim=Claim("k", "d")) for at in range(4)]
    done = await asyncio.gather(
        *(store.commit(change) for store, change in zip(stores, changes, strict=True)), return_exceptions=True
    )
    assert sorted(type(answer).__name__ for answer in done) == ["KeyReused"] * 3 + ["tuple"]
    assert any(isinstance(answer, KeyReused) for answer in done)
    assert len(await stores[0].find("org_a", Filter())) == 1


async def test_a_check_reads_and_writes(store: PostgresStore) -> None:
    await store.check()
