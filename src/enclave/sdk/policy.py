"""The org's policy as a client sees it: `client.policy`."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from enclave.contracts.operations import GET_POLICY, PUT_POLICY
from enclave.contracts.tenancy import OrgPolicy, PolicyView
from enclave.sdk.flow import Api
from enclave.sdk.request import invalid
from enclave.sdk.step import Flow
from enclave.sdk.transport import AsyncDriver, Driver


class Policy:
    """What the org's sessions may ask for."""

    def __init__(self, api: Api, driver: Driver) -> None:
        self._api = api
        self._driver = driver

    def get(self) -> PolicyView:
        """The operator's floor, the org's own policy, and the two together."""
        return self._driver.run(_got(self._api))

    def put(self, policy: OrgPolicy | Mapping[str, Any]) -> PolicyView:
        """Set the org's own policy, which may only narrow the floor; one that is empty narrows nothing."""
        return self._driver.run(_put(self._api, policy))


class AsyncPolicy:
    """`Policy`, awaited."""

    def __init__(self, api: Api, driver: AsyncDriver) -> None:
        self._api = api
        self._driver = driver

    async def get(self) -> PolicyView:
        """The operator's floor, the org's own policy, and the two together."""
        return await self._driver.run(_got(self._api))

    async def put(self, policy: OrgPolicy | Mapping[str, Any]) -> PolicyView:
        """Set the org's own policy, which may only narrow the floor; one that is empty narrows nothing."""
        return await self._driver.run(_put(self._api, policy))


def _got(api: Api) -> Flow[PolicyView]:
    return api.ask(GET_POLICY)


def _put(api: Api, policy: OrgPolicy | Mapping[str, Any]) -> Flow[PolicyView]:
    try:
        return api.ask(PUT_POLICY, body=OrgPolicy.model_validate(policy, strict=False))
    except ValidationError as error:
        raise invalid(error) from None
