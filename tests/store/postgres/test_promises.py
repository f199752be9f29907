"""The PostgreSQL store keeps the promises that every store keeps: the public examinations."""

import pytest

from enclave.store.base import Bindings, Store, Tenancy
from enclave.store.postgres.store import PostgresStore
from enclave.testing.bindings import check_bindings
from enclave.testing.outbox import Kept, check_outbox
from enclave.testing.store import check_store
from enclave.testing.tenancy import check_tenancy
from tests.postgres import Server

pytestmark = pytest.mark.anyio

KEY = bytes(range(32))


class Maker:
    """Opens stores by their names, each in a database of its own."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._made: dict[str, str] = {}

    async def __call__(self, name: str) -> PostgresStore:
        if name not in self._made:
            self._made[name] = await self._server.schema()
        return await PostgresStore.open(self._made[name], "r1")


async def test_it_keeps_every_promise_of_a_store(postgres: Server) -> None:
    maker = Maker(postgres)

    async def make(name: str) -> Store:
        return await maker(name)

    await check_store(make)


async def test_it_keeps_every_promise_of_bindings(postgres: Server) -> None:
    maker = Maker(postgres)

    async def make(name: str) -> tuple[Store, Bindings]:
        store = await maker(name)
        return store, store.bindings(KEY)

    await check_bindings(make)


async def test_it_keeps_every_promise_of_tenancy(postgres: Server) -> None:
    maker = Maker(postgres)

    async def make(name: str) -> tuple[Store, Tenancy]:
        store = await maker(name)
        return store, store.tenancy()

    await check_tenancy(make)


async def test_it_keeps_every_promise_of_webhooks(postgres: Server) -> None:
    maker = Maker(postgres)

    async def make(name: str) -> Kept:
        store = await maker(name)
        return Kept(store, store.outbox(KEY), store.signing(KEY))

    await check_outbox(make)
