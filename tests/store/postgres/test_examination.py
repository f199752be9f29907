"""A PostgreSQL database that somebody laid hands on who may do anything in it."""

import asyncio
from typing import Any

import asyncpg
import pytest

from enclave.contracts.errors import NotFound, Unavailable
from enclave.core.proof import Finding
from enclave.core.session import created
from enclave.store.examination import export, exported, verify
from enclave.store.postgres import examination
from enclave.store.postgres.store import PostgresStore
from tests.store.postgres.test_store import a_session

LAID_OPEN = "ALTER TABLE audit DISABLE TRIGGER ALL; "


@pytest.fixture
def written(database: str) -> str:
    async def write() -> None:
        store = await PostgresStore.open(database, "r1")
        await asyncio.gather(*(store.commit(created(a_session(at, f"org_{at % 2}"), "x")) for at in range(20)))
        await store.close()

    asyncio.run(write())
    return database


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    url: str = asyncio.run(request.getfixturevalue("postgres").schema())
    return url


def act(url: str, statement: str) -> None:
    async def run() -> Any:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


def found(url: str) -> dict[str, Finding]:
    return {one.org_id: one for one in verify(examination.stored(url), None, None)}


def test_what_was_written_holds(written: str) -> None:
    assert {org: (one.entries, one.flaw) for org, one in found(written).items()} == {
        "org_0": (10, None),
        "org_1": (10, None),
    }
    lines = b"".join(export(examination.stored(written, "org_1")))
    assert [one.body for one in exported_of(lines)] == [one.body for one in examination.stored(written, "org_1")]


def exported_of(lines: bytes) -> list[Any]:
    import io

    return list(exported(io.BytesIO(lines)))


@pytest.mark.parametrize(
    ("statement", "seq"),
    [
        ("ALTER TABLE audit DROP CONSTRAINT audit_digest_is_of_body; UPDATE audit SET body = '{}' WHERE seq = 4", 4),
        ("DELETE FROM audit WHERE seq = 5", 5),
        ("UPDATE audit SET ts = '2020' WHERE seq = 6", 6),
        ("ALTER TABLE audit DROP CONSTRAINT audit_pkey; INSERT INTO audit SELECT * FROM audit WHERE seq = 7", 8),
    ],
)
def test_the_first_entry_that_does_not_hold_is_named(written: str, statement: str, seq: int) -> None:
    act(written, LAID_OPEN + statement + " AND org_id = 'org_1'")

    flaws = {org: one.flaw for org, one in found(written).items()}

    assert flaws["org_0"] is None
    assert flaws["org_1"] is not None
    assert flaws["org_1"].seq == seq


def test_a_newer_database_and_an_empty_one_are_told(written: str, postgres: Any) -> None:
    act(written, "INSERT INTO enclave_versions (version) VALUES (99)")
    with pytest.raises(Unavailable, match="version 99"):
        found(written)
    with pytest.raises(NotFound, match="no audit trail"):
        found(asyncio.run(postgres.schema()))
