"""Where the sign-in is kept, and what is refused of it."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from enclave.contracts.errors import Unauthenticated, Unavailable
from enclave.contracts.identity import Role
from enclave.sdk.credential import Target, resolve, resolve_site
from enclave.sdk.sign_in import AHEAD, SignIn, SignInFile

SITE = "https://there.example"


def sign_in(base_url: str = SITE, /, **changes: object) -> SignIn:
    """A sign-in whose token holds, changed."""
    later = datetime.now(UTC) + timedelta(minutes=15)
    return SignIn(
        id="a", base_url=base_url, email="ada@example.org", org_id="org_1", role=Role.ADMIN,
        token="jwt-1", expires_at=later, refresh_token="er_1_one",
    ).model_copy(update=changes)  # fmt: skip


ENDED = {"expires_at": datetime(2026, 1, 1, tzinfo=UTC)}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment with nothing in it but an empty home."""
    for name in ("ENCLAVE_BASE_URL", "ENCLAVE_API_KEY", "ENCLAVE_OPERATOR_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ENCLAVE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def _kept(value: SignIn | None = None) -> SignInFile:
    file = SignInFile()
    lock = file.claim()
    assert lock is not None
    file.keep(value or sign_in())
    file.release(lock)
    return file


def test_it_is_kept_whole_and_for_its_user_alone(home: Path) -> None:
    before = os.umask(0)
    try:
        file = _kept()
    finally:
        os.umask(before)

    assert file.read() == sign_in(**{"expires_at": file.read().expires_at})  # type: ignore[union-attr]
    assert [oct(path.stat().st_mode & 0o777) for path in (home, file.path, home / "sign-in.lock")] == [
        "0o700", "0o600", "0o600",
    ]  # fmt: skip
    assert sorted(path.name for path in home.iterdir()) == ["sign-in.json", "sign-in.lock"]


def test_its_tokens_are_in_no_repr() -> None:
    assert "jwt-1" not in repr(sign_in()) + repr(Target(SITE, sign_in=sign_in()))
    assert "er_1" not in repr(sign_in()) + repr(Target(SITE, sign_in=sign_in()))


def test_a_token_is_over_a_little_ahead() -> None:
    near = datetime.now(UTC) + AHEAD

    assert not sign_in(expires_at=near + timedelta(minutes=1)).ends
    assert sign_in(expires_at=near).ends


def test_a_sign_in_comes_after_the_environment_and_before_what_a_server_left(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = _kept().read()
    (home / "credentials.json").write_text('{"baseUrl": "http://127.0.0.1:9000", "apiKey": "ek_left"}')

    assert resolve() == resolve(f"{SITE}/") == Target(SITE, sign_in=kept)
    assert resolve("http://127.0.0.1:9000") == Target("http://127.0.0.1:9000", "ek_left")
    assert resolve(token="jwt") == Target("http://127.0.0.1:9000", "jwt")
    monkeypatch.setenv("ENCLAVE_API_KEY", "ek_env")
    assert resolve(SITE) == Target(SITE, "ek_env")
    monkeypatch.delenv("ENCLAVE_API_KEY")
    monkeypatch.setenv("ENCLAVE_BASE_URL", "https://elsewhere.example")
    with pytest.raises(Unauthenticated, match="elsewhere"):
        resolve()
    monkeypatch.delenv("ENCLAVE_BASE_URL")
    SignInFile().keep(None)
    assert resolve() == Target("http://127.0.0.1:9000", "ek_left")


def test_one_signs_in_to_where_one_was_signed_in_last(home: Path) -> None:
    assert resolve_site() == "http://127.0.0.1:8088"
    _kept()
    assert (resolve_site(), resolve_site("http://x/")) == (SITE, "http://x")


def test_what_others_could_read_or_is_not_ours_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _kept()
    file.path.chmod(0o640)
    with pytest.raises(Unauthenticated, match=r"others can read .*sign-in\.json"):
        resolve()
    file.path.chmod(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(Unauthenticated, match="not yours"):
        resolve()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"token": "secret-token"}', "\xff", "null"])
def test_a_damaged_file_is_named_and_not_shown(home: Path, text: str) -> None:
    file = _kept()
    file.path.write_bytes(text.encode("latin-1"))

    with pytest.raises(Unauthenticated, match=r"sign-in\.json is damaged: run `enclave login`") as caught:
        resolve()
    assert "secret-token" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_what_is_no_file_is_refused_and_not_waited_for(home: Path) -> None:
    home.mkdir(0o700)
    os.mkfifo(home / "sign-in.json", 0o600)
    with pytest.raises(Unauthenticated, match="not a file"):
        resolve()


def test_nothing_is_put_where_others_may_write(home: Path) -> None:
    home.mkdir()
    home.chmod(0o777)
    with pytest.raises(Unavailable, match="not yours alone"):
        SignInFile().claim()


def test_one_at_a_time_holds_the_lock_and_a_fork_holds_it_no_longer_than_its_parent(home: Path) -> None:
    file = SignInFile()
    lock = file.claim()
    assert lock is not None
    assert file.claim() is None
    wait, go_on = os.pipe()
    if (child := os.fork()) == 0:
        os.close(go_on)
        os.read(wait, 1)
        os._exit(0)
    file.release(lock)
    again = file.claim()
    os.close(go_on)
    os.close(wait)
    os.waitpid(child, 0)

    assert again is not None
    file.release(again)
