"""What a control plane and an identity service of its own say to each other, where no tenant hears it."""

from typing import Final, Literal

from pydantic import Field

from enclave.contracts.audit import AuditEvent
from enclave.contracts.identity import Principal
from enclave.contracts.wire import Timestamp, Wire

INTROSPECT: Final = "/internal/introspect"
EVENTS: Final = "/internal/events"

SERVICE_HEADER: Final = "enclave-service"
"""Carries the service credential beside an operation that is relayed, whose `Authorization` is the caller's own."""
CLIENT_HEADER: Final = "enclave-client"
"""The address that a relayed operation came from; it counts only beside a valid service credential."""
SERVICE_CHALLENGE: Final = 'Bearer realm="enclave-service"'
"""The `WWW-Authenticate` of a refusal that means the service credential, and not the caller's."""

MAX_CREDENTIAL_CHARS: Final = 8192
MAX_WAIT_SECONDS: Final = 30.0


class Introspect(Wire):
    """Whose credential is this?"""

    credential: str = Field(max_length=MAX_CREDENTIAL_CHARS, repr=False)


class Introspection(Wire):
    """Who is behind a credential, and until when it holds at most; one that does not hold says nothing of why.

    `principal` is the caller in their org; there is none if it is the `operator`'s credential, who acts in no org.
    """

    active: bool
    operator: bool = False
    principal: Principal | None = None
    until: Timestamp | None = None


class TakeEvents(Wire):
    """What happened since? `after` is the key of the last event that was added to its chain, and acknowledges it and
    all before it; without one nothing is acknowledged. The answer is held for `wait_seconds` while there is nothing."""

    after: str | None = None
    wait_seconds: float = Field(default=0.0, ge=0.0, le=MAX_WAIT_SECONDS)


class KeyedEvent(Wire):
    """An event for its org's chain, and the key by which one that is given twice is known."""

    key: str
    event: AuditEvent


class Events(Wire):
    """Events in their order, oldest first: those that nobody has acknowledged, or the first of them."""

    items: tuple[KeyedEvent, ...]


class IdentityHealth(Wire):
    """Whether the identity service answers, and that it is one."""

    ok: bool
    service: Literal["identity"] = "identity"
