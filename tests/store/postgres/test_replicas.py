"""Control planes that share a database: whose sessions are whose, who is gone, and how they hear of one another."""

import asyncio
from typing import Any

import asyncpg
import pytest

from enclave.core.session import TornDown, advance, created
from enclave.store.base.replicas import Wish
from enclave.store.postgres.replica import LEASE_SECONDS
from enclave.store.postgres.store import PostgresStore
from enclave.testing.store import AT
from tests.store.postgres.conftest import Open
from tests.store.postgres.test_store import a_session, sql

__all__ = ["sql"]

pytestmark = pytest.mark.anyio


async def unsettled(store: PostgresStore) -> list[str]:
    return [session.id for session in await store.unsettled()]


def kill(store: PostgresStore) -> None:
    """What is left of a control plane that was killed: nothing that beats."""
    task = store._heartbeat._task
    assert task is not None
    task.cancel()


def age(store: PostgresStore) -> None:
    """As if it had beaten for long."""
    store._heartbeat._beating_since -= 10 * LEASE_SECONDS


async def long_ago(sql: Any, replica: str) -> None:
    await sql.execute("UPDATE replicas SET seen_at = seen_at - interval '1 minute' WHERE id = $1", replica)


async def listening(store: PostgresStore) -> None:
    """Until it listens: everybody is woken when it begins to, and by a notification from then on."""
    changed = store.changed(a_session(999).id)
    await store.commit(created(a_session(999, "org_z"), "x"))
    async with asyncio.timeout(5):
        await asyncio.wait((changed,))


async def test_what_a_living_replica_runs_is_not_unsettled_for_others(opened: Open) -> None:
    one, other = await opened("r1"), await opened("r2")
    await one.commit(created(a_session(1), "x"))
    await other.commit(created(a_session(2), "x"))
    age(other)

    assert await unsettled(one) == [a_session(1).id]
    assert await unsettled(other) == [a_session(2).id]


async def test_what_one_that_is_gone_ran_is_anyones(opened: Open, sql: Any) -> None:
    one, other = await opened("r1"), await opened("r2")
    await one.commit(created(a_session(1), "x"))
    kill(one)
    await long_ago(sql, "r1")
    age(other)

    assert await unsettled(other) == [a_session(1).id]


async def test_nobody_is_gone_only_because_the_database_was_away(opened: Open, sql: Any) -> None:
    """Then nobody was heard. Who judges must have been heard himself for as long."""
    one, other = await opened("r1"), await opened("r2")
    await one.commit(created(a_session(1), "x"))
    kill(one)
    await long_ago(sql, "r1")

    assert await unsettled(other) == []

    age(other)
    other._heartbeat._last -= LEASE_SECONDS  # as if its last beat were long ago: the next follows a pause
    await other._heartbeat._beat()
    assert await unsettled(other) == []


async def test_one_that_left_is_gone_at_once_for_those_that_may_judge(opened: Open, database: str) -> None:
    one, other = await PostgresStore.open(database, "r1"), await opened("r2")
    await one.commit(created(a_session(1), "x"))
    await one.close()
    age(other)

    assert await unsettled(other) == [a_session(1).id]


async def test_one_that_is_started_again_has_its_own_at_once(opened: Open, database: str) -> None:
    one = await PostgresStore.open(database, "r1")
    await one.commit(created(a_session(1), "x"))
    kill(one)

    again = await opened("r1")

    assert await unsettled(again) == [a_session(1).id]
    await one.close()


async def test_of_two_that_settle_the_same_one_wins(opened: Open) -> None:
    stores = [await opened(f"r{number}") for number in range(4)]
    await stores[0].commit(created(a_session(1), "x"))
    change = advance(a_session(1), TornDown(), at=AT, actor="platform")

    done = await asyncio.gather(*(store.commit(change) for store in stores), return_exceptions=True)

    assert sum(isinstance(answer, tuple) for answer in done) == 1
    assert len(await stores[0].trail("org_a", a_session(1).id)) == 2


async def test_a_commit_is_heard_of_by_others(opened: Open) -> None:
    one, other = await opened("r1"), await opened("r2")
    await listening(other)
    changed, another = other.changed(a_session(1).id), other.changed(a_session(2).id)
    await one.commit(created(a_session(1), "x"))

    async with asyncio.timeout(5):
        await asyncio.wait((changed,))
    assert not another.done()


async def test_many_commits_in_one_are_all_heard_of(opened: Open) -> None:
    one, other = await opened("r1"), await opened("r2")
    waiting = [other.changed(a_session(number).id) for number in range(600)]
    await asyncio.gather(*(one.commit(created(a_session(number), "x")) for number in range(600)))

    async with asyncio.timeout(10):
        await asyncio.wait(waiting)


async def test_what_is_said_while_nobody_hears_wakes_everybody_later(opened: Open, sql: Any, database: str) -> None:
    store = await opened("r1")
    await listening(store)
    changed = store.changed(a_session(2).id)
    ended = await sql.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE query ~ '^LISTEN' AND pid <> pg_backend_pid() AND application_name = 'enclave'"
    )
    assert ended

    async with asyncio.timeout(20):
        await asyncio.wait((changed,))


async def test_a_wish_is_told_to_the_one_who_runs_the_session(opened: Open) -> None:
    one, other = await opened("r1"), await opened("r2")
    await one.commit(created(a_session(1), "x"))
    wished, wish = one.wished(), Wish("org_a", a_session(1).id, "who")
    await other.wish(wish)
    await other.wish(Wish("org_a", a_session(1).id, "later"))

    async with asyncio.timeout(5):
        await asyncio.wait((wished,))
    assert (list(await one.wishes()), list(await other.wishes())) == ([wish], [])
    await one.honoured(wish)
    assert list(await one.wishes()) == []


async def test_a_replica_that_dies_amid_a_transaction_holds_nobody_up_for_long(opened: Open, database: str) -> None:
    """It is cut off by the database, which is asked to by the connections of every store."""
    store = await opened("r1")
    held = await asyncpg.connect(database, server_settings={"idle_in_transaction_session_timeout": "500ms"})
    await store.commit(created(a_session(1), "x"))
    await held.execute("BEGIN; SELECT * FROM heads FOR UPDATE")

    await store.commit(created(a_session(2), "x"))

    mine = await store._writer._connection.fetchval("SHOW idle_in_transaction_session_timeout")
    assert (mine, len(await store.chain("org_a"))) == ("10s", 2)
    held.terminate()
