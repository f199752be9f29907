"""Webhooks in PostgreSQL: one sender of those that share it, due in the transaction that ends their session, and none
forgotten that is still to be sent."""

import asyncio
import math
from typing import Any

import pytest

from enclave.contracts.errors import Conflict, NotFound, SecretUnreadable
from enclave.contracts.sessions import Phase, Session
from enclave.contracts.webhooks import WebhookRedelivered, WebhookSecretRotated
from enclave.core.session import Started, TornDown, advance, created
from enclave.core.webhook import delivery_id
from enclave.store.base import Attempt, Held
from enclave.store.postgres.batch import Batch
from enclave.store.postgres.outbox import Redelivery
from enclave.store.postgres.store import PostgresStore
from enclave.testing.outbox import ALL, LEASE, URL, later
from enclave.testing.store import AT
from tests.store.postgres.conftest import Open, chain
from tests.store.postgres.test_store import a_session, sql

__all__ = ["sql"]

pytestmark = pytest.mark.anyio

KEY = bytes(range(32))


async def begin(store: PostgresStore, number: int, org_id: str = "org_a") -> Session:
    session = a_session(number, org_id)
    callback = store.outbox(KEY).seal(session.id, "hooks.example", URL)
    await store.commit(created(session, "x", callback=callback))
    return session


async def end(store: PostgresStore, session: Session) -> None:
    await store.commit(advance(session, TornDown(), at=AT, actor="x"))


async def claimed(store: PostgresStore) -> Held:
    (due,) = await store.outbox(KEY).due(AT, ALL)
    return await store.outbox(KEY).claim(due, AT, AT + LEASE)


async def taken(store: PostgresStore) -> None:
    await store.outbox(KEY).settle(Attempt(await claimed(store), AT, 204, None, None))


def again(session: Session) -> WebhookRedelivered:
    webhook = delivery_id(session.id, Phase.TORN_DOWN)
    return WebhookRedelivered(ts=later(1), org_id="org_a", actor="x", delivery_id=webhook, about=session.id)


async def test_of_several_that_claim_at_once_one_gets_each(opened: Open) -> None:
    stores = [await opened(f"r{number}") for number in range(3)]
    sessions = [await begin(stores[0], number, f"org_{number % 2}") for number in range(12)]
    await asyncio.gather(*(end(stores[0], session) for session in sessions))
    due = await stores[1].outbox(KEY).due(AT, ALL)
    claims = [store.outbox(KEY).claim(one, AT, AT + LEASE) for one in due for store in stores]

    answers = await asyncio.gather(*claims, return_exceptions=True)

    won = [one.due.session_id for one in answers if isinstance(one, Held)]
    assert sorted(won) == [session.id for session in sessions]
    assert sum(isinstance(one, Conflict) for one in answers) == 24


async def test_a_claim_of_one_that_is_gone_is_anothers_when_it_is_over(opened: Open) -> None:
    one, other = await opened("r1"), await opened("r2")
    await end(one, await begin(one, 1))
    lost = await claimed(one)
    assert await other.outbox(KEY).due(AT, ALL) == []
    (due,) = await other.outbox(KEY).due(AT + LEASE, ALL)
    held = await other.outbox(KEY).claim(due, AT + LEASE, AT + 2 * LEASE)
    with pytest.raises(Conflict):
        await one.outbox(KEY).settle(Attempt(lost, AT, 204, None, None))
    await other.outbox(KEY).settle(Attempt(held, AT, 204, None, None))


@pytest.mark.parametrize("at_once", [True, False])
async def test_it_is_due_in_the_transaction_that_ends_its_session(store: PostgresStore, *, at_once: bool) -> None:
    """Also where that is one statement, and where the session was made in it."""
    session, brief = await begin(store, 1), a_session(2)
    store._writer._used = math.inf if at_once else -math.inf
    started = advance(session, Started("local"), at=AT, actor="x")
    callback = store.outbox(KEY).seal(brief.id, "hooks.example", URL)
    changes = (
        started,
        advance(started.session, TornDown(), at=AT, actor="x"),
        created(brief, "x", callback=callback),
        advance(brief, TornDown(), at=AT, actor="x"),
    )
    await asyncio.gather(*map(store.commit, changes))

    assert [one.session_id for one in await store.outbox(KEY).due(AT, ALL)] == [session.id, brief.id]
    assert [one.state for one in await store.outbox(KEY).find("org_a")] == ["pending"] * 2


async def test_what_another_settles_is_due_as_well(opened: Open) -> None:
    one, other = await opened("r1"), await opened("r2")
    session = await begin(one, 1)
    await end(other, session)

    assert [due.session_id for due in await one.outbox(KEY).due(AT, ALL)] == [session.id]


async def test_no_session_is_forgotten_whose_webhook_is_still_to_be_sent(store: PostgresStore) -> None:
    session, running = await begin(store, 1), await begin(store, 2)
    await end(store, session)
    await store.commit(created(a_session(3), "x"))
    await end(store, a_session(3))
    assert await store.forget(a_session(9).id, 1) == [a_session(3).id]  # one that stays is not in the others' way
    assert await store.forget(a_session(9).id) == []
    await taken(store)
    assert await store.forget(a_session(3).id) == [session.id]
    assert await store.outbox(KEY).find("org_a") == []
    with pytest.raises(NotFound):
        await store.outbox(KEY).redeliver(again(session))
    assert [one.id for one in await store.unsettled()] == [running.id]


async def test_none_is_forgotten_that_is_just_being_sent_again(store: PostgresStore, sql: Any) -> None:
    session = await begin(store, 1)
    await end(store, session)
    await taken(store)
    event = again(session)
    write = Redelivery("org_a", event.delivery_id, (event,))
    batch = await Batch.begin(sql, "r2", [write])
    await batch.apply(write)

    assert await store.forget(a_session(3).id) == []
    await batch.flush()
    await sql.execute("COMMIT")
    assert await store.forget(a_session(3).id) == []
    assert [due.session_id for due in await store.outbox(KEY).due(later(1), ALL)] == [session.id]


async def test_neither_a_url_nor_a_secret_is_in_the_database(store: PostgresStore, sql: Any) -> None:
    await end(store, await begin(store, 1))
    event = WebhookSecretRotated(ts=AT, org_id="org_a", actor="x", previous_until=None)
    await store.signing(KEY).rotate("whsec_c2VjcmV0", event)

    rows = [row for table in ("deliveries", "webhook_secrets") for row in await sql.fetch(f"SELECT * FROM {table}")]
    assert "hooks.example" in str(rows)  # so this looks in the right place
    assert URL.encode() not in b"".join(row["sealed"] for row in rows)
    assert b"whsec" not in b"".join(row["sealed"] for row in rows)
    with pytest.raises(SecretUnreadable):
        await store.signing(bytes(32)).secrets("org_a", AT)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE deliveries SET host = 'evil.example'",
        "UPDATE deliveries SET sealed = '\\x00'",
        "UPDATE deliveries SET sealed = (SELECT sealed FROM webhook_secrets)",
    ],
)
async def test_a_row_that_was_changed_is_sent_nowhere(store: PostgresStore, sql: Any, statement: str) -> None:
    await end(store, await begin(store, 1))
    event = WebhookSecretRotated(ts=AT, org_id="org_a", actor="x", previous_until=None)
    await store.signing(KEY).rotate("whsec_c2VjcmV0", event)
    await sql.execute(statement)

    held = await claimed(store)
    with pytest.raises(SecretUnreadable):
        store.outbox(KEY).url(held)


async def test_of_two_that_rotate_at_once_one_does(opened: Open) -> None:
    stores = [await opened("r1"), await opened("r2")]
    event = WebhookSecretRotated(ts=AT, org_id="org_a", actor="x", previous_until=None)
    answers = await asyncio.gather(
        *(store.signing(KEY).rotate(f"whsec_{at}", event) for at, store in enumerate(stores)), return_exceptions=True
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["Conflict", "NoneType"]
    assert len(await stores[0].signing(KEY).secrets("org_a", AT)) == 1
    assert len(await chain(stores[0])) == 1
