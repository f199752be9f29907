"""API keys as a client sees them: `client.keys`."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TypedDict, Unpack

from pydantic import ValidationError

from enclave.contracts.identity import Role, Scope
from enclave.contracts.keys import CreateKey, Key, MadeKey
from enclave.sdk.flow import Api
from enclave.sdk.request import invalid
from enclave.sdk.transport import AsyncDriver, Driver


class KeyTerms(TypedDict, total=False):
    """What a key may, and until when: `role` and `scopes` at most your own, which they are without; `expires_at` with a
    time zone."""

    role: Role | str
    scopes: Sequence[Scope | str]
    expires_at: datetime


class Keys:
    """The org's API keys."""

    def __init__(self, api: Api, driver: Driver) -> None:
        self._api = api
        self._driver = driver

    def create(self, name: str, **terms: Unpack[KeyTerms]) -> MadeKey:
        """Make a key. Its `api_key` is in the answer, and nowhere after."""
        return self._driver.run(self._api.create_key(key_request(name, terms)))

    def list(self) -> Iterator[Key]:
        """The org's keys, oldest first, revoked ones too; further pages are fetched as you get to them."""
        return (delivery.item for delivery in self._driver.iterate(self._api.keys()))

    def revoke(self, key_id: str) -> Key:
        """Refuse a key from now on; it may be done twice."""
        return self._driver.run(self._api.revoke_key(key_id))


class AsyncKeys:
    """`Keys`, awaited."""

    def __init__(self, api: Api, driver: AsyncDriver) -> None:
        self._api = api
        self._driver = driver

    async def create(self, name: str, **terms: Unpack[KeyTerms]) -> MadeKey:
        """Make a key. Its `api_key` is in the answer, and nowhere after."""
        return await self._driver.run(self._api.create_key(key_request(name, terms)))

    async def list(self) -> AsyncIterator[Key]:
        """The org's keys, oldest first, revoked ones too; further pages are fetched as you get to them."""
        async with aclosing(self._driver.iterate(self._api.keys())) as deliveries:
            async for delivery in deliveries:
                yield delivery.item

    async def revoke(self, key_id: str) -> Key:
        """Refuse a key from now on; it may be done twice."""
        return await self._driver.run(self._api.revoke_key(key_id))


def key_request(name: str, terms: KeyTerms) -> CreateKey:
    """The request that the terms make. Raises InvalidRequest, naming the fields."""
    try:
        return CreateKey.model_validate({"name": name, **terms}, strict=False)
    except ValidationError as error:
        raise invalid(error) from None
