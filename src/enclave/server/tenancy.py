"""How operations on what orgs may have and use are answered."""

from collections.abc import Mapping
from typing import Final

from starlette.types import ASGIApp

from enclave.contracts.operations import (
    GET_POLICY,
    GET_USAGE,
    OPERATOR_GET_TERMS,
    OPERATOR_GET_USAGE,
    OPERATOR_PUT_TERMS,
    PUT_POLICY,
)
from enclave.contracts.tenancy import OrgPolicy, OrgTerms
from enclave.server.call import Call, OperatorCall, Respond, RespondToOperator
from enclave.server.reading import read_body


async def get_usage(call: Call) -> ASGIApp:
    """GET /usage."""
    call.query()
    return call.answer(await call.platform.orchestrator.tenancy.usage(call.principal))


async def get_policy(call: Call) -> ASGIApp:
    """GET /policy."""
    call.query()
    return call.answer(await call.platform.orchestrator.tenancy.policy(call.principal))


async def put_policy(call: Call) -> ASGIApp:
    """PUT /policy."""
    call.query()
    body = await read_body(call.request, OrgPolicy, call.platform.room)
    return call.answer(await call.platform.orchestrator.tenancy.put_policy(call.principal, body))


async def operator_get_terms(call: OperatorCall) -> ASGIApp:
    """GET /operator/orgs/{id}/terms."""
    call.query()
    return call.answer(await call.platform.orchestrator.tenancy.terms_of(call.id))


async def operator_put_terms(call: OperatorCall) -> ASGIApp:
    """PUT /operator/orgs/{id}/terms."""
    call.query()
    body = await read_body(call.request, OrgTerms, call.platform.room)
    return call.answer(await call.platform.orchestrator.tenancy.put_terms(call.id, body))


async def operator_get_usage(call: OperatorCall) -> ASGIApp:
    """GET /operator/orgs/{id}/usage."""
    call.query()
    return call.answer(await call.platform.orchestrator.tenancy.usage_of(call.id))


RESPONSES: Final[Mapping[str, Respond]] = {
    GET_USAGE.name: get_usage,
    GET_POLICY.name: get_policy,
    PUT_POLICY.name: put_policy,
}

OPERATOR: Final[Mapping[str, RespondToOperator]] = {
    OPERATOR_GET_TERMS.name: operator_get_terms,
    OPERATOR_PUT_TERMS.name: operator_put_terms,
    OPERATOR_GET_USAGE.name: operator_get_usage,
}
