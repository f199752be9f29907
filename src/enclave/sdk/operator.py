"""The operator's side: `Operator` blocks, `AsyncOperator` awaits."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from pydantic import ValidationError

from enclave.contracts.keys import Key
from enclave.contracts.operations import (
    OPERATOR_DISABLE_ORG,
    OPERATOR_ENABLE_ORG,
    OPERATOR_FOUND_ORG,
    OPERATOR_GET_TERMS,
    OPERATOR_GET_USAGE,
    OPERATOR_LIST_ORGS,
    OPERATOR_PUT_TERMS,
    OPERATOR_RESET_PASSWORD,
    OPERATOR_REVOKE_KEY,
)
from enclave.contracts.orgs import AskReset, FoundedOrg, FoundOrg, OrgState, ResetCode
from enclave.contracts.tenancy import OrgTerms, OrgUsage
from enclave.contracts.wire import Wire
from enclave.sdk.credential import resolve_operator
from enclave.sdk.flow import Api
from enclave.sdk.request import invalid
from enclave.sdk.step import Flow
from enclave.sdk.transport import AsyncDriver, Driver

DEFAULT_TERMS: Final = "default"
"""In place of an org's id: every org that was given no terms of its own."""

W = TypeVar("W", bound=Wire)


@dataclass(frozen=True, slots=True)
class OperatorApi:
    """The operator's operations as conversations."""

    api: Api

    def orgs(self) -> Flow[OrgState]:
        """Org after org, page by page."""
        return self.api.pages(OPERATOR_LIST_ORGS)

    def found(self, name: str, owner_email: str) -> Flow[FoundedOrg]:
        """An org that was just made."""
        return self.api.ask(OPERATOR_FOUND_ORG, body=_checked(FoundOrg, {"name": name, "owner_email": owner_email}))

    def disable(self, org_id: str) -> Flow[OrgState]:
        """An org after it was disabled."""
        return self.api.ask(OPERATOR_DISABLE_ORG, org_id)

    def enable(self, org_id: str) -> Flow[OrgState]:
        """An org after it was enabled."""
        return self.api.ask(OPERATOR_ENABLE_ORG, org_id)

    def revoke_key(self, key_id: str) -> Flow[Key]:
        """A key after it was revoked."""
        return self.api.ask(OPERATOR_REVOKE_KEY, key_id)

    def reset_password(self, email: str) -> Flow[ResetCode]:
        """A code that was just made."""
        return self.api.ask(OPERATOR_RESET_PASSWORD, body=_checked(AskReset, {"email": email}))

    def terms(self, org_id: str) -> Flow[OrgTerms]:
        """An org's terms."""
        return self.api.ask(OPERATOR_GET_TERMS, org_id)

    def put_terms(self, org_id: str, terms: OrgTerms | Mapping[str, Any]) -> Flow[OrgTerms]:
        """An org's terms after they were set."""
        return self.api.ask(OPERATOR_PUT_TERMS, org_id, _checked(OrgTerms, terms))

    def usage(self, org_id: str) -> Flow[OrgUsage]:
        """What an org uses."""
        return self.api.ask(OPERATOR_GET_USAGE, org_id)


class Operator:
    """A client for whoever runs the installation: it acts in no org, and on all of them.

    With no arguments it finds its server and key in ENCLAVE_BASE_URL and ENCLAVE_OPERATOR_KEY, else in what `enclave
    serve` left in ~/.enclave. Everything that goes wrong is an `enclave.contracts.errors.EnclaveError`. Close it, or
    use it in a `with`; it may be shared by threads.
    """

    def __init__(self, base_url: str | None = None, *, key: str | None = None, timeout: float = 30.0) -> None:
        target = resolve_operator(base_url, key)
        self._api = OperatorApi(Api(target.base_url))
        self._driver = Driver(target, timeout)

    def orgs(self) -> Iterator[OrgState]:
        """All orgs, by id; further pages are fetched as you get to them."""
        return (delivery.item for delivery in self._driver.iterate(self._api.orgs()))

    def found(self, name: str, owner_email: str) -> FoundedOrg:
        """Make an org, and invite its owner; the invitation's `code` is in the answer, and nowhere after."""
        return self._driver.run(self._api.found(name, owner_email))

    def disable(self, org_id: str) -> OrgState:
        """Refuse an org's callers from now on, and tear down what it runs; it may be done twice."""
        return self._driver.run(self._api.disable(org_id))

    def enable(self, org_id: str) -> OrgState:
        """Let an org's callers in again; it may be done twice."""
        return self._driver.run(self._api.enable(org_id))

    def revoke_key(self, key_id: str) -> Key:
        """Refuse an API key of any org from now on; it may be done twice."""
        return self._driver.run(self._api.revoke_key(key_id))

    def reset_password(self, email: str) -> ResetCode:
        """Let a user set their password anew; the `code` for it is in the answer, and nowhere after."""
        return self._driver.run(self._api.reset_password(email))

    def terms(self, org_id: str = DEFAULT_TERMS) -> OrgTerms:
        """The floor and the quotas of an org, or of every org that was given none."""
        return self._driver.run(self._api.terms(org_id))

    def put_terms(self, org_id: str, terms: OrgTerms | Mapping[str, Any]) -> OrgTerms:
        """Set the floor and the quotas of an org, or with `default` of every org that was given none."""
        return self._driver.run(self._api.put_terms(org_id, terms))

    def usage(self, org_id: str) -> OrgUsage:
        """What an org uses of each quota at the moment."""
        return self._driver.run(self._api.usage(org_id))

    def close(self) -> None:
        """Drop all connections."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Operator({self._api.api.site!r})"


class AsyncOperator:
    """`Operator` for asyncio: the same arguments, the same methods, awaited. Use it in an `async with`."""

    def __init__(self, base_url: str | None = None, *, key: str | None = None, timeout: float = 30.0) -> None:
        target = resolve_operator(base_url, key)
        self._api = OperatorApi(Api(target.base_url))
        self._driver = AsyncDriver(target, timeout)

    async def orgs(self) -> AsyncIterator[OrgState]:
        """All orgs, by id; further pages are fetched as you get to them."""
        async with aclosing(self._driver.iterate(self._api.orgs())) as deliveries:
            async for delivery in deliveries:
                yield delivery.item

    async def found(self, name: str, owner_email: str) -> FoundedOrg:
        """Make an org, and invite its owner; the invitation's `code` is in the answer, and nowhere after."""
        return await self._driver.run(self._api.found(name, owner_email))

    async def disable(self, org_id: str) -> OrgState:
        """Refuse an org's callers from now on, and tear down what it runs; it may be done twice."""
        return await self._driver.run(self._api.disable(org_id))

    async def enable(self, org_id: str) -> OrgState:
        """Let an org's callers in again; it may be done twice."""
        return await self._driver.run(self._api.enable(org_id))

    async def revoke_key(self, key_id: str) -> Key:
        """Refuse an API key of any org from now on; it may be done twice."""
        return await self._driver.run(self._api.revoke_key(key_id))

    async def reset_password(self, email: str) -> ResetCode:
        """Let a user set their password anew; the `code` for it is in the answer, and nowhere after."""
        return await self._driver.run(self._api.reset_password(email))

    async def terms(self, org_id: str = DEFAULT_TERMS) -> OrgTerms:
        """The floor and the quotas of an org, or of every org that was given none."""
        return await self._driver.run(self._api.terms(org_id))

    async def put_terms(self, org_id: str, terms: OrgTerms | Mapping[str, Any]) -> OrgTerms:
        """Set the floor and the quotas of an org, or with `default` of every org that was given none."""
        return await self._driver.run(self._api.put_terms(org_id, terms))

    async def usage(self, org_id: str) -> OrgUsage:
        """What an org uses of each quota at the moment."""
        return await self._driver.run(self._api.usage(org_id))

    async def aclose(self) -> None:
        """Drop all connections."""
        await self._driver.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncOperator({self._api.api.site!r})"


def _checked(kind: type[W], fields: W | Mapping[str, Any]) -> W:
    try:
        return kind.model_validate(fields, strict=False)
    except ValidationError as error:
        raise invalid(error) from None
