"""Service bindings: put, shown and deleted by an org's callers, and granted to its sessions."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from enclave.contracts.audit import BindingDeleted
from enclave.contracts.bindings import Binding, PutBinding
from enclave.contracts.errors import FieldProblem, InvalidRequest, NotFound
from enclave.contracts.identity import Principal
from enclave.contracts.operations import DELETE_BINDING, GET_BINDING, LIST_BINDINGS, PUT_BINDING
from enclave.contracts.wire import Page
from enclave.core.access import authorize
from enclave.core.address import Network
from enclave.core.binding import binding_of, check_name, normal, put_event
from enclave.core.cursor import binding_cursor, binding_of_cursor, check_limit, cut
from enclave.core.grant import Grant
from enclave.store.base import Bindings, Entry


class ServiceBindings:
    """An org's upstreams. `private` are the networks that the operator lets their addresses be in."""

    def __init__(self, bindings: Bindings, clock: Callable[[], datetime], private: Sequence[Network] = ()) -> None:
        self._bindings = bindings
        self._clock = clock
        self._private = tuple(private)

    async def put(self, principal: Principal, name: str, request: PutBinding) -> tuple[Binding, bool]:
        """Make a binding or replace it; answers with it, and whether it was made. Raises InvalidRequest, Conflict."""
        authorize(principal, PUT_BINDING)
        check_name(name)
        accepted = normal(request, self._private)
        binding = binding_of(name, accepted, at=self._clock(), by=principal.user_id)
        secret = accepted.secret.get_secret_value()
        return await self._bindings.put(Entry(binding, secret, put_event(principal, binding)))

    async def get(self, principal: Principal, name: str) -> Binding:
        """One binding of the principal's org."""
        authorize(principal, GET_BINDING)
        return await self._bindings.get(principal.org_id, _known(name))

    async def list(self, principal: Principal, *, cursor: str | None = None, limit: int = 50) -> Page[Binding]:
        """The org's bindings, by name."""
        authorize(principal, LIST_BINDINGS)
        check_limit(limit)
        after = binding_of_cursor(cursor)
        items, last = cut(await self._bindings.find(principal.org_id, after=after, limit=limit + 1), limit)
        return Page[Binding](items=tuple(items), next_cursor=binding_cursor(last.name) if last else None)

    async def delete(self, principal: Principal, name: str) -> Binding:
        """Delete a binding and its secret; answers with what it was. Sessions that run keep what they were granted."""
        authorize(principal, DELETE_BINDING)
        event = BindingDeleted(ts=self._clock(), org_id=principal.org_id, actor=principal.user_id, name=_known(name))
        return await self._bindings.delete(event)

    async def grants(self, principal: Principal, names: Sequence[str]) -> tuple[Grant, ...]:
        """What a session that asks for these gets. Raises InvalidRequest, naming each that there is not."""
        if not names:
            return ()
        found = await self._bindings.grants(principal.org_id, names)
        problems = [_problem(at, "is named twice") for at, name in enumerate(names) if name in names[:at]]
        if missing := [(at, name) for at, name in enumerate(names) if name not in found]:
            offered = await self._offered(principal)
            problems += [_problem(at, f"no such binding: {name}; {offered}") for at, name in missing]
        if problems:
            raise InvalidRequest("a service binding cannot be granted", errors=tuple(problems))
        return tuple(found[name] for name in names)

    async def fetching(self, principal: Principal, name: str) -> Grant:
        """What the source of a session that asks for this is fetched with. Raises InvalidRequest if there is none."""
        found = await self._bindings.grants(principal.org_id, (name,))
        if name not in found:
            message = f"no such binding: {name}; {await self._offered(principal)}"
            problem = FieldProblem(field="source.git.binding", message=message)
            raise InvalidRequest("a service binding cannot be granted", errors=(problem,))
        return found[name]

    async def _offered(self, principal: Principal) -> str:
        found = await self._bindings.find(principal.org_id, limit=_OFFERED + 1)
        names = [binding.name for binding in found[:_OFFERED]] + ["…"] * (len(found) > _OFFERED)
        return f"bindings of this org: {', '.join(names) or 'there is none'}"


_OFFERED: Final = 20
"""The most names that a refusal tells."""


def _known(name: str) -> str:
    # What no binding can be called is found as little as what none is called.
    try:
        check_name(name)
    except InvalidRequest:
        raise NotFound from None
    return name


def _problem(at: int, message: str) -> FieldProblem:
    return FieldProblem(field=f"serviceBindings.{at}", message=message)
