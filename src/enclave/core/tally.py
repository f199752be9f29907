"""Counts of what happens too often to be told each time."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

MAX_TOLD_APART: Final = 10_000

K = TypeVar("K", bound=Hashable)


class Tally(Generic[K]):
    """How often each thing happened since it was told, for a bounded number of things: one too many is not counted."""

    def __init__(self, most: int = MAX_TOLD_APART) -> None:
        self._most = most
        self._counts: dict[K, int] = {}

    def add(self, what: K, count: int = 1) -> None:
        """It happened."""
        if what in self._counts or len(self._counts) < self._most:
            self._counts[what] = self._counts.get(what, 0) + count

    @contextmanager
    def telling(self) -> Iterator[dict[K, int]]:
        """What happened, and how often; take out of it what is told one by one. If the telling fails, what is left is
        there the next time."""
        left, self._counts = self._counts, {}
        try:
            yield left
        except BaseException:
            for what, count in left.items():
                self.add(what, count)
            raise
