"""What one org uses at the moment, and whether it may have more: kept in memory, so that asking costs no read."""

import math
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Final

from enclave.contracts.errors import QuotaExceeded
from enclave.contracts.tenancy import MAX_CREATES, Meter, OrgPolicy, OrgUsage, Quotas
from enclave.contracts.wire import wire_name
from enclave.core.policy import Ceiling
from enclave.core.session import UNSETTLED, Change
from enclave.core.tenancy import Allowance
from enclave.core.usage import used_by
from enclave.store.base import Standing

MINUTE: Final = 60.0
_IDLE_SECONDS: Final = 600.0
_FILES_SECONDS: Final = 60.0
"""How often files are looked through for those that were kept for long enough."""

_SAID: Final = {
    "concurrent_sessions": "concurrent sessions run; wait until one ends",
    "creates_per_minute": "sessions of this minute are created; wait and retry",
    "cpu_seconds_per_day": "CPU seconds of this day are used; the day ends at 00:00 UTC",
    "egress_bytes_per_day": "bytes of this day were sent and received; the day ends at 00:00 UTC",
    "stored_bytes": "bytes of files are kept; tear down sessions that left some, or wait until they are old enough",
}


class Account:
    """One org. `terms` are None where it was given none; whoever replaces them or `policy` has written them before.

    What is used is what was written when the org was first asked for, and every change that was durable since.
    """

    def __init__(self, standing: Standing, now: datetime) -> None:
        self.terms = standing.terms
        self.policy = standing.policy
        self._used = standing.used
        self._running: set[str] = set()
        self._creates: deque[float] = deque(maxlen=MAX_CREATES)
        self._asked = now.timestamp()
        self._compiled: tuple[OrgPolicy, OrgPolicy, Allowance] | None = None

    def allowance(self, floor: OrgPolicy, ceiling: Ceiling) -> Allowance:
        """What its sessions may have under a floor, worked out once for each pair of policies."""
        known = self._compiled
        if known is None or known[0] is not floor or known[1] is not self.policy:
            known = self._compiled = (floor, self.policy, Allowance.of(ceiling, floor, self.policy))
        return known[2]

    def check(self, quotas: Quotas, now: datetime, stored: int) -> None:
        """Pass if one more session may be created. Raises QuotaExceeded."""
        self._asked = now.timestamp()
        for quota, used in self._uses(now, stored):
            limit = getattr(quotas, quota)
            if limit is not None and used >= limit:
                raise QuotaExceeded(
                    f"{used:.15g} of {limit:.15g} {_SAID[quota]}",
                    retry_after=self._wait(quota, limit, now),
                    quota=wire_name(quota),
                )

    def enter(self, session_id: str, now: datetime) -> None:
        """A session was accepted."""
        self._running.add(session_id)
        self._creates.append(now.timestamp())

    def leave(self, session_id: str) -> None:
        """Nothing more will come of a session. Idempotent."""
        self._running.discard(session_id)

    def observe(self, change: Change) -> None:
        """A change of one of its sessions is durable."""
        if used := used_by(change):
            self._used = self._used.plus(used)
        if change.session.phase not in UNSETTLED:
            self.leave(change.session.id)

    def usage(self, quotas: Quotas, now: datetime, stored: int) -> OrgUsage:
        """What it uses of each quota."""
        self._asked = now.timestamp()
        meters = {quota: Meter(used=used, limit=getattr(quotas, quota)) for quota, used in self._uses(now, stored)}
        return OrgUsage(**meters, resets_at=_midnight(now))

    def is_idle(self, now: datetime) -> bool:
        """Whether nothing would be lost by reading it anew."""
        return not self._running and now.timestamp() - self._asked > _IDLE_SECONDS

    def _uses(self, now: datetime, stored: int) -> Iterator[tuple[str, float]]:
        """How much is used of each quota, in the order in which they are told of."""
        yield "concurrent_sessions", len(self._running)
        yield "creates_per_minute", self._created(now.timestamp())
        self._used = self._used.on(now.astimezone(UTC).date())
        yield "cpu_seconds_per_day", self._used.cpu_seconds
        yield "egress_bytes_per_day", self._used.egress_bytes
        yield "stored_bytes", stored

    def _created(self, now: float) -> int:
        # A clock that was set back leaves moments that are still to come, which would keep the window shut until then.
        while self._creates and not now - MINUTE < self._creates[0] <= now:
            self._creates.popleft()
        return len(self._creates)

    def _wait(self, quota: str, limit: float, now: datetime) -> float:
        match quota:
            case "concurrent_sessions":
                return 1.0
            case "creates_per_minute":
                return self._until_created(int(limit), now.timestamp())
            case "stored_bytes":
                return _FILES_SECONDS
            case _:
                return float(math.ceil((_midnight(now) - now).total_seconds()))

    def _until_created(self, limit: int, now: float) -> float:
        # Of a quota that was lowered more than one has to grow old.
        return self._creates[len(self._creates) - limit] + MINUTE - now if limit else MINUTE


def _midnight(now: datetime) -> datetime:
    day = now.astimezone(UTC).date() + timedelta(days=1)
    return datetime.combine(day, time(), UTC)
