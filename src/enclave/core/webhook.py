"""Webhooks by the Standard Webhooks specification: what is said, how it is signed, and when it is tried again."""

import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, cast

from enclave.contracts.errors import NotFound
from enclave.contracts.sessions import Phase, Session
from enclave.contracts.webhooks import Omitted, WebhookMessage

MAX_BODY_BYTES: Final = 256 * 1024
"""The largest message that is sent whole."""

SECRET_BYTES: Final = 32
"""Standard Webhooks, "Signature scheme": 24 to 64 random bytes."""

OVERLAP: Final = timedelta(hours=24)
"""How long a secret that was replaced still signs."""

MAX_SECRETS: Final = 8
"""The most secrets that sign at once; what is rotated more often loses the oldest."""

DELAYS: Final = (5.0, 30.0, 120.0, 600.0, 3600.0, 10800.0, 28800.0, 43200.0)
"""The seconds before each further attempt; after the last, which comes a day after the first, it is given up."""

JITTER: Final = 0.2
"""The most that a delay is longer or shorter, as a part of it."""

MAX_RETRY_AFTER_SECONDS: Final = 3600.0
"""The longest wait that a receiver can ask for."""

ATTEMPT_SECONDS: Final = 15.0
"""How long one attempt may take, from the look-up of the name to the head of the answer."""

GONE: Final = 410
"""The status by which a receiver says that it wants no more (Standard Webhooks, "Delivery success and failure")."""

_ID: Final = re.compile(r"msg_([0-9a-z]{26})_([a-z_]{6,9})\Z")
_PREFIX: Final = "whsec_"
_BULKY: Final = ("result.result", "result.stdout", "result.stderr")


def delivery_id(session_id: str, phase: Phase) -> str:
    """The `webhook-id` of a session's end: the same however often it is sent."""
    return f"msg_{session_id.removeprefix('ses_')}_{phase.value}"


def session_of_delivery(text: str) -> tuple[str, str]:
    """The session that an id is of, and the phase. Raises NotFound for what is no id."""
    if (found := _ID.match(text)) is None:
        raise NotFound
    return f"ses_{found[1]}", found[2]


def body(session: Session, phase: Phase) -> bytes:
    """The message that a session has ended in a phase, however it moved since."""
    ended = session.model_copy(update={"phase": phase})
    message = WebhookMessage.model_validate(
        {"type": f"session.{phase.value}", "timestamp": session.finished_at, "data": ended}
    )
    if not _is_bulky(session) and len(whole := message.model_dump_json().encode()) <= MAX_BODY_BYTES:
        return whole
    cut = message.model_copy(update={"omitted": cast("tuple[Omitted, ...]", _BULKY)})
    return cut.model_dump_json(exclude={"data": {"result": {"result", "stdout", "stderr"}}}).encode()


def _is_bulky(session: Session) -> bool:
    # Not worth being written out only to be left out.
    return session.result is not None and len(session.result.stdout) + len(session.result.stderr) > MAX_BODY_BYTES


def secret_of(raw: bytes) -> str:
    """A secret as receivers are given it."""
    return _PREFIX + b64encode(raw).decode()


def signatures(secrets: Iterable[str], message_id: str, at: datetime, content: bytes) -> dict[str, str]:
    """The headers that a message is verified by, with a signature of each secret."""
    seconds = str(int(at.timestamp()))
    signed = b".".join((message_id.encode(), seconds.encode(), content))
    macs = [hmac.digest(b64decode(secret.removeprefix(_PREFIX)), signed, "sha256") for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": seconds,
        "webhook-signature": " ".join(f"v1,{b64encode(mac).decode()}" for mac in macs),
    }


def is_delivered(status: int | None) -> bool:
    """Whether the receiver took it."""
    return status is not None and 200 <= status < 300


def next_attempt(attempts: int, at: datetime, chance: float, retry_after: float | None = None) -> datetime | None:
    """When what failed `attempts` times is tried again, None if it is given up; `chance` is from 0 to 1."""
    if attempts > len(DELAYS):
        return None
    delay = DELAYS[attempts - 1] * (1 + JITTER * (2 * chance - 1))
    return at + timedelta(seconds=max(delay, min(retry_after or 0.0, MAX_RETRY_AFTER_SECONDS)))
