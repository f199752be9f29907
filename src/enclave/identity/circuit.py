"""When to ask a service again that does not answer."""

import logging
from collections.abc import Callable
from typing import Final

FIRST_SECONDS: Final = 0.5
MOST_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class Circuit:
    """Closed while the service answers. Open after a failure: then one may try after half a second, and if that fails
    too after twice as long, up to five seconds; all others need not wait to learn that there is no answer."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._pause = 0.0
        self._next_try = 0.0
        self._trying = False

    @property
    def closed(self) -> bool:
        """Whether the service answered last."""
        return not self._pause

    @property
    def wait_seconds(self) -> float:
        """How long to wait before it may be tried."""
        return max(0.0, self._next_try - self.clock())

    def may_try(self) -> bool:
        """Whether the caller is the one to try; whoever is told so says how it went."""
        if self._trying or self.clock() < self._next_try:
            return False
        self._trying = True
        return True

    def succeeded(self) -> None:
        """The service answered."""
        if not self.closed:
            _log.warning("the identity service answers again")
        self._pause, self._trying = 0.0, False

    def failed(self, why: str) -> None:
        """It did not. Of many that fail together one counts."""
        if self.closed:
            _log.error("%s", why)
        elif not self._trying:
            return
        self._pause = min(MOST_SECONDS, self._pause * 2 or FIRST_SECONDS)
        self._next_try, self._trying = self.clock() + self._pause, False
