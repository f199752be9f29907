"""What a change of a session uses of its org's day, told in one place for what is stored and what is held in memory."""

from dataclasses import dataclass, replace
from datetime import UTC, date
from typing import Self

from enclave.contracts.audit import EgressClosed, ServiceBindingInvoked
from enclave.core.session import UNSETTLED, Change


@dataclass(frozen=True, slots=True)
class Used:
    """What an org used on a day of UTC. Bytes are those sent and those received, together."""

    day: date
    cpu_seconds: float = 0.0
    egress_bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.cpu_seconds or self.egress_bytes)

    def on(self, day: date) -> Self:
        """What is used on a day: nothing yet, if it is a later one."""
        return self if day <= self.day else replace(self, day=day, cpu_seconds=0.0, egress_bytes=0)

    def plus(self, more: Self) -> Self:
        """With more of the same day or a later one; of an earlier one it is nothing to this."""
        now = self.on(more.day)
        if more.day < now.day:
            return now
        cpu_seconds, egress_bytes = now.cpu_seconds + more.cpu_seconds, now.egress_bytes + more.egress_bytes
        return replace(now, cpu_seconds=cpu_seconds, egress_bytes=egress_bytes)


def used_by(change: Change) -> Used:
    """What a change uses: the CPU time of a program that it brings to its end, and what closed connections carried.

    A session is counted whole, on the day on which it ends, and a connection on the day on which it is told.
    """
    day = change.events[-1].ts.astimezone(UTC).date()
    carried = sum(
        event.sent_bytes + event.received_bytes
        for event in change.events
        if isinstance(event, EgressClosed | ServiceBindingInvoked)
    )
    return Used(day, _cpu_seconds(change), carried)


def _cpu_seconds(change: Change) -> float:
    settles = change.before in UNSETTLED and change.session.phase not in UNSETTLED
    result = change.session.result if settles else None
    return (result.usage.cpu_seconds or 0.0) if result is not None else 0.0
