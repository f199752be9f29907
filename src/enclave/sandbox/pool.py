"""How many sandboxes to keep ready: more when they ran out, fewer when they were not needed for a while."""

from collections import deque
from dataclasses import dataclass
from typing import Final

from enclave.sandbox.slot import Shape, Slot

_FEW: Final = 4
_AT_ONCE: Final = 1
SHRINK_SECONDS: Final = 20.0
"""How long a surplus must last before some of it is given up."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The least and the most to keep ready of one language."""

    least: int
    most: int


class Demand:
    """The depth of one pool. It doubles when a claim finds nothing, and sinks by a quarter when half was never used."""

    def __init__(self, bounds: Bounds, now: float) -> None:
        self._bounds = bounds
        self._lowest = bounds.least
        self._since = now
        self.depth = bounds.least

    def claimed(self, left: int) -> None:
        """One was taken, and `left` are ready still."""
        self._lowest = min(self._lowest, left)

    def missed(self, now: float) -> None:
        """One was wanted and none was ready."""
        if self._bounds.most > 0:
            self.depth = min(self._bounds.most, max(1, self.depth * 2))
        self._rest(now, 0)

    def review(self, now: float) -> None:
        """Look back over a while: sink if half of what was kept was never taken."""
        if now - self._since < SHRINK_SECONDS:
            return
        if self._lowest * 2 >= self.depth:
            self.depth = max(self._bounds.least, self.depth - self.depth // 4)
        self._rest(now, self.depth)

    @property
    def review_at(self) -> float | None:
        """When to look back next; None while the pool is as small as it gets."""
        return self._since + SHRINK_SECONDS if self.depth > self._bounds.least else None

    def _rest(self, now: float, lowest: int) -> None:
        self._since, self._lowest = now, lowest


class Pool:
    """The sandboxes of one language that wait, and those being built to wait."""

    def __init__(self, shape: Shape, bounds: Bounds, now: float) -> None:
        self.shape = shape
        self.building = 0
        self._ready: deque[Slot] = deque()
        self._demand = Demand(bounds, now)

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def wanting(self) -> bool:
        """Whether one more should be built; those being built compete with the programs that run."""
        return self.building < _AT_ONCE and len(self._ready) + self.building < self._demand.depth

    @property
    def few(self) -> bool:
        """Whether so few are left that building cannot wait for a quiet moment."""
        return len(self._ready) * _FEW < self._demand.depth

    @property
    def review_at(self) -> float | None:
        """When to call `review` next."""
        return self._demand.review_at

    def take(self, now: float) -> Slot | None:
        """One that is ready; None, and a greater depth from now on, if there is none."""
        while self._ready:
            taken = self._ready.popleft()
            if not taken.reaped:
                self._demand.claimed(len(self._ready))
                return taken
        self._demand.missed(now)
        return None

    def built(self, slot: Slot) -> None:
        """One that was being built is ready."""
        self.building -= 1
        self._ready.append(slot)

    def lost(self, slot: Slot) -> None:
        """One that nobody had taken has died."""
        if slot.ready:
            self._ready.remove(slot)
        else:
            self.building -= 1

    def review(self, now: float) -> list[Slot]:
        """Those that are no longer worth keeping; they are still counted until they are lost."""
        self._demand.review(now)
        return list(self._ready)[self._demand.depth :]
