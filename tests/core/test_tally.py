"""Counts that are told once in a while."""

import pytest

from enclave.core.tally import Tally


def test_what_is_told_is_counted_from_nothing_again() -> None:
    tally: Tally[str] = Tally()
    for what in "aab":
        tally.add(what)
    with tally.telling() as first:
        pass
    with tally.telling() as second:
        pass

    assert (first, second) == ({"a": 2, "b": 1}, {})


def test_what_was_not_told_is_told_the_next_time_with_what_came_since() -> None:
    tally: Tally[str] = Tally()
    for what in "aab":
        tally.add(what)

    def fail() -> None:
        with tally.telling() as left:
            del left["b"]
            tally.add("a")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    with tally.telling() as again:
        pass

    assert again == {"a": 3}


def test_so_many_things_are_told_apart() -> None:
    tally: Tally[int] = Tally(most=2)
    for what in (1, 2, 3, 1):
        tally.add(what)
    with tally.telling() as found:
        pass

    assert found == {1: 2, 2: 1}
