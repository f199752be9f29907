"""Webhooks in the SQLite file: the public examination, and what only a file can give away or have changed."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from enclave.contracts.errors import SecretUnreadable, Unavailable
from enclave.contracts.webhooks import WebhookSecretRotated
from enclave.core.session import TornDown, advance, created
from enclave.store.base import Attempt, Held
from enclave.store.sqlite import SCHEMA_VERSION, SqliteStore
from enclave.testing.outbox import ALL, LEASE, URL, Kept, check_outbox
from enclave.testing.store import AT
from tests.store.test_binding import change, raw
from tests.store.test_sqlite import a_session

pytestmark = pytest.mark.anyio

KEY = bytes(range(32))
SECRET = "whsec_c2VjcmV0LW9mLXRoZS1vcmc="
ROTATED = WebhookSecretRotated(ts=AT, org_id="org_a", actor="k", previous_until=None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "enclave.db"


@pytest.fixture
async def kept(path: Path) -> AsyncIterator[Kept]:
    opened = keeping(path)
    yield opened
    await opened.store.close()


def keeping(path: Path, key: bytes = KEY) -> Kept:
    store = SqliteStore.open(path)
    return Kept(store, store.outbox(key), store.signing(key))


async def ended(kept: Kept) -> None:
    session = a_session(1)
    callback = kept.outbox.seal(session.id, "hooks.example", URL)
    await kept.store.commit(created(session, "x", callback=callback))
    await kept.store.commit(advance(session, TornDown(), at=AT, actor="x"))


async def claimed(kept: Kept) -> Held:
    (due,) = await kept.outbox.due(AT, ALL)
    return await kept.outbox.claim(due, AT, AT + LEASE)


async def test_it_keeps_every_promise(tmp_path: Path) -> None:
    async def make(name: str) -> Kept:
        return keeping(tmp_path / f"{name}.db")

    await check_outbox(make)


async def test_neither_a_url_nor_a_secret_is_in_any_of_the_files(kept: Kept, path: Path) -> None:
    await ended(kept)
    await kept.signing.rotate(SECRET, ROTATED)

    assert b"hooks.example" in raw(path)  # what is not secret is there, so this looks in the right place
    assert b"tok_examined" not in raw(path)
    assert SECRET.encode() not in raw(path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE deliveries SET host = 'evil.example'",
        "UPDATE deliveries SET sealed = x'00'",
        "UPDATE deliveries SET sealed = (SELECT sealed FROM webhook_secrets)",
    ],
)
async def test_a_row_that_was_changed_is_sent_nowhere(kept: Kept, path: Path, statement: str) -> None:
    await kept.signing.rotate(SECRET, ROTATED)
    await ended(kept)
    change(path, statement)

    with pytest.raises(SecretUnreadable, match="the stored URL"):
        kept.outbox.url(await claimed(kept))


async def test_another_key_opens_nothing_and_a_rotation_mends_it(kept: Kept, path: Path) -> None:
    await kept.signing.rotate(SECRET, ROTATED)
    await ended(kept)
    assert isinstance(kept.store, SqliteStore)
    other, signing = kept.store.outbox(bytes(32)), kept.store.signing(bytes(32))

    with pytest.raises(SecretUnreadable, match="rotate it"):
        await signing.secrets("org_a", AT)
    with pytest.raises(SecretUnreadable):
        other.url(await claimed(kept))
    await signing.rotate("whsec_new", ROTATED.model_copy(update={"ts": AT + LEASE, "previous_until": AT + 2 * LEASE}))

    assert list(await signing.secrets("org_a", AT + LEASE)) == ["whsec_new"]


async def test_an_end_that_cannot_be_written_makes_nothing_due(kept: Kept, path: Path) -> None:
    session = a_session(1)
    await kept.store.commit(created(session, "x", callback=kept.outbox.seal(session.id, "h", URL)))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TRIGGER broken BEFORE INSERT ON audit BEGIN SELECT RAISE (ABORT, 'disk'); END")
        with pytest.raises(Unavailable):
            await kept.store.commit(advance(session, TornDown(), at=AT, actor="x"))

    assert list(await kept.outbox.due(AT, ALL)) == []


async def test_a_session_is_not_forgotten_before_it_is_posted_and_then_leaves_nothing(kept: Kept) -> None:
    await ended(kept)
    assert isinstance(kept.store, SqliteStore)
    later = a_session(2).id
    assert list(await kept.store.forget(later)) == []
    await kept.outbox.settle(Attempt(await claimed(kept), AT, 204, None, None))

    assert list(await kept.store.forget(later)) == [a_session(1).id]
    assert list(await kept.outbox.find("org_a")) == []


async def test_a_database_of_the_version_before_gets_its_webhooks(path: Path) -> None:
    await keeping(path).store.close()
    change_all = "DROP TABLE deliveries; DROP TABLE webhook_secrets; PRAGMA user_version = 6;"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.executescript(change_all)

    kept = keeping(path)
    await ended(kept)
    found = await kept.outbox.find("org_a")
    await kept.store.close()

    assert (SCHEMA_VERSION, len(found)) == (7, 1)


async def test_nothing_that_holds_a_url_or_a_secret_shows_it(kept: Kept) -> None:
    await ended(kept)
    taken = await claimed(kept)

    assert "sealed" not in repr(taken)
    assert "tok_" not in repr(kept.outbox.seal("ses_1", "h", URL))
