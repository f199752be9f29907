"""The PostgreSQL store: what the database itself refuses, what is never lost, and what happens when it is away."""

import asyncio
import hashlib
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from enclave.contracts.audit import KeyRevoked
from enclave.contracts.errors import InvalidRequest, SecretUnreadable, StaleSession, Unavailable
from enclave.contracts.policy import EgressPolicy, Language, SessionLimits
from enclave.contracts.sessions import Phase, Session, SessionResult
from enclave.core.audit import verify
from enclave.core.session import Finished, Started, advance, created
from enclave.store.base import Filter
from enclave.store.postgres import migration
from enclave.store.postgres.store import PostgresStore
from enclave.store.postgres.writer import MAX_BATCH, MAX_QUEUED, Writer
from enclave.testing.bindings import SECRET, an_entry
from enclave.testing.store import AT
from tests.postgres import Server, binaries
from tests.store.postgres.conftest import Open, chain

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]


def a_session(number: int, org_id: str = "org_a", labels: dict[str, str] | None = None) -> Session:
    return Session(
        id=f"ses_{number:026d}",
        org_id=org_id,
        created_by="k",
        phase=Phase.PENDING,
        language=Language.PYTHON,
        limits=SessionLimits(),
        egress=EgressPolicy(),
        backend="local",
        labels=labels or {},
        created_at=AT,
    )


@pytest.fixture
async def sql(database: str) -> AsyncIterator[Any]:
    """A connection of somebody else's."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


COPY = "INSERT INTO audit SELECT org_id, seq + {}, session_id, type, ts, body, {}, digest FROM audit"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET body = '{}'",
        "UPDATE audit SET body = '{}' WHERE false",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "SET session_replication_role = replica; DELETE FROM audit",
        "INSERT INTO audit SELECT * FROM audit ON CONFLICT (org_id, seq) DO UPDATE SET body = '{}'",
        COPY.format(0, "previous"),
        COPY.format(5, "previous"),
        COPY.format(1, "previous"),
        COPY.format(-1, "previous"),
        COPY.format(1, "digest").replace("body,", "'{}',"),
    ],
)
async def test_the_database_itself_refuses_to_rewrite_the_trail(store: PostgresStore, sql: Any, statement: str) -> None:
    await store.commit(created(a_session(1), "x"))
    before = await sql.fetch("SELECT * FROM audit")

    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await sql.execute(statement)

    await sql.execute("RESET session_replication_role")
    assert before == await sql.fetch("SELECT * FROM audit")


async def test_the_next_entry_on_the_last_is_let_in(store: PostgresStore, sql: Any) -> None:
    """So it is not for another reason that the ones above are refused."""
    await store.commit(created(a_session(1), "x"))
    await sql.execute(COPY.format(1, "digest"))


async def test_a_server_need_not_own_the_tables_and_then_cannot_unlock_them(
    store: PostgresStore, sql: Any, database: str
) -> None:
    schema, role = await sql.fetchval("SELECT current_schema()"), f"app_{os.getpid()}"
    await sql.execute(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role}")
    await sql.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}")
    url = database.replace("enclave@", f"{role}@")
    theirs = await PostgresStore.open(url, "r2")
    await theirs.commit(created(a_session(1), "x"))
    await theirs.close()
    connection = await asyncpg.connect(url)
    try:
        for statement in ("ALTER TABLE audit DISABLE TRIGGER ALL", "TRUNCATE audit", "DROP TABLE audit"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        with pytest.raises(asyncpg.RestrictViolationError):
            await connection.execute("DELETE FROM audit")
    finally:
        await connection.close()
        await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_digest_can_be_checked_without_enclave(store: PostgresStore, sql: Any) -> None:
    (event,) = await store.commit(created(a_session(1), "x"))
    body, digest = await sql.fetchrow("SELECT body, digest FROM audit")

    assert event.digest == digest == hashlib.sha256(body.encode()).hexdigest()


async def test_a_commit_is_synchronous_with_the_disk(store: PostgresStore, sql: Any, database: str) -> None:
    await store.commit(created(a_session(1), "x"))
    assert await store._writer._connection.fetchval("SHOW synchronous_commit") == "on"


async def test_a_database_of_a_newer_version_is_refused(store: PostgresStore, sql: Any, database: str) -> None:
    await sql.execute("INSERT INTO enclave_versions (version) VALUES ($1)", migration.VERSION + 1)

    with pytest.raises(Unavailable, match=f"version {migration.VERSION + 1}, made by a newer"):
        await PostgresStore.open(database, "r2")


async def test_many_that_start_at_once_make_the_tables_once(opened: Open, sql: Any) -> None:
    stores = await asyncio.gather(*(opened(f"r{number}") for number in range(6)))
    await asyncio.gather(*(one.commit(created(a_session(at), "x")) for at, one in enumerate(stores)))

    assert [row[0] for row in await sql.fetch("SELECT version FROM enclave_versions")] == [migration.VERSION]
    assert (verify(await chain(stores[0])), len(await chain(stores[0]))) == (None, 6)


async def test_a_migration_that_fails_leaves_nothing(sql: Any, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "_step", lambda number: "CREATE TABLE half (a int); SELECT 1/0")
    with pytest.raises(Unavailable, match="cannot be made: division by zero"):
        await PostgresStore.open(database, "r1")
    assert await sql.fetchval("SELECT to_regclass('half')") is None
    monkeypatch.undo()
    await (await PostgresStore.open(database, "r1")).close()


@pytest.mark.parametrize("url", ["postgresql://user:hunter2@/x?host=/nowhere", "postgresql://u:hunter2@127.0.0.1:1/x"])
async def test_a_database_that_is_not_there_is_one_line_without_the_password(url: str) -> None:
    with pytest.raises(Unavailable, match="the database cannot be reached: ") as refused:
        await PostgresStore.open(url, "r1")
    assert "hunter2" not in str(refused.value)
    assert "\n" not in refused.value.detail


async def test_a_url_that_makes_no_sense_is_told() -> None:
    with pytest.raises(InvalidRequest, match="ENCLAVE_DATABASE_URL"):
        await PostgresStore.open("postgresql://host:port/x", "r1")


async def test_a_change_that_cannot_be_written_down_fails_alone(store: PostgresStore) -> None:
    running = advance(a_session(2), Started("local"), at=AT, actor="x")
    unwritable = advance(running.session, Finished(SessionResult(exit_code=0)), at=AT, actor="x")
    broken = unwritable.session.model_copy(update={"result": SessionResult(exit_code=0, result="\ud800")})
    changes = [created(a_session(1), "x"), created(a_session(2), "x"), running, created(a_session(1), "x")]
    changes += [replace(unwritable, session=broken), created(a_session(3), "x")]

    done = await asyncio.gather(*(store.commit(change) for change in changes), return_exceptions=True)

    assert isinstance(done[3], StaleSession)
    assert isinstance(done[4], ValueError)
    assert [event.seq for answer in done if isinstance(answer, tuple) for event in answer] == [1, 2, 3, 4]
    assert verify(await chain(store)) is None


async def test_what_text_in_a_database_cannot_hold_is_kept_and_found(store: PostgresStore) -> None:
    session = a_session(1, labels={"team": "a\x00b"})
    await store.commit(created(session, "\x00"))

    assert await store.find("org_a", Filter(labels={"team": "a\x00b"})) == [session]
    assert await store.find("org_a", Filter(labels={"team": "a"})) == []


async def test_names_are_ordered_as_everywhere_whatever_the_database_thinks(postgres: Server) -> None:
    """In English `a_b` comes before `ab`, and `B` behind `a`."""
    await postgres.execute("CREATE DATABASE english TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'")
    store = await PostgresStore.open(postgres.url("english"), "r1")
    bindings = store.bindings(bytes(32))
    names = ["ab", "a_c", "a-d", "a0"]
    for name in names:
        await bindings.put(an_entry(name))
    found = [binding.name for binding in await bindings.find("org_a")]
    await store.close()

    assert found == sorted(names)


async def test_a_secret_is_nowhere_in_the_database(store: PostgresStore, sql: Any) -> None:
    bindings = store.bindings(bytes(32))
    await bindings.put(an_entry("one"))
    tables = [row[0] for row in await sql.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")]
    told = "".join([repr(await sql.fetch(f'SELECT * FROM "{table}"')) for table in tables])
    assert "https://api.example" in told  # what is not secret is there, so this looks in the right place
    assert SECRET not in told

    await sql.execute("UPDATE bindings SET doc = replace(doc, 'api.example', 'evil.example')")
    with pytest.raises(SecretUnreadable):
        await bindings.grants("org_a", ["one"])


async def test_a_queue_that_is_full_refuses(store: PostgresStore) -> None:
    change = created(a_session(1), "x")
    done = await asyncio.gather(*(store.commit(change) for _ in range(MAX_QUEUED + MAX_BATCH)), return_exceptions=True)

    assert isinstance(done[0], tuple)
    assert sum(isinstance(answer, Unavailable) for answer in done) == MAX_BATCH


async def test_a_caller_that_gave_up_does_not_stop_the_others(store: PostgresStore) -> None:
    tasks = [asyncio.ensure_future(store.commit(created(a_session(number), "x"))) for number in (1, 2, 3)]
    tasks[1].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)

    assert [tuple, asyncio.CancelledError, tuple] == [type(answer) for answer in done]
    assert len(await chain(store)) == 3


async def test_after_close_a_commit_is_refused(database: str) -> None:
    store = await PostgresStore.open(database, "r1")
    await store.close()

    with pytest.raises(Unavailable, match="closed"):
        await store.commit(created(a_session(1), "x"))


async def test_of_what_grew_nothing_is_missed_that_was_being_written_when_it_was_asked(
    store: PostgresStore, sql: Any
) -> None:
    await store.commit(created(a_session(1), "x"))
    moment, heads = await store.heads()
    assert [(head.org_id, head.seq) for head in heads] == [("org_a", 1)]
    assert await store.heads(moment) == (moment, [])
    async with sql.transaction():
        await sql.execute("INSERT INTO heads VALUES ('org_b', 1, repeat('1', 64), pg_current_xact_id()::text::bigint)")
        await store.commit(created(a_session(2), "x"))
        moment, heads = await store.heads(moment)
        assert [(head.org_id, head.seq) for head in heads] == [("org_a", 2)]
    _, heads = await store.heads(moment)
    assert ("org_b", 1) in [(head.org_id, head.seq) for head in heads]


# Several writers

WRITER = """
import asyncio, sys
from tests.store.postgres.test_store import live
from enclave.store.postgres.store import PostgresStore

async def main():
    url, place, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    store = await PostgresStore.open(url, f"r{place}")
    # The orgs in another order in each process.
    numbers = [place * 10_000 + number for number in range(count)][:: 1 if place % 2 else -1]
    for start in range(0, count, 25):
        await asyncio.gather(*(live(store, number) for number in numbers[start : start + 25]))
    await store.close()

asyncio.run(main())
"""


async def live(store: PostgresStore, number: int) -> None:
    """A session of one of three orgs, to its end, with an event from elsewhere that all processes know of."""
    org_id = f"org_{number % 3}"
    session = a_session(number, org_id)
    await store.commit(created(session, "x"))
    running = advance(session, Started("local"), at=AT, actor="x")
    await store.commit(running)
    event = KeyRevoked(ts=AT, org_id=org_id, session_id=None, actor="x", key_id="k")
    await asyncio.gather(store.note(f"key {number % 10_000}", event), return_exceptions=True)
    await store.commit(advance(running.session, Finished(SessionResult(exit_code=0)), at=AT, actor="x"))


def python(code: str, *arguments: object) -> "subprocess.CompletedProcess[bytes]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=50, check=False)


async def test_four_processes_write_the_chains_of_the_same_orgs(opened: Open, database: str) -> None:
    count = 150
    processes = await asyncio.gather(*(asyncio.to_thread(python, WRITER, database, at, count) for at in range(4)))
    store = await opened("r9")
    chains = [await chain(store, f"org_{number}") for number in range(3)]
    sessions = [one.id for org in range(3) for one in await store.find(f"org_{org}", Filter(), limit=100_000)]
    told = [(event.session_id, event.type) for events in chains for event in events if event.session_id is not None]
    noted = [event for events in chains for event in events if event.session_id is None]

    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    assert [verify(events) for events in chains] == [None, None, None]
    assert len(set(sessions)) == len(sessions) == 4 * count
    assert len(set(told)) == len(told) == 4 * count * 4
    assert len(noted) == count  # each was noted by one of the four
    assert await store.unsettled() == []


TORN = """
import asyncio, os, sys
from tests.store.postgres.test_store import a_session
from enclave.core.session import created
from enclave.store.postgres.store import PostgresStore

async def main():
    store = await PostgresStore.open(sys.argv[1], "torn")
    acknowledged = 0

    async def worker(first):
        nonlocal acknowledged
        for number in range(first, 10**9, 16):
            await store.commit(created(a_session(number, f"org_{number % 3}"), "x"))
            os.write(1, b"%d\\n" % number)
            acknowledged += 1
            if acknowledged == 200:
                os._exit(7)

    await asyncio.gather(*(worker(first) for first in range(16)))

asyncio.run(main())
"""


async def test_a_process_that_dies_amid_commits_loses_nothing_and_holds_nobody_up(opened: Open, database: str) -> None:
    process = await asyncio.to_thread(python, TORN, database)
    acknowledged = {a_session(int(line)).id for line in process.stdout.split()}
    store = await opened("r2")
    await asyncio.gather(*(store.commit(created(a_session(10**8 + org, f"org_{org}"), "x")) for org in range(3)))
    kept = {one.id for org in range(3) for one in await store.find(f"org_{org}", Filter(), limit=100_000)}

    assert process.returncode == 7
    assert len(acknowledged) == 200
    assert acknowledged <= kept
    assert [verify(await chain(store, f"org_{org}")) for org in range(3)] == [None, None, None]


# A database that is away


@pytest.fixture
def own() -> Iterator[Server]:
    """A server that nobody else needs."""
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    server = Server(programs)
    try:
        server.start()
        yield server
    finally:
        server.remove()


async def until_more(those: Sized, count: int) -> None:
    """Until there are so many more of them than now; each is one that came through a real server."""
    enough = len(those) + count
    async with asyncio.timeout(20):
        while len(those) < enough:  # noqa: ASYNC110  what they wait for is the database
            await asyncio.sleep(0.01)


async def test_a_crash_amid_load_loses_nothing_that_was_acknowledged_and_heals(own: Server) -> None:
    store = await PostgresStore.open(own.url(), "r1")
    acknowledged: set[str] = set()
    refused: list[BaseException] = []
    over = asyncio.Event()

    async def work(first: int) -> None:
        for number in range(first, 10**9, 16):
            if over.is_set():
                return
            session = a_session(number, f"org_{number % 3}")
            try:
                await store.commit(created(session, "x"))
            except Unavailable as error:
                refused.append(error)
                await asyncio.sleep(0.05)  # not a wait for something: a caller that comes again
            else:
                acknowledged.add(session.id)

    tasks = [asyncio.create_task(work(first)) for first in range(16)]
    for _ in range(2):
        await until_more(acknowledged, 300)
        await asyncio.to_thread(own.stop, signal.SIGQUIT)
        await until_more(refused, 16)
        with pytest.raises(Unavailable):
            await store.get("org_0", a_session(0).id)
        await asyncio.to_thread(own.start)
    await until_more(acknowledged, 100)
    over.set()
    await asyncio.gather(*tasks)
    kept = {one.id for org in range(3) for one in await store.find(f"org_{org}", Filter(), limit=100_000)}
    broken = [verify(await chain(store, f"org_{org}")) for org in range(3)]
    await store.close()

    assert acknowledged <= kept
    assert broken == [None, None, None]


@pytest.mark.slow
async def test_a_database_that_hangs_is_given_up_in_time_and_taken_up_again(
    own: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enclave.store.postgres.database.ANSWER_SECONDS", 1.0)
    monkeypatch.setattr("enclave.store.postgres.database.CONNECT_SECONDS", 1.0)
    store = await PostgresStore.open(own.url(), "r1")
    await store.commit(created(a_session(1), "x"))
    own.pause()
    try:
        async with asyncio.timeout(20):
            for number in (2, 3):
                with pytest.raises(Unavailable):
                    await store.commit(created(a_session(number), "x"))
                with pytest.raises(Unavailable):
                    await store.get("org_a", a_session(1).id)
    finally:
        own.go_on()
    await store.commit(created(a_session(4), "x"))
    assert verify(await chain(store)) is None
    await store.close()


async def test_a_connection_that_was_cut_while_it_was_idle_costs_nobody_an_error(
    store: PostgresStore, sql: Any
) -> None:
    await store.commit(created(a_session(1), "x"))
    pid = store._writer._connection.get_server_pid()
    await sql.fetch("SELECT pg_terminate_backend($1)", pid)
    store._writer._used = -math.inf  # as if it were long ago
    await store.commit(created(a_session(2), "x"))


async def test_a_database_that_can_only_be_read_refuses_changes_and_heals(store: PostgresStore) -> None:
    await store.commit(created(a_session(1), "x"))
    await store._writer._connection.execute("SET default_transaction_read_only = on")

    with pytest.raises(Unavailable) as refused:
        await store.commit(created(a_session(2), "x"))

    assert isinstance(refused.value.__cause__, asyncpg.ReadOnlySQLTransactionError)
    assert await store.get("org_a", a_session(1).id) == a_session(1)
    await store.commit(created(a_session(2), "x"))


async def root(*command: str | Path) -> None:
    await asyncio.to_thread(lambda: subprocess.run(command, check=True, timeout=20))


@pytest.mark.root
async def test_a_disk_that_is_full_refuses_changes_and_heals(own: Server) -> None:
    small = own.directory / "small"
    small.mkdir()
    await root("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small)
    try:
        (small / "space").mkdir()
        shutil.chown(small / "space", "nobody")
        store = await PostgresStore.open(own.url(), "r1")
        await own.execute(f"CREATE TABLESPACE small LOCATION '{small}/space'")
        await own.execute("ALTER TABLE audit SET TABLESPACE small")
        refused = None
        numbers = iter(range(10_000))
        while refused is None:
            changes = [created(a_session(number), "x") for number, _ in zip(numbers, range(50), strict=False)]
            answers = await asyncio.gather(*map(store.commit, changes), return_exceptions=True)
            refused = next((answer for answer in answers if isinstance(answer, Unavailable)), None)
        assert isinstance(refused.__cause__, asyncpg.DiskFullError)
        await root("mount", "-o", "remount,size=8m", small)
        await store.commit(created(a_session(99_999), "x"))
        assert verify(await chain(store)) is None
        await store.close()
        await own.execute("DROP TABLE audit CASCADE")
    finally:
        own.stop()
        await root("umount", small)


# A commit whose answer is lost


class Cut:
    """A connection that breaks at the statement that commits: `sent` says whether the database still heard it."""

    def __init__(self, connection: Any, *, sent: bool, at_once: bool) -> None:
        self._connection = connection
        self._sent = sent
        self._at_once = at_once

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def execute(self, statement: str, *values: object) -> object:
        return await self._cut(self._connection.execute, statement, values, commits=statement == "COMMIT")

    async def fetchval(self, statement: str, *values: object) -> object:
        return await self._cut(self._connection.fetchval, statement, values, commits=self._at_once)

    async def _cut(self, act: Any, statement: str, values: tuple[object, ...], *, commits: bool) -> object:
        if not commits:
            return await act(statement, *values)
        if self._sent:
            await act(statement, *values)
        self._connection.terminate()
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_commit_whose_answer_is_lost_is_found_out(store: PostgresStore, at_once: bool) -> None:
    writer: Writer = store._writer

    def cut(*, sent: bool) -> None:
        writer._used = math.inf if at_once else -math.inf
        writer._connection = Cut(writer._connection, sent=sent, at_once=at_once)

    await store.commit(created(a_session(1), "x"))
    cut(sent=True)
    (event,) = await store.commit(created(a_session(2), "x"))
    assert list(await chain(store))[-1] == event

    await store.commit(created(a_session(3), "x"))
    cut(sent=False)
    with pytest.raises(Unavailable):
        await store.commit(created(a_session(4), "x"))
    assert [one.id for one in await store.find("org_a", Filter())] == [a_session(at).id for at in (3, 2, 1)]
    await store.commit(created(a_session(4), "x"))
    assert (verify(await chain(store)), len(await chain(store))) == (None, 4)


async def test_what_a_writer_believes_is_compared(opened: Open) -> None:
    """It writes at once on what it left, and others may have written since."""
    one, other = await opened("r1"), await opened("r2")
    await one.commit(created(a_session(1), "x"))
    await one.commit(created(a_session(2), "x"))
    await other.commit(advance(a_session(1), Started("local"), at=AT, actor="x"))
    one._writer._used = math.inf
    with pytest.raises(StaleSession):
        await one.commit(advance(a_session(1), Started("local"), at=AT, actor="x"))
    await one.commit(created(a_session(3), "x"))
    await other.commit(created(a_session(4), "x"))
    one._writer._used = math.inf
    done = await asyncio.gather(*(one.commit(created(a_session(at), "x")) for at in (4, 5)), return_exceptions=True)

    assert [type(answer) for answer in done] == [StaleSession, tuple]
    assert (verify(await chain(one)), len(await chain(one))) == (None, 6)
