"""A database or an export that somebody laid hands on, and checkpoints that tell."""

import asyncio
import io
import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from enclave.contracts.audit import KeyRevoked
from enclave.contracts.errors import InvalidRequest, NotFound, Unavailable
from enclave.core.proof import Finding
from enclave.store.base import Head
from enclave.store.checkpoint import Checkpoints
from enclave.store.examination import checkpoints, export, exported, stored, tombstones, verify
from enclave.store.signature import Signer, is_signed
from enclave.store.sqlite import SCHEMA_VERSION, SqliteStore

pytestmark = pytest.mark.anyio
AT = datetime(2026, 1, 1, tzinfo=UTC)
SIGNER = Signer(bytes(range(32)))


def now() -> datetime:
    return AT


async def note(store: SqliteStore, org_id: str, *numbers: int) -> None:
    for number in numbers:
        at = AT + timedelta(seconds=number)
        event = KeyRevoked(ts=at, org_id=org_id, session_id=None, actor="ada", key_id=f"k{number}")
        await store.note(f"{org_id}.{number}", event)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "enclave.db"


@pytest.fixture
async def store(path: Path) -> SqliteStore:
    store = SqliteStore.open(path)
    await note(store, "org_a", *range(10))
    await note(store, "org_b", *range(3))
    return store


def found(path: Path, checkpoint_file: Path | None = None, key: str | None = SIGNER.public_key) -> dict[str, Finding]:
    return {one.org_id: one for one in verify(stored(path), checkpoint_file, key, tombstones(path, key))}


def broken(path: Path, checkpoint_file: Path | None = None) -> dict[str, int]:
    return {one.org_id: one.flaw.seq for one in found(path, checkpoint_file).values() if one.flaw}


def edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        connection.commit()


async def test_a_database_that_is_in_use_is_examined(store: SqliteStore, path: Path) -> None:
    assert {name: (one.entries, one.flaw) for name, one in found(path).items()} == {
        "org_a": (10, None),
        "org_b": (3, None),
    }
    await store.close()


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE audit SET body = replace(body, 'k4', 'k5') WHERE org_id = 'org_a' AND seq = 5", {"org_a": 5}),
        ("UPDATE audit SET body = x'00ff' WHERE org_id = 'org_a' AND seq = 5", {"org_a": 5}),
        ("UPDATE audit SET body = NULL WHERE org_id = 'org_a' AND seq = 5", None),
        ("UPDATE audit SET digest = 'x' WHERE org_id = 'org_a' AND seq = 5", {"org_a": 5}),
        ("UPDATE audit SET previous = digest WHERE org_id = 'org_a' AND seq = 5", {"org_a": 5}),
        ("UPDATE audit SET ts = '2020-01-01T00:00:00+00:00' WHERE org_id = 'org_a' AND seq = 5", {"org_a": 5}),
        ("UPDATE audit SET type = 'key_created' WHERE org_id = 'org_a' AND seq = 5", {"org_a": 5}),
        ("UPDATE audit SET seq = 'five' WHERE org_id = 'org_a' AND seq = 5", {"org_a": 5}),
        ("UPDATE audit SET seq = 50 WHERE org_id = 'org_a' AND seq = 5", {"org_a": 5}),
        ("UPDATE audit SET org_id = 'org_b', seq = 4 WHERE org_id = 'org_a' AND seq = 10", {"org_b": 4}),
        ("DELETE FROM audit WHERE org_id = 'org_a' AND seq = 5", {"org_a": 5}),
        ("DELETE FROM audit WHERE org_id = 'org_a' AND seq = 1", {"org_a": 1}),
    ],
)
async def test_an_edit_by_hand_is_found(
    store: SqliteStore, path: Path, statement: str, expected: dict[str, int] | None
) -> None:
    await store.close()
    if expected is None:
        with pytest.raises(sqlite3.IntegrityError):
            edit(path, statement)
        return
    edit(path, statement)
    assert broken(path) == expected


async def test_a_cut_end_and_a_chain_written_anew_are_found_by_checkpoints(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    file = tmp_path / "checkpoints.jsonl"
    await Checkpoints.to_file(store, SIGNER, now, file).tick()
    await store.close()
    assert {name: one.signed for name, one in found(path, file).items()} == {"org_a": 10, "org_b": 3}
    edit(path, "DELETE FROM audit WHERE org_id = 'org_a' AND seq > 8", "DELETE FROM audit WHERE org_id = 'org_b'")
    assert broken(path) == {}
    assert broken(path, file) == {"org_a": 9, "org_b": 1}

    os.unlink(path)
    another = SqliteStore.open(path)
    await note(another, "org_a", *range(1, 11))
    await note(another, "org_b", *range(3))
    await another.close()
    assert broken(path, file) == {"org_a": 10}


async def test_a_chain_written_anew_is_found_though_the_server_signed_for_it_since(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    file = tmp_path / "checkpoints.jsonl"
    await Checkpoints.to_file(store, SIGNER, now, file).tick()
    await store.close()
    os.unlink(path)
    another = SqliteStore.open(path)
    await note(another, "org_a", *range(1, 13))
    await note(another, "org_b", *range(4))
    await Checkpoints.to_file(another, SIGNER, now, file).tick()
    await another.close()
    assert file.read_bytes().count(b"\n") == 4
    assert broken(path, file) == {"org_a": 10}


@pytest.mark.parametrize(
    "doc",
    ["hello", "5", *(SIGNER.sign(Head(org_id, seq, "d"), AT, "tombstone").model_dump_json() for org_id, seq in (
        ("org_a", 5), ("org_b", 4),
    )), Signer(bytes(32)).sign(Head("org_a", 4, "d"), AT, "tombstone").model_dump_json()],
)  # fmt: skip
async def test_a_tombstone_of_another_hand_is_a_flaw_of_its_org(store: SqliteStore, path: Path, doc: str) -> None:
    await store.close()
    edit(
        path,
        f"INSERT INTO tombstones VALUES ('org_a', 4, '{doc}')",
        "DELETE FROM audit WHERE org_id = 'org_a' AND seq < 5",
    )
    assert broken(path) == {"org_a": 4}


async def test_checkpoints_are_of_what_is_new(store: SqliteStore, tmp_path: Path) -> None:
    file = tmp_path / "checkpoints.jsonl"
    first = Checkpoints.to_file(store, SIGNER, now, file)
    await first.tick()
    await first.tick()
    await note(store, "org_b", 10)
    await first.tick()
    await Checkpoints.to_file(store, SIGNER, now, file).tick()  # as after a restart
    told = [line.split('"seq":')[1].split(",")[0] for line in file.read_text().splitlines()]
    assert told == ["10", "3", "4"]
    await store.close()


async def test_a_checkpoint_that_a_crash_cut_off_is_none_and_harms_none(store: SqliteStore, tmp_path: Path) -> None:
    file = tmp_path / "checkpoints.jsonl"
    await Checkpoints.to_file(store, SIGNER, now, file).tick()
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    assert {one.org_id for one in checkpoints(file, SIGNER.public_key)} == {"org_a"}
    await Checkpoints.to_file(store, SIGNER, now, file).tick()
    assert {one.org_id for one in checkpoints(file, SIGNER.public_key)} == {"org_a", "org_b"}
    assert len(file.read_bytes()) == len(whole)
    await store.close()


async def test_a_checkpoint_of_another_hand_is_refused(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    file = tmp_path / "checkpoints.jsonl"
    await Checkpoints.to_file(store, Signer(bytes(32)), now, file).tick()
    await store.close()
    with pytest.raises(InvalidRequest, match="not signed by that key"):
        found(path, file)
    file.write_text(file.read_text().replace('"seq":3', '"seq":4'))
    with pytest.raises(InvalidRequest, match="not signed by that key"):
        found(path, file, Signer(bytes(32)).public_key)
    file.write_text("{}\n")
    with pytest.raises(InvalidRequest, match="line 1, is no checkpoint"):
        found(path, file)


def test_a_signature_is_of_everything_that_a_checkpoint_says() -> None:
    one = SIGNER.sign(Head("org_a", 1, "d"), AT)
    assert is_signed(one, SIGNER.public_key)
    changes: list[dict[str, object]] = [
        {"kind": "tombstone"}, {"org_id": "org_b"}, {"seq": 2}, {"digest": "e"}, {"ts": AT + timedelta(seconds=1)},
        {"public_key": Signer(bytes(32)).public_key}, {"signature": ""}, {"signature": "é"},
    ]  # fmt: skip
    for change in changes:
        assert not is_signed(one.model_copy(update=change), SIGNER.public_key), change
    for key in ("", "é", "AAAA", Signer(bytes(32)).public_key):
        assert not is_signed(one, key)


class Receiver(BaseHTTPRequestHandler):
    status = 204
    bodies: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[str]:
    Receiver.bodies, Receiver.status = [], 204
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


async def test_what_could_not_be_posted_is_posted_the_next_time(store: SqliteStore, receiver: str, path: Path) -> None:
    posting = Checkpoints.to_url(store, SIGNER, now, receiver)
    Receiver.status = 500
    with pytest.raises(Unavailable, match="answered 500"):
        await posting.tick()
    Receiver.status = 204
    await posting.tick()
    await posting.tick()
    assert [body.count(b"\n") for body in Receiver.bodies] == [2, 2]
    await store.close()


async def test_a_receiver_that_is_not_there_is_told_of(store: SqliteStore) -> None:
    with pytest.raises(Unavailable, match="cannot be posted: ConnectError"):
        await Checkpoints.to_url(store, SIGNER, now, "http://127.0.0.1:1/").tick()
    await store.close()


async def test_an_export_holds_and_what_was_done_to_it_does_not(store: SqliteStore, path: Path) -> None:
    await store.close()
    lines = list(export(stored(path)))

    def of(content: bytes) -> list[int | None]:
        return [one.flaw.seq if one.flaw else None for one in verify(exported(io.BytesIO(content)), None, None)]

    assert of(b"".join(lines)) == [None, None]
    assert of(b"".join(export(stored(path, "org_b")))) == [None]
    assert of(b"".join(lines).replace(b'"k4"', b'"k5"')) == [5, None]
    assert of(b"".join(lines)[:-10]) == [None, 3]
    assert of(b"".join(reversed(lines))) == [1, 1]
    assert of(b"\x00" * 9_000_000) == [1]
    assert of(b"".join(lines + lines[:10])) == [None, None, 1]


def test_what_is_no_database_of_ours_is_told_of(path: Path) -> None:
    with pytest.raises(NotFound, match="there is no database"):
        found(path)
    path.write_bytes(b"x" * 5000)
    with pytest.raises(Unavailable, match="cannot be read as a database"):
        found(path)


async def test_a_database_that_was_cut_off_does_not_hold(store: SqliteStore, path: Path) -> None:
    await note(store, "org_a", *range(10, 400))
    await store.close()
    os.truncate(path, os.stat(path).st_size // 2)
    with pytest.raises(Unavailable, match="cannot be read as a database"):
        found(path)


async def test_a_newer_database_is_told_of(store: SqliteStore, path: Path) -> None:
    await store.close()
    edit(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(Unavailable, match="made by a newer Enclave"):
        found(path)


async def test_heads_are_of_what_grew(store: SqliteStore) -> None:
    moment, heads = await store.heads()
    assert [(head.org_id, head.seq) for head in heads] == [("org_a", 10), ("org_b", 3)]
    assert await store.heads(moment) == (moment, [])
    await asyncio.gather(note(store, "org_b", 20, 21), note(store, "org_c", 1))
    later, heads = await store.heads(moment)
    assert {(head.org_id, head.seq) for head in heads} == {("org_b", 5), ("org_c", 1)}
    assert later > moment
    chain = await store.chain("org_b")
    assert next(head.digest for head in heads if head.org_id == "org_b") == chain[-1].digest
    await store.close()


@contextmanager
def unwritable(path: Path, medium: Path) -> Iterator[Path]:
    """A copy on a medium that takes no writes."""
    medium.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "enclave-test", medium], check=True)
    try:
        shutil.copy(path, medium)
        subprocess.run(["mount", "-o", "remount,ro", medium], check=True)
        yield medium / path.name
    finally:
        subprocess.run(["umount", medium], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="a medium that takes no writes is made by root")
async def test_a_copy_that_cannot_be_written_beside_is_examined(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    await store.close()
    with unwritable(path, tmp_path / "medium") as copy:
        assert {name: one.entries for name, one in found(copy).items()} == {"org_a": 10, "org_b": 3}
