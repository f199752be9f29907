"""Service bindings as a client sees them: `client.bindings`."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Required, TypedDict, Unpack

from pydantic import ValidationError

from enclave.contracts.bindings import Binding, Method, PutBinding
from enclave.contracts.errors import InvalidRequest
from enclave.sdk.flow import Api
from enclave.sdk.request import invalid
from enclave.sdk.transport import AsyncDriver, Driver


class BindingTerms(TypedDict, total=False):
    """What a binding is; `url`, and one of the four ways of injecting the secret.

    `bearer` is a token, `basic` a (user, password), `header` a (name of the header, secret) whose value is `template`
    with `{secret}` replaced, `query` a (name of the parameter, secret). `methods` and `paths` (prefixes, relative to
    the URL) bound what may be called; without them anything may.
    """

    url: Required[str]
    bearer: str
    basic: tuple[str, str]
    header: tuple[str, str]
    template: str
    query: tuple[str, str]
    methods: Sequence[Method]
    paths: Sequence[str]


class Bindings:
    """The org's service bindings."""

    def __init__(self, api: Api, driver: Driver) -> None:
        self._api = api
        self._driver = driver

    def put(self, name: str, **terms: Unpack[BindingTerms]) -> Binding:
        """Make a binding, or replace it, its secret with it. Nobody can read the secret after this."""
        return self._driver.run(self._api.put_binding(name, binding_request(terms)))

    def get(self, name: str) -> Binding:
        """One binding, without its secret."""
        return self._driver.run(self._api.binding(name))

    def list(self) -> Iterator[Binding]:
        """The org's bindings, by name; further pages are fetched as you get to them."""
        return (delivery.item for delivery in self._driver.iterate(self._api.bindings()))

    def delete(self, name: str) -> Binding:
        """Delete a binding and its secret; the answer is the binding as it was."""
        return self._driver.run(self._api.delete_binding(name))


class AsyncBindings:
    """`Bindings`, awaited."""

    def __init__(self, api: Api, driver: AsyncDriver) -> None:
        self._api = api
        self._driver = driver

    async def put(self, name: str, **terms: Unpack[BindingTerms]) -> Binding:
        """Make a binding, or replace it, its secret with it. Nobody can read the secret after this."""
        return await self._driver.run(self._api.put_binding(name, binding_request(terms)))

    async def get(self, name: str) -> Binding:
        """One binding, without its secret."""
        return await self._driver.run(self._api.binding(name))

    async def list(self) -> AsyncIterator[Binding]:
        """The org's bindings, by name; further pages are fetched as you get to them."""
        async with aclosing(self._driver.iterate(self._api.bindings())) as deliveries:
            async for delivery in deliveries:
                yield delivery.item

    async def delete(self, name: str) -> Binding:
        """Delete a binding and its secret; the answer is the binding as it was."""
        return await self._driver.run(self._api.delete_binding(name))


def binding_request(terms: BindingTerms) -> PutBinding:
    """The request that the terms make. Raises InvalidRequest, naming the fields and repeating none."""
    inject, secret = _injection(terms)
    bounds = {name: terms[name] for name in ("methods", "paths") if name in terms}
    try:
        return PutBinding.model_validate(
            {"url": terms["url"], "inject": inject, "secret": secret, **bounds}, strict=False
        )
    except ValidationError as error:
        raise invalid(error) from None


def _injection(terms: BindingTerms) -> tuple[dict[str, str], str]:
    ways = [way for way in ("bearer", "basic", "header", "query") if way in terms]
    if len(ways) != 1:
        raise InvalidRequest("give one of `bearer`, `basic`, `header` and `query`")
    template = {"template": terms["template"]} if "template" in terms else {}
    if "bearer" in terms:
        return {"kind": "bearer", **template}, terms["bearer"]
    if "basic" in terms:
        return {"kind": "basic", **template}, ":".join(terms["basic"])
    name, secret = terms["header"] if "header" in terms else terms["query"]
    return {"kind": ways[0], "name": name, **template}, secret
