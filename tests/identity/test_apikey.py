"""The shape of a key."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.identity.apikey import NO_HASH, ApiKey, new_api_key, parse

SECRETS = st.text("ABCXYZabcxyz0189_-", min_size=43, max_size=43)
IDS = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=16, max_size=16)


@given(IDS, SECRETS)
def test_a_key_reads_back_whatever_underscores_are_in_it(key_id: str, secret: str) -> None:
    assert parse(str(ApiKey(key_id, secret))) == ApiKey(key_id, secret)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ek_",
        f"ek_{'a' * 16}_{'A' * 42}",
        f"ek_{'a' * 16}_{'A' * 44}",
        f"ek_{'a' * 15}_{'A' * 43}",
        f"ek_{'A' * 16}_{'A' * 43}",
        f"ek_{'a' * 16}_{'A' * 42}=",
        f"ek_{'a' * 16}_{'A' * 43}\n",
        f" ek_{'a' * 16}_{'A' * 43}",
        f"EK_{'a' * 16}_{'A' * 43}",
        "ek_" + "\u0663" * 16 + "_" + "A" * 43,
    ],
)
def test_what_is_not_shaped_like_a_key_is_none(text: str) -> None:
    assert parse(text) is None


def test_new_keys_are_whole_and_differ() -> None:
    one, other = new_api_key(), new_api_key()

    assert parse(str(one)) == one
    assert one.id != other.id
    assert one.secret != other.secret


def test_a_hash_needs_both_the_secret_and_the_pepper() -> None:
    key = new_api_key()
    stored = key.hash(b"pepper")

    assert key.has_hash(stored, b"pepper")
    assert not key.has_hash(stored, b"salt")
    assert not new_api_key().has_hash(stored, b"pepper")
    assert not key.has_hash(NO_HASH, b"pepper")


def test_a_secret_is_not_printed() -> None:
    key = new_api_key()

    assert not re.search(re.escape(key.secret), repr(key))
