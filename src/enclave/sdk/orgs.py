"""The user's orgs as a client sees them: `client.orgs`."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

from pydantic import ValidationError

from enclave.contracts.operations import CREATE_ORG, LIST_ORGS
from enclave.contracts.orgs import CreateOrg, Org
from enclave.sdk.flow import Api
from enclave.sdk.request import invalid
from enclave.sdk.sign_in import SignIn
from enclave.sdk.step import Flow
from enclave.sdk.transport import AsyncDriver, Driver


class Orgs:
    """The orgs that the user is a member of."""

    def __init__(self, api: Api, driver: Driver) -> None:
        self._api = api
        self._driver = driver

    def list(self) -> Iterator[Org]:
        """The orgs, and what one is in each; of an API key its own. Further pages are fetched as you get to them."""
        return (delivery.item for delivery in self._driver.iterate(_all(self._api)))

    def create(self, name: str) -> Org:
        """Make an org that you own, signed in as a user; `switch` to it to act in it."""
        return self._driver.run(_made(self._api, name))

    def switch(self, org_id: str) -> SignIn:
        """Take the sign-in that is kept here to another org; this client acts there from now on, and so do new ones.

        Raises Unauthenticated if the client does not go by that sign-in.
        """
        return self._driver.run(self._driver.signed.switch(org_id))


class AsyncOrgs:
    """`Orgs`, awaited."""

    def __init__(self, api: Api, driver: AsyncDriver) -> None:
        self._api = api
        self._driver = driver

    async def list(self) -> AsyncIterator[Org]:
        """The orgs, and what one is in each; of an API key its own. Further pages are fetched as you get to them."""
        async with aclosing(self._driver.iterate(_all(self._api))) as deliveries:
            async for delivery in deliveries:
                yield delivery.item

    async def create(self, name: str) -> Org:
        """Make an org that you own, signed in as a user; `switch` to it to act in it."""
        return await self._driver.run(_made(self._api, name))

    async def switch(self, org_id: str) -> SignIn:
        """Take the sign-in that is kept here to another org; this client acts there from now on, and so do new ones.

        Raises Unauthenticated if the client does not go by that sign-in.
        """
        return await self._driver.run(self._driver.signed.switch(org_id))


def _all(api: Api) -> Flow[Org]:
    return api.pages(LIST_ORGS)


def _made(api: Api, name: str) -> Flow[Org]:
    try:
        return api.ask(CREATE_ORG, body=CreateOrg(name=name))
    except ValidationError as error:
        raise invalid(error) from None
