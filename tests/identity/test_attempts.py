"""Counting attempts, also of those who make up more than can be told apart."""

import pytest

from enclave.contracts.errors import QuotaExceeded
from enclave.identity.attempts import MAX_TOLD_APART, Attempts
from tests.identity.test_authority import Clock

MOST, SECONDS = 5, 300.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def attempts(clock: Clock) -> Attempts:
    return Attempts(MOST, SECONDS, lambda: clock().timestamp())


def taken(attempts: Attempts, key: str, wanted: int = MOST + 1) -> int:
    """How many of these attempts are let pass."""
    for count in range(wanted):
        try:
            attempts.take(key)
        except QuotaExceeded:
            return count
    return wanted


def flood(attempts: Attempts, name: str, count: int = MAX_TOLD_APART, each: int = 1) -> None:
    for number in range(count):
        taken(attempts, f"{name} {number}", each)


def test_there_are_so_many_in_a_window(attempts: Attempts, clock: Clock) -> None:
    assert taken(attempts, "a") == MOST
    clock.advance(SECONDS)
    assert taken(attempts, "a") == MOST


@pytest.mark.parametrize("had", range(1, MOST + 1))
def test_who_makes_up_keys_gets_no_attempt_more_at_another(attempts: Attempts, had: int) -> None:
    taken(attempts, "victim", had)
    flood(attempts, "first", 3 * MAX_TOLD_APART)

    assert had + taken(attempts, "victim") <= MOST


def test_nor_by_trying_each_that_they_made_up_twice(attempts: Attempts) -> None:
    flood(attempts, "first", each=2)
    tried = 0
    for turn in range(20):
        tried += taken(attempts, "victim", 1)
        flood(attempts, str(turn), MAX_TOLD_APART // 10)

    assert tried <= MOST


def test_nobody_new_is_locked_out_by_it(attempts: Attempts, clock: Clock) -> None:
    flood(attempts, "first", 2 * MAX_TOLD_APART, each=MOST)
    assert taken(attempts, "new") >= 1
    clock.advance(SECONDS)
    assert taken(attempts, "newer") == MOST


def test_what_is_kept_is_bounded(attempts: Attempts) -> None:
    flood(attempts, "first", 2 * MAX_TOLD_APART)

    assert len(attempts._windows) <= MAX_TOLD_APART
