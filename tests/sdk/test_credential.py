"""Where a client finds its server and its key."""

import json
from pathlib import Path

import pytest

from enclave.contracts.errors import InvalidRequest, Unauthenticated
from enclave.sdk.credential import DEFAULT_BASE_URL, Target, resolve

STORED = {"baseUrl": "http://127.0.0.1:9000", "apiKey": "ek_stored"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment with nothing in it but an empty home."""
    monkeypatch.delenv("ENCLAVE_BASE_URL", raising=False)
    monkeypatch.delenv("ENCLAVE_API_KEY", raising=False)
    monkeypatch.setenv("ENCLAVE_HOME", str(tmp_path))
    return tmp_path


def _store(home: Path, text: str = json.dumps(STORED)) -> None:
    (home / "credentials.json").write_text(text)


def test_an_api_key_wins_over_a_token_and_both_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCLAVE_BASE_URL", "http://env:1")
    monkeypatch.setenv("ENCLAVE_API_KEY", "ek_env")

    assert resolve("https://given/", api_key="ek_given", token="jwt") == Target("https://given", "ek_given")
    assert resolve(token="jwt") == Target("http://env:1", "jwt")
    assert resolve() == Target("http://env:1", "ek_env")


def test_the_stored_credential_comes_last(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _store(home)
    assert resolve() == Target("http://127.0.0.1:9000", "ek_stored")

    monkeypatch.setenv("ENCLAVE_API_KEY", "ek_env")
    assert resolve() == Target("http://127.0.0.1:9000", "ek_env")


def test_a_stored_key_is_shown_to_no_other_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _store(home)

    assert resolve("http://127.0.0.1:9000/").bearer == "ek_stored"
    with pytest.raises(Unauthenticated, match="ENCLAVE_API_KEY"):
        resolve("http://127.0.0.1:9001")
    monkeypatch.setenv("ENCLAVE_BASE_URL", "https://elsewhere")
    with pytest.raises(Unauthenticated, match="https://elsewhere"):
        resolve()


def test_a_key_alone_is_for_the_server_at_the_usual_address() -> None:
    assert resolve(api_key="ek").base_url == DEFAULT_BASE_URL


def test_without_any_key_it_says_what_to_do() -> None:
    with pytest.raises(Unauthenticated, match="`enclave serve`"):
        resolve()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"baseUrl": "http://x"}'])
def test_a_useless_file_is_named(home: Path, text: str) -> None:
    _store(home, text)

    with pytest.raises(Unauthenticated, match=r"credentials\.json"):
        resolve()


@pytest.mark.parametrize(
    "address", ["localhost:8088", "ftp://x", "http://", "x", " ", "http://u:p@x", "http://x:99999", "http://[::"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(InvalidRequest, match="base URL"):
        resolve(address, api_key="k")


@pytest.mark.parametrize("key", ["ek\n", "ek 1", "\u00e9k", "ek\x00"])
def test_a_key_that_no_header_can_hold_is_refused(key: str) -> None:
    with pytest.raises(Unauthenticated, match="copied"):
        resolve(api_key=key)


def test_a_local_server_is_known_as_such() -> None:
    locals_ = ("http://localhost:1", "http://127.0.0.9", "http://[::1]:2")

    assert all(Target(address, "k").local for address in locals_)
    assert not Target("http://127.example.org", "k").local
    assert "k" not in repr(Target("http://x", "k"))
