"""Webhooks as a client sees them: `client.webhooks`. What arrives is verified with the package `standardwebhooks`."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

from enclave.contracts.webhooks import Delivery, WebhookSecret
from enclave.sdk.flow import Api
from enclave.sdk.transport import AsyncDriver, Driver


class Webhooks:
    """The org's webhooks: what they are signed with, and what became of each."""

    def __init__(self, api: Api, driver: Driver) -> None:
        self._api = api
        self._driver = driver

    def rotate_secret(self) -> WebhookSecret:
        """Sign with a new secret, which is in the answer and nowhere after; the one before signs on for 24 hours.

        Without one yet this makes the first.
        """
        return self._driver.run(self._api.rotate_webhook_secret())

    def deliveries(self, session_id: str | None = None) -> Iterator[Delivery]:
        """What became of each, newest session first, or of one session's; further pages are fetched as you get to
        them."""
        return (delivery.item for delivery in self._driver.iterate(self._api.deliveries(session_id)))

    def redeliver(self, delivery_id: str) -> Delivery:
        """Send one again, at once and with all its retries."""
        return self._driver.run(self._api.redeliver(delivery_id))


class AsyncWebhooks:
    """`Webhooks`, awaited."""

    def __init__(self, api: Api, driver: AsyncDriver) -> None:
        self._api = api
        self._driver = driver

    async def rotate_secret(self) -> WebhookSecret:
        """Sign with a new secret, which is in the answer and nowhere after; the one before signs on for 24 hours.

        Without one yet this makes the first.
        """
        return await self._driver.run(self._api.rotate_webhook_secret())

    async def deliveries(self, session_id: str | None = None) -> AsyncIterator[Delivery]:
        """What became of each, newest session first, or of one session's; further pages are fetched as you get to
        them."""
        async with aclosing(self._driver.iterate(self._api.deliveries(session_id))) as deliveries:
            async for delivery in deliveries:
                yield delivery.item

    async def redeliver(self, delivery_id: str) -> Delivery:
        """Send one again, at once and with all its retries."""
        return await self._driver.run(self._api.redeliver(delivery_id))
