"""Webhooks as an org's callers see them: where sessions are posted, what signs that, and what became of each."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from secrets import token_bytes
from typing import Final

from enclave.contracts.errors import Conflict, FieldProblem, InvalidRequest
from enclave.contracts.identity import Principal
from enclave.contracts.operations import LIST_DELIVERIES, REDELIVER, ROTATE_WEBHOOK_SECRET
from enclave.contracts.webhooks import Delivery, WebhookRedelivered, WebhookSecret, WebhookSecretRotated
from enclave.contracts.wire import Page
from enclave.core.access import authorize
from enclave.core.address import Network
from enclave.core.cursor import check_limit, cut, delivery_cursor, delivery_of_cursor
from enclave.core.receiver import Receiver
from enclave.core.session import Callback
from enclave.core.upstream import Malformed
from enclave.core.webhook import OVERLAP, SECRET_BYTES, secret_of, session_of_delivery
from enclave.orchestrator.record import PLATFORM
from enclave.store.base import Outbox, Signing

_TRIES: Final = 3


class Keyring:
    """What each org's webhooks are signed with; an org that has nothing yet is given it."""

    def __init__(self, signing: Signing, clock: Callable[[], datetime]) -> None:
        self._signing = signing
        self._clock = clock

    async def secrets(self, org_id: str) -> Sequence[str]:
        """What to sign with now, the newest first. Raises SecretUnreadable."""
        while not (found := await self._signing.secrets(org_id, self._clock())):
            try:
                await self._rotate(org_id, PLATFORM, None)
            except Conflict:
                continue  # somebody else was first, and theirs is found now
        return found

    async def rotate(self, org_id: str, actor: str) -> WebhookSecret:
        """A new secret, which signs from now on. Raises Conflict if others are rotated all the time."""
        for _ in range(_TRIES):
            now = self._clock()
            has_one = await self._signing.has_one(org_id)
            try:
                return await self._rotate(org_id, actor, now + OVERLAP if has_one else None)
            except Conflict:
                continue
        raise Conflict("the secret is being rotated by somebody else")

    async def _rotate(self, org_id: str, actor: str, previous_until: datetime | None) -> WebhookSecret:
        secret, now = secret_of(token_bytes(SECRET_BYTES)), self._clock()
        event = WebhookSecretRotated(ts=now, org_id=org_id, actor=actor, previous_until=previous_until)
        await self._signing.rotate(secret, event)
        return WebhookSecret(secret=secret, created_at=now, previous_until=previous_until)


class Webhooks:
    """An org's webhooks. `private` are the networks that the operator lets receivers be in; `stirred` is set when there
    may be something to send."""

    def __init__(
        self, outbox: Outbox, keyring: Keyring, clock: Callable[[], datetime], private: Sequence[Network] = ()
    ) -> None:
        self.stirred = asyncio.Event()
        self._outbox = outbox
        self._keyring = keyring
        self._clock = clock
        self._private = tuple(private)

    def receiver(self, url: str) -> Receiver:
        """The receiver that a request names. Raises InvalidRequest, which does not repeat the URL."""
        try:
            return Receiver.parse(url, self._private)
        except Malformed as error:
            problem = FieldProblem(field="webhookUrl", message=str(error))
            raise InvalidRequest("the webhook cannot be sent there", errors=(problem,)) from None

    def callback(self, session_id: str, url: str) -> Callback:
        """What is kept of where a session is to be posted. Raises InvalidRequest."""
        receiver = self.receiver(url)
        return self._outbox.seal(session_id, receiver.host, receiver.url)

    async def rotate(self, principal: Principal) -> WebhookSecret:
        """Sign the org's webhooks with a new secret, which is told this once."""
        authorize(principal, ROTATE_WEBHOOK_SECRET)
        return await self._keyring.rotate(principal.org_id, principal.user_id)

    async def list(
        self, principal: Principal, *, session_id: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> Page[Delivery]:
        """The org's webhooks of sessions that are over, newest session first; with an id of that session."""
        authorize(principal, LIST_DELIVERIES)
        check_limit(limit)
        before = delivery_of_cursor(cursor)
        found = await self._outbox.find(principal.org_id, session_id=session_id, before=before, limit=limit + 1)
        items, last = cut(found, limit)
        return Page[Delivery](items=tuple(items), next_cursor=delivery_cursor(last.session_id) if last else None)

    async def redeliver(self, principal: Principal, delivery_id: str) -> Delivery:
        """Send a webhook again. Raises NotFound."""
        authorize(principal, REDELIVER)
        about, _ = session_of_delivery(delivery_id)
        event = WebhookRedelivered(
            ts=self._clock(), org_id=principal.org_id, actor=principal.user_id, delivery_id=delivery_id, about=about
        )
        delivery = await self._outbox.redeliver(event)
        self.stirred.set()
        return delivery
