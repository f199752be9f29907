"""However much is attempted, and in whatever order: nothing is lost from the sums, and little is told."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.egress import ledger
from enclave.egress.ledger import AT_ONCE, MOST, OTHERS, SINGLY, Attempt, Ledger

VERDICTS = ("allowed", "denied", "closed")
SUMS = AT_ONCE + len(VERDICTS)
"""The most that one settling tells: the sums of their own, and one of all others for each verdict."""


def attempt(verdict: str = "denied", target: int = 0, **fields: Any) -> Attempt:
    return Attempt(ev=verdict, target=f"198.51.100.{target}", port=80, **fields)  # type: ignore[arg-type]


def bill(attempts: list[Attempt], verdict: str) -> tuple[int, int, int]:
    mine = [one for one in attempts if one.ev == verdict]
    return sum(one.count for one in mine), sum(one.sent for one in mine), sum(one.received for one in mine)


attempts = st.builds(
    attempt,
    st.sampled_from(VERDICTS),
    st.integers(0, 40),
    sent=st.integers(0, 9),
    received=st.integers(0, 9),
    count=st.just(1),
)
steps = st.lists(st.lists(attempts, max_size=80) | st.none(), max_size=30)


@given(steps)
@settings(deadline=None)
def test_counts_and_bytes_are_kept_whatever_the_order(taken: list[list[Attempt] | None]) -> None:
    told: list[Attempt] = []
    book = Ledger(told.append)
    entered = [one for batch in taken if batch for one in batch]

    for batch in taken:
        for one in batch or ():
            book.enter(one)
        if batch is None:
            book.settle()
    book.settle(last=True)

    for verdict in VERDICTS:
        assert bill(told, verdict) == bill(entered, verdict)


@given(st.integers(0, 400), st.integers(1, 60))
@settings(deadline=None, max_examples=30)
def test_what_is_told_is_bounded(settlings: int, targets: int) -> None:
    told: list[Attempt] = []
    book = Ledger(told.append)

    for turn in range(settlings):
        for target in range(targets):
            book.enter(attempt(VERDICTS[target % 3], turn + target))
        book.settle()
    assert len(told) < MOST + SUMS
    before = len(told)
    book.settle(last=True)

    assert len(told) - before <= SUMS
    assert sum(one.count for one in told) == settlings * targets


def test_the_first_are_told_at_once_and_the_rest_when_settled() -> None:
    told: list[Attempt] = []
    book = Ledger(told.append)

    for number in range(SINGLY + 3):
        book.enter(attempt(target=number))
        assert len(told) == min(number + 1, SINGLY)
    book.settle()
    book.settle()

    assert len(told) == SINGLY + 3
    assert {one.count for one in told} == {1}


def test_the_same_attempt_is_one_sum_and_too_many_kinds_are_one_of_others() -> None:
    told: list[Attempt] = []
    book = Ledger(told.append)
    for _ in range(SINGLY):
        book.enter(attempt())

    for number in range(2 * AT_ONCE):
        for _ in range(5):
            book.enter(attempt("closed", number, sent=2, received=3, seconds=number))
    book.settle()

    sums = told[SINGLY:]
    assert [one.count for one in sums] == [5] * AT_ONCE + [5 * AT_ONCE]
    others = sums[-1]
    assert (others.target, others.port, others.sent, others.received) == (OTHERS, 0, 10 * AT_ONCE, 15 * AT_ONCE)
    assert others.seconds == 2 * AT_ONCE - 1
    assert others.why


def test_an_end_keeps_what_was_allowed() -> None:
    allowed = attempt("allowed", name="api.example", rule="*.example")

    closed = allowed.closed(1, 2, 0.12345678, "reset")

    assert (closed.ev, closed.target, closed.name, closed.rule) == (
        "closed",
        allowed.target,
        "api.example",
        "*.example",
    )
    assert (closed.sent, closed.received, closed.seconds, closed.why) == (1, 2, 0.123457, "reset")
    assert set(closed.to_fields()) == set(ledger.Attempt.__slots__)
