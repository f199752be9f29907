"""Webhooks: what is posted when a session is over, what it is signed with, and what became of it."""

from typing import Annotated, Literal

from pydantic import Field

from enclave.contracts.event import Event
from enclave.contracts.sessions import Phase, Session
from enclave.contracts.wire import SessionId, Timestamp, Wire

DeliveryId = Annotated[str, Field(pattern=r"^msg_[0-9a-z]{26}_[a-z_]{6,9}$")]
DeliveryState = Literal["pending", "delivered", "failed"]
Omitted = Literal["result.result", "result.stdout", "result.stderr"]


def _empty(value: object) -> bool:
    return not value


class WebhookMessage(Wire):
    """The body of a webhook, by the Standard Webhooks specification.

    `data` is the session as it was when it ended, its result included. Of a message that would be larger than 256 KiB,
    `omitted` names what was left out of `data`; it is there only then.
    """

    type: Literal["session.succeeded", "session.failed", "session.killed", "session.torn_down"]
    timestamp: Timestamp
    data: Session
    omitted: tuple[Omitted, ...] = Field(default=(), exclude_if=_empty)


class WebhookSecret(Wire):
    """What an org's webhooks are signed with from now on: `secret` is shown this once. The one before it signs beside
    it until `previous_until`, null if there was none."""

    secret: str = Field(repr=False)
    created_at: Timestamp
    previous_until: Timestamp | None


class Delivery(Wire):
    """A message and what became of it; `id` is its `webhook-id`.

    Of where it goes `host` alone is shown. `last_status` is what the receiver last answered, null if it did not, and
    `last_error` why that was no delivery. A `failed` one is not tried again unless it is asked for.
    """

    id: DeliveryId
    session_id: SessionId
    phase: Phase
    host: str
    state: DeliveryState
    attempts: int
    created_at: Timestamp
    last_attempt_at: Timestamp | None
    last_status: int | None
    last_error: str | None
    next_attempt_at: Timestamp | None
    delivered_at: Timestamp | None


class WebhookSecretRotated(Event):
    """The org's webhooks are signed with a new secret; the one before it signs beside it until `previous_until`. It
    belongs to no session."""

    type: Literal["webhook_secret_rotated"] = "webhook_secret_rotated"
    session_id: None = None
    previous_until: Timestamp | None


class WebhookDelivered(Event):
    """The webhook of `about` was taken by its receiver. It comes after that session's end, so it is in the org's trail
    and not in the session's."""

    type: Literal["webhook_delivered"] = "webhook_delivered"
    session_id: None = None
    delivery_id: DeliveryId
    about: SessionId
    host: str
    attempts: int
    status: int


class WebhookFailed(Event):
    """The webhook of `about` was given up, after so many attempts. It belongs to no session."""

    type: Literal["webhook_failed"] = "webhook_failed"
    session_id: None = None
    delivery_id: DeliveryId
    about: SessionId
    host: str
    attempts: int
    status: int | None
    error: str


class WebhookRedelivered(Event):
    """The webhook of `about` is to be sent again. It belongs to no session."""

    type: Literal["webhook_redelivered"] = "webhook_redelivered"
    session_id: None = None
    delivery_id: DeliveryId
    about: SessionId
