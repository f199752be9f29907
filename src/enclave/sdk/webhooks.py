"""Webhooks as a client sees them: `client.webhooks`. What arrives is verified with the package `standardwebhooks`."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

from enclave.contracts.operations import LIST_DELIVERIES, REDELIVER, ROTATE_WEBHOOK_SECRET
from enclave.contracts.webhooks import Delivery, WebhookSecret
from enclave.sdk.flow import Api
from enclave.sdk.step import Flow
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
        return self._driver.run(_rotated(self._api))

    def deliveries(self, session_id: str | None = None) -> Iterator[Delivery]:
        """What became of each, newest session first, or of one session's; further pages are fetched as you get to
        them."""
        return (delivery.item for delivery in self._driver.iterate(_deliveries(self._api, session_id)))

    def redeliver(self, delivery_id: str) -> Delivery:
        """Send one again, at once and with all its retries."""
        return self._driver.run(_again(self._api, delivery_id))


class AsyncWebhooks:
    """`Webhooks`, awaited."""

    def __init__(self, api: Api, driver: AsyncDriver) -> None:
        self._api = api
        self._driver = driver

    async def rotate_secret(self) -> WebhookSecret:
        """Sign with a new secret, which is in the answer and nowhere after; the one before signs on for 24 hours.

        Without one yet this makes the first.
        """
        return await self._driver.run(_rotated(self._api))

    async def deliveries(self, session_id: str | None = None) -> AsyncIterator[Delivery]:
        """What became of each, newest session first, or of one session's; further pages are fetched as you get to
        them."""
        async with aclosing(self._driver.iterate(_deliveries(self._api, session_id))) as deliveries:
            async for delivery in deliveries:
                yield delivery.item

    async def redeliver(self, delivery_id: str) -> Delivery:
        """Send one again, at once and with all its retries."""
        return await self._driver.run(_again(self._api, delivery_id))


def _deliveries(api: Api, session_id: str | None) -> Flow[Delivery]:
    return api.pages(LIST_DELIVERIES, () if session_id is None else (("session", session_id),))


def _rotated(api: Api) -> Flow[WebhookSecret]:
    return api.ask(ROTATE_WEBHOOK_SECRET)


def _again(api: Api, delivery_id: str) -> Flow[Delivery]:
    return api.ask(REDELIVER, delivery_id)
