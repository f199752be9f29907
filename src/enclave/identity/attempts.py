"""How often something may be tried."""

from collections.abc import Callable, Hashable
from typing import Final

from enclave.contracts.errors import QuotaExceeded

MAX_TOLD_APART: Final = 10_000


class Attempts:
    """Counts attempts of each key in windows of time, for a bounded number of keys: the oldest window goes first."""

    def __init__(self, most: int, seconds: float, now: Callable[[], float]) -> None:
        self._most = most
        self._seconds = seconds
        self._now = now
        self._windows: dict[Hashable, tuple[float, int]] = {}

    def take(self, key: Hashable) -> None:
        """Count one, before it is made. Raises QuotaExceeded, saying for how long, if there were enough."""
        ends, count = self._window(key)
        if count >= self._most:
            raise QuotaExceeded("too many sign-ins failed; wait and retry", retry_after=ends - self._now())
        self._windows[key] = (ends, count + 1)

    def give_back(self, key: Hashable) -> None:
        """One that was counted succeeded."""
        ends, count = self._window(key)
        self._windows[key] = (ends, max(0, count - 1))

    def _window(self, key: Hashable) -> tuple[float, int]:
        now = self._now()
        ends, count = self._windows.get(key, (0.0, 0))
        if ends > now:
            return ends, count
        self._windows.pop(key, None)
        while len(self._windows) >= MAX_TOLD_APART:
            del self._windows[next(iter(self._windows))]
        return now + self._seconds, 0
