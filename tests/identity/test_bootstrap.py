"""The first start, the next ones, and a home that nobody else can look into."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from enclave.contracts.errors import Unavailable
from enclave.contracts.identity import Credential, Role
from enclave.identity.authority import EmbeddedIdentity
from enclave.identity.bootstrap import bootstrap
from enclave.identity.directory import SqliteDirectory
from enclave.identity.home import private_home, secrets_of, write_private
from enclave.identity.service import Identity
from tests.identity.tokens import nowhere

URL = "http://127.0.0.1:8088"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "home"


@contextmanager
def opened(home: Path) -> Iterator[EmbeddedIdentity]:
    with closing(Identity.open(home, nowhere, now=lambda: datetime.now(UTC)).authority) as identity:
        yield identity


def start(home: Path, base_url: str = URL) -> Credential:
    with opened(home) as identity:
        return bootstrap(home, base_url, identity)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_start_leaves_an_owners_key(home: Path) -> None:
    credential = start(home)

    assert json.loads((home / "credentials.json").read_text()) == {"baseUrl": URL, "apiKey": credential.api_key}
    with opened(home) as identity:
        assert identity.identify(credential.api_key).role is Role.OWNER


def test_nobody_else_can_look_into_the_home(home: Path) -> None:
    with opened(home) as identity:
        bootstrap(home, URL, identity)
        modes = {path.name: mode(path) for path in home.iterdir()}

    names = ("credentials.json", "operator.json", "secrets.json", "identity.db", "identity.db-wal", "identity.db-shm")
    assert modes == dict.fromkeys(names, 0o600)
    assert mode(home) == 0o700


def test_a_home_that_others_can_look_into_is_closed_to_them(home: Path) -> None:
    home.mkdir(parents=True)
    home.chmod(0o755)

    private_home(home)

    assert mode(home) == 0o700


def test_a_folder_that_many_share_is_no_home_and_stays_as_it_is(home: Path) -> None:
    home.mkdir(parents=True)
    home.chmod(0o1777)

    with pytest.raises(Unavailable, match="choose another"):
        start(home)
    assert mode(home) == 0o1777


def test_later_starts_keep_the_key_and_write_nothing(home: Path) -> None:
    first = start(home)
    written = (home / "credentials.json").stat()

    assert start(home) == first
    found = (home / "credentials.json").stat()
    assert (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns) == (
        written.st_ino,
        written.st_size,
        written.st_mtime_ns,
        written.st_ctime_ns,
    )


def test_a_new_address_is_written_down_and_the_key_kept(home: Path) -> None:
    first = start(home)
    moved = start(home, "http://127.0.0.1:9999")

    assert moved == Credential(base_url="http://127.0.0.1:9999", api_key=first.api_key)
    assert Credential.model_validate_json((home / "credentials.json").read_bytes()) == moved


@pytest.mark.parametrize("lost", ["credentials.json", "identity.db", "secrets.json"])
def test_what_was_lost_is_made_anew_and_the_key_that_is_left_works(home: Path, lost: str) -> None:
    first = start(home)
    (home / lost).unlink()
    second = start(home)

    assert second.api_key != first.api_key
    with opened(home) as identity:
        assert identity.identify(second.api_key).role is Role.OWNER


def test_a_new_key_is_of_the_same_owner(home: Path) -> None:
    first = start(home)
    (home / "credentials.json").unlink()
    second = start(home)

    with opened(home) as identity:
        assert identity.identify(first.api_key).org_id == identity.identify(second.api_key).org_id


def test_a_damaged_credential_is_replaced(home: Path) -> None:
    start(home)
    (home / "credentials.json").write_text('{"baseUrl": ')

    assert start(home) == Credential.model_validate_json((home / "credentials.json").read_bytes())


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o602])
def test_secrets_that_others_can_reach_are_refused(home: Path, bits: int) -> None:
    start(home)
    (home / "secrets.json").chmod(bits)

    with pytest.raises(Unavailable, match="chmod 600"):
        start(home)


def test_damaged_secrets_are_refused_and_not_shown(home: Path) -> None:
    start(home)
    kept = json.loads((home / "secrets.json").read_text())
    (home / "secrets.json").write_text(json.dumps(kept | {"jwtSecret": "hunter2"}))

    with pytest.raises(Unavailable, match="damaged") as refused:
        start(home)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__suppress_context__


def test_secrets_are_made_once_and_not_printed(home: Path) -> None:
    private_home(home)
    secrets = secrets_of(home)

    assert secrets_of(home) == secrets
    assert secrets.jwt_secret != secrets.api_key_pepper
    assert secrets.jwt_secret not in repr(secrets)
    assert secrets.api_key_pepper not in repr(secrets)


def test_a_file_is_private_before_anything_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    genuine = os.fsync

    def watching(descriptor: int) -> None:
        seen.extend(mode(path) for path in tmp_path.iterdir())
        genuine(descriptor)

    monkeypatch.setattr(os, "fsync", watching)
    previous = os.umask(0)
    try:
        write_private(tmp_path / "secret", "text")
    finally:
        os.umask(previous)

    assert seen == [0o600, 0o600]


def test_a_new_database_is_at_no_time_open_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "chmod", lambda path, mode: None)
    previous = os.umask(0)
    try:
        SqliteDirectory.open(tmp_path / "identity.db", lambda: datetime.now(UTC)).close()
    finally:
        os.umask(previous)

    assert mode(tmp_path / "identity.db") == 0o600


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    write_private(path, "before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="No space left"):
        write_private(path, "after")

    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == {"secret": "before"}
