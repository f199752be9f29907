"""Callers who were refused for what they may: counted, and told in their org's trail as one now and then."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from secrets import token_hex
from typing import Literal

from enclave.contracts.audit import AccessRefused, AuditEvent
from enclave.contracts.errors import Forbidden, PolicyForbids
from enclave.contracts.identity import Principal
from enclave.contracts.operations import Operation
from enclave.core.tally import Tally

Reason = Literal["scope", "policy"]
Refused = tuple[str, str, str, Reason]
"""Org, actor, operation and reason."""
Sink = Callable[[str, AuditEvent], Awaitable[object]]
"""Adds an event to its org's chain, once for each key. Raises Unavailable."""


class Refusals:
    """Calls that were refused and not yet told of."""

    def __init__(self) -> None:
        self._calls: Tally[Refused] = Tally()

    def note(self, principal: Principal, operation: Operation, error: Forbidden) -> None:
        """A call was refused."""
        reason: Reason = "policy" if isinstance(error, PolicyForbids) else "scope"
        self._calls.add((principal.org_id, principal.user_id, operation.name, reason))

    async def tell(self, sink: Sink, at: datetime) -> None:
        """Tell of what was counted. Call it now and then. Raises Unavailable, and tells of the rest the next time."""
        with self._calls.telling() as left:
            for what in tuple(left):
                await sink(token_hex(16), _told(what, at, left[what]))
                del left[what]


def _told(what: Refused, at: datetime, count: int) -> AccessRefused:
    org_id, actor, operation, reason = what
    return AccessRefused(ts=at, org_id=org_id, actor=actor, operation=operation, reason=reason, count=count)
