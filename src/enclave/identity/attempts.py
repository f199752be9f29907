"""How often something may be tried."""

from collections.abc import Callable, Hashable
from typing import Final

from enclave.contracts.errors import QuotaExceeded

MAX_TOLD_APART: Final = 10_000


class Attempts:
    """Counts attempts of each key in windows of time, for a bounded number of keys.

    Where there are more, those with the fewest attempts are forgotten together, and until their windows are over a key
    that is new counts as having had as many: so whoever makes up keys without end gets no attempt more at any of them,
    and takes one from all new keys for each `MAX_TOLD_APART` that they spend, but never the last.
    """

    def __init__(self, most: int, seconds: float, now: Callable[[], float]) -> None:
        self._most = most
        self._seconds = seconds
        self._now = now
        self._windows: dict[Hashable, tuple[float, int]] = {}
        self._forgotten = (0.0, 0)

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
        if len(self._windows) >= MAX_TOLD_APART:
            self._forget(now)
        until, had = self._forgotten
        return now + self._seconds, min(had, self._most - 1) if until > now else 0

    def _forget(self, now: float) -> None:
        live = {key: window for key, window in self._windows.items() if window[0] > now}
        # Many at once: finding them takes a look at all.
        fewest = sorted(live, key=lambda key: live[key][1])[: max(0, len(live) - MAX_TOLD_APART * 9 // 10)]
        if fewest:
            self._forgotten = (max(live[key][0] for key in fewest), live[fewest[-1]][1])
        for key in fewest:
            del live[key]
        self._windows = live
