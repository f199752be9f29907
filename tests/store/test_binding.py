"""Service bindings in the SQLite file: the public examination, and what only a file can give away or have changed."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from enclave.contracts.audit import BindingDeleted
from enclave.contracts.errors import SecretUnreadable, Unavailable
from enclave.core.audit import verify
from enclave.core.session import created
from enclave.store.base import Bindings, Store
from enclave.store.binding import SqliteBindings
from enclave.store.sqlite import SCHEMA_VERSION, SqliteStore
from enclave.testing.bindings import AT, SECRET, an_entry, check_bindings
from tests.store.test_sqlite import a_session

pytestmark = pytest.mark.anyio

KEY = bytes(range(32))
DELETED = BindingDeleted(ts=AT, org_id="org_a", actor="k", name="one")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "enclave.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore.open(path)
    yield opened
    await opened.close()


@pytest.fixture
def bindings(store: SqliteStore) -> SqliteBindings:
    return store.bindings(KEY)


def raw(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def change(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        assert other.execute(statement, values).rowcount > 0


def sealed(path: Path) -> Iterator[bytes]:
    with closing(sqlite3.connect(path)) as other:
        yield from (blob for (blob,) in other.execute("SELECT sealed FROM bindings"))


async def test_it_keeps_every_promise(tmp_path: Path) -> None:
    async def make(name: str) -> tuple[Store, Bindings]:
        store = SqliteStore.open(tmp_path / f"{name}.db")
        return store, store.bindings(KEY)

    await check_bindings(make)


async def test_a_secret_is_in_none_of_the_files(bindings: SqliteBindings, path: Path) -> None:
    await bindings.put(an_entry("one"))
    assert b"https://api.example" in raw(path)  # what is not secret is there, so this looks in the right place
    assert SECRET.encode() not in raw(path)
    await bindings.put(an_entry("one", secret=f"{SECRET}-2"))
    await bindings.delete(DELETED)
    assert SECRET.encode() not in raw(path)


async def test_of_what_was_deleted_or_replaced_not_even_the_sealed_text_stays(path: Path) -> None:
    store = SqliteStore.open(path)
    bindings = store.bindings(KEY)
    await bindings.put(an_entry("two"))
    blobs = []
    for secret in (SECRET, SECRET * 200, "short"):
        await bindings.put(an_entry("one", secret=secret))
        blobs += [blob for blob in sealed(path) if blob not in blobs]
    await bindings.delete(DELETED)
    await store.close()

    kept = raw(path)
    assert len(blobs) == 4
    assert [blob[-32:] in kept for blob in blobs] == [True, False, False, False]


async def test_the_same_secret_is_sealed_anew_each_time(bindings: SqliteBindings, path: Path) -> None:
    for name in ("one", "two"):
        await bindings.put(an_entry(name))

    first, second = sealed(path)
    assert first[8:] != second[8:]


@pytest.mark.parametrize(
    ("statement", "where"),
    [
        ("UPDATE bindings SET doc = json_set(doc, '$.url', 'https://evil.example')", ("org_a", "one")),
        ("UPDATE bindings SET doc = json_set(doc, '$.methods', json('[]'))", ("org_a", "one")),
        ("UPDATE bindings SET doc = json_set(doc, '$.inject.kind', 'query')", ("org_a", "one")),
        ("UPDATE bindings SET doc = json('[1]')", ("org_a", "one")),
        ("UPDATE bindings SET doc = doc || ' '", ("org_a", "one")),
        ("UPDATE bindings SET name = 'two'", ("org_a", "two")),
        ("UPDATE bindings SET name = 'two', doc = json_set(doc, '$.name', 'two')", ("org_a", "two")),
        ("UPDATE bindings SET org_id = 'org_b'", ("org_b", "one")),
        ("UPDATE bindings SET sealed = x'00'", ("org_a", "one")),
        ("UPDATE bindings SET sealed = ''", ("org_a", "one")),
    ],
)
async def test_a_row_that_was_changed_gives_no_secret(
    bindings: SqliteBindings, path: Path, statement: str, where: tuple[str, str]
) -> None:
    await bindings.put(an_entry("one", methods=("GET",)))
    change(path, statement)

    with pytest.raises(SecretUnreadable, match=f"binding {where[1]}: "):
        await bindings.grants(where[0], [where[1]])


async def test_every_bit_of_what_is_sealed_counts(bindings: SqliteBindings, path: Path) -> None:
    await bindings.put(an_entry("one"))
    (whole,) = sealed(path)
    for at in range(8, len(whole)):
        flipped = bytes([*whole[:at], whole[at] ^ 1, *whole[at + 1 :]])
        change(path, "UPDATE bindings SET sealed = ?", flipped)
        with pytest.raises(SecretUnreadable, match="not written by this server as it stands"):
            await bindings.grants("org_a", ["one"])


async def test_two_rows_cannot_trade_their_secrets(bindings: SqliteBindings, path: Path) -> None:
    for name in ("one", "two"):
        await bindings.put(an_entry(name, secret=f"of {name}"))
    first, second = sealed(path)
    change(path, "UPDATE bindings SET sealed = iif(sealed = ?, ?, ?)", first, second, first)

    for name in ("one", "two"):
        with pytest.raises(SecretUnreadable):
            await bindings.grants("org_a", [name])


async def test_a_document_that_is_no_json_is_told_and_not_believed(bindings: SqliteBindings, path: Path) -> None:
    await bindings.put(an_entry("one"))
    change(path, "UPDATE bindings SET doc = 'x'")

    with pytest.raises(Unavailable):
        await bindings.grants("org_a", ["one"])


async def test_another_key_opens_nothing_and_says_so(store: SqliteStore, bindings: SqliteBindings) -> None:
    await bindings.put(an_entry("one"))

    with pytest.raises(SecretUnreadable, match=r"binding one: .* another key") as refused:
        await store.bindings(bytes(32)).grants("org_a", ["one"])

    assert SECRET not in repr(refused.value)
    assert await store.bindings(bytes(32)).get("org_a", "one") == an_entry("one").binding


async def test_events_of_bindings_and_sessions_make_one_chain(store: SqliteStore, bindings: SqliteBindings) -> None:
    await store.commit(created(a_session(1), "x"))
    await bindings.put(an_entry("one"))
    await store.commit(created(a_session(2), "x"))
    await bindings.delete(DELETED)

    chain = await store.chain("org_a")
    assert [event.type for event in chain] == ["session_created", "binding_put", "session_created", "binding_deleted"]
    assert [event.session_id is None for event in chain] == [False, True, False, True]
    assert verify(chain) is None
    assert len(await store.trail("org_a", a_session(1).id)) == 1


async def test_an_event_that_cannot_be_written_takes_the_binding_with_it(bindings: SqliteBindings, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TRIGGER broken BEFORE INSERT ON audit BEGIN SELECT RAISE (ABORT, 'disk'); END")
        with pytest.raises(Unavailable):
            await bindings.put(an_entry("one"))

    assert list(await bindings.find("org_a")) == []


async def test_a_database_of_the_first_version_gets_its_bindings(path: Path) -> None:
    store = SqliteStore.open(path)
    await store.commit(created(a_session(1), "x"))
    await store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("DROP TABLE bindings")
        other.execute("PRAGMA user_version = 1")

    store = SqliteStore.open(path)
    await store.bindings(KEY).put(an_entry("one"))
    chain = await store.chain("org_a")
    await store.close()

    assert (SCHEMA_VERSION, len(chain), verify(chain)) == (7, 2, None)


async def test_nothing_that_holds_a_secret_shows_it(store: SqliteStore) -> None:
    entry = an_entry("one")

    assert SECRET not in repr(entry)
    assert SECRET not in entry.event.model_dump_json() + entry.binding.model_dump_json()
    assert "x00" not in repr(store.bindings(KEY)._vault)
