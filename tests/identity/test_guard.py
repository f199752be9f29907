"""Whom a count is of, and whom it binds."""

from datetime import UTC, datetime

import pytest

from enclave.contracts.errors import QuotaExceeded
from enclave.identity.guard import MAX_OF_ADDRESS, MAX_OF_PAIR, Guard, site


@pytest.mark.parametrize(
    ("address", "whose"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff::2", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::1", "2001:db8:0:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_an_address_stands_for_who_has_it(address: str, whose: str) -> None:
    assert site(address) == whose


def test_who_has_a_whole_network_of_addresses_is_counted_once() -> None:
    guard = Guard(lambda: datetime.now(UTC))
    for number in range(MAX_OF_PAIR):
        guard.take(f"2001:db8::{number}", "ada")
    with pytest.raises(QuotaExceeded):
        guard.take("2001:db8::ffff", "ada")
    guard.take("2001:db8:1::1", "ada")


def test_who_signed_in_here_is_not_bound_by_what_others_guess_from_the_same_address() -> None:
    guard = Guard(lambda: datetime.now(UTC))
    guard.take("192.0.2.1", "ada")
    guard.passed("192.0.2.1", "ada")
    for number in range(MAX_OF_ADDRESS):
        guard.take("192.0.2.1", f"u{number}")
    with pytest.raises(QuotaExceeded):
        guard.take("192.0.2.1", "one more")
    guard.take("192.0.2.1", "ada")
