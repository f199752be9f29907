"""Stores on one PostgreSQL database, opened as one control plane or another."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from enclave.contracts.audit import AuditEvent
from enclave.store.base import Store
from enclave.store.postgres.store import PostgresStore

Open = Callable[[str], Awaitable[PostgresStore]]


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Open]:
    """Opens the store as the replica of a name; all of them are closed afterwards."""
    async with AsyncExitStack() as stack:

        async def open_as(replica: str) -> PostgresStore:
            store = await PostgresStore.open(database, replica)
            stack.push_async_callback(store.close)
            return store

        yield open_as


@pytest.fixture
async def store(opened: Open) -> PostgresStore:
    return await opened("r1")


async def chain(store: Store, org_id: str = "org_a") -> list[AuditEvent]:
    """All events of an org, in their order."""
    events: list[AuditEvent] = []
    while part := await store.chain(org_id, after=events[-1].seq if events else 0):
        events += part
    return events
