"""Terms, policies and usage in the SQLite file: the public examination, and what only a file can lose."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from enclave.contracts.errors import Unavailable
from enclave.core.audit import verify
from enclave.core.usage import Used
from enclave.store.base import Store, Tenancy
from enclave.store.sqlite import SqliteStore
from enclave.testing.tenancy import DAY, POLICY, check_tenancy, policy_changed, ran

pytestmark = pytest.mark.anyio


async def test_it_keeps_every_promise(tmp_path: Path) -> None:
    async def make(name: str) -> tuple[Store, Tenancy]:
        store = SqliteStore.open(tmp_path / f"{name}.db")
        return store, store.tenancy()

    await check_tenancy(make)


@pytest.mark.parametrize("broken", ["audit", "policies"])
async def test_a_policy_and_its_event_are_written_both_or_neither(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "enclave.db"
    store = SqliteStore.open(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(f"CREATE TRIGGER broken BEFORE INSERT ON {broken} BEGIN SELECT RAISE (ABORT, 'disk'); END")
    with pytest.raises(Unavailable):
        await store.tenancy().put_policy(policy_changed(POLICY))

    assert (await store.tenancy().standing("org_a", DAY)).policy != POLICY
    assert await store.chain("org_a") == []
    await store.close()


async def test_usage_that_cannot_be_written_takes_the_change_with_it(tmp_path: Path) -> None:
    path = tmp_path / "enclave.db"
    store = SqliteStore.open(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TRIGGER broken BEFORE INSERT ON usage BEGIN SELECT RAISE (ABORT, 'disk'); END")
    with pytest.raises(Unavailable):
        await ran(store, 1)

    assert [event.type for event in await store.chain("org_a")] == ["session_created", "sandbox_started"]
    await store.close()


DIES = """
import asyncio, os, sys
from pathlib import Path
from enclave.store.sqlite import SqliteStore
from enclave.testing.tenancy import ran
async def main():
    store = SqliteStore.open(Path(sys.argv[1]))
    for number in range(5):
        await ran(store, number)
    print("told", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def killed_once_told(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", DIES, str(path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"told\n"
        child.kill()


async def test_what_was_answered_outlives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "enclave.db"
    killed_once_told(path)

    store = SqliteStore.open(path)
    assert (await store.tenancy().standing("org_a", DAY)).used == Used(DAY, 7.5, 210)
    assert verify(await store.chain("org_a")) is None
    await store.close()


async def test_a_database_of_the_version_before_gets_its_tables(tmp_path: Path) -> None:
    path = tmp_path / "enclave.db"
    store = SqliteStore.open(path)
    await ran(store, 1)
    await store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for table in ("terms", "policies", "usage"):
            other.execute(f"DROP TABLE {table}")
        other.execute("PRAGMA user_version = 3")

    store = SqliteStore.open(path)
    await ran(store, 2)
    assert (await store.tenancy().standing("org_a", DAY)).used == Used(DAY, 1.5, 42)
    await store.close()
