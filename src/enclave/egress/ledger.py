"""What is told of a session's attempts: each as it happens while they are few, and summed up once they are many.

A program may try a million connections; an audit trail must neither lose that it did nor be filled by it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

SINGLY: Final = 64
"""How many attempts of a session are told one by one."""
AT_ONCE: Final = 16
"""How many sums are told at one time; what is beyond is summed up under one."""
MOST: Final = 1000
"""How many of both a session may take of its org's trail before only the last sum remains."""
OTHERS: Final = "(others)"

Protocol = Literal["tcp", "udp", "dns"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Something a session tried. `port` 0 where there is none; `name` is the host's, where a rule on names was asked.

    `ev` is `allowed`, `denied` or `closed`; only what is closed has bytes and seconds.
    """

    ev: Literal["allowed", "denied", "closed"]
    target: str
    port: int = 0
    protocol: Protocol = "tcp"
    name: str | None = None
    rule: str | None = None
    why: str = ""
    count: int = 1
    sent: int = 0
    received: int = 0
    seconds: float = 0.0

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two attempts the same to a reader."""
        return (self.ev, self.target, self.port, self.protocol, self.name, self.rule, self.why)

    def closed(self, sent: int = 0, received: int = 0, seconds: float = 0.0, why: str = "") -> "Attempt":
        """The end of what was allowed."""
        return replace(self, ev="closed", sent=sent, received=received, seconds=round(seconds, 6), why=why)

    def with_another(self, other: "Attempt") -> "Attempt":
        """Both as one."""
        return replace(
            self,
            count=self.count + other.count,
            sent=self.sent + other.sent,
            received=self.received + other.received,
            seconds=max(self.seconds, other.seconds),
        )

    def as_other(self) -> "Attempt":
        """Without what tells it from others."""
        why = "too many to be told one by one"
        return replace(self, target=OTHERS, port=0, protocol="tcp", name=None, rule=None, why=why)

    def to_fields(self) -> Mapping[str, Any]:
        """As JSON can carry it."""
        return {name: getattr(self, name) for name in self.__slots__}


class Ledger:
    """The attempts of one session; call `settle` now and then, and at its end."""

    def __init__(self, tell: Callable[[Attempt], None]) -> None:
        self._tell = tell
        self._told = 0
        self._sums: dict[tuple[object, ...], Attempt] = {}

    def enter(self, attempt: Attempt) -> None:
        """Take note of an attempt."""
        if self._told < SINGLY:
            self._told += 1
            self._tell(attempt)
            return
        key = attempt.key
        if key not in self._sums and len(self._sums) >= AT_ONCE:
            attempt = attempt.as_other()
            key = attempt.key
        self._sums[key] = self._sums[key].with_another(attempt) if key in self._sums else attempt

    def settle(self, *, last: bool = False) -> None:
        """Tell what was summed up."""
        if not last and self._told >= MOST:
            return
        for attempt in self._sums.values():
            self._told += 1
            self._tell(attempt)
        self._sums.clear()
