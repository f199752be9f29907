"""How deep a pool is, by what was asked of it."""

from hypothesis import given
from hypothesis import strategies as st

from enclave.sandbox.pool import SHRINK_SECONDS, Bounds, Demand


def test_it_doubles_when_it_runs_out_up_to_the_most() -> None:
    demand = Demand(Bounds(16, 100), now=0.0)

    depths = []
    for _ in range(4):
        demand.missed(1.0)
        depths.append(demand.depth)

    assert depths == [32, 64, 100, 100]


def test_it_sinks_when_half_was_never_taken_and_not_below_the_least() -> None:
    demand = Demand(Bounds(16, 64), now=0.0)
    for _ in range(2):
        demand.missed(0.0)

    depths, now = [], 0.0
    while demand.review_at is not None:
        now += SHRINK_SECONDS
        demand.review(now)
        depths.append(demand.depth)

    assert depths == [64, 48, 36, 27, 21, 16]
    assert demand.review_at is None


def test_it_stays_while_it_is_used() -> None:
    demand = Demand(Bounds(16, 64), now=0.0)
    demand.missed(0.0)

    demand.claimed(left=5)
    demand.review(SHRINK_SECONDS)

    assert demand.depth == 32


def test_an_operator_who_wants_none_gets_none() -> None:
    demand = Demand(Bounds(0, 0), now=0.0)

    demand.missed(0.0)

    assert demand.depth == 0


@given(st.integers(0, 50), st.integers(0, 50), st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=40))
def test_it_never_leaves_its_bounds(least: int, more: int, events: list[tuple[bool, int]]) -> None:
    bounds, now = Bounds(least, least + more), 0.0
    demand = Demand(bounds, now)
    for missed, seconds in events:
        now += seconds
        demand.missed(now) if missed else demand.review(now)

        assert bounds.least <= demand.depth <= bounds.most
