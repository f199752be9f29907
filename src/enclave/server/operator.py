"""How the operator's operations are answered."""

from collections.abc import Mapping
from typing import Final

from starlette.types import ASGIApp

from enclave.contracts.operations import (
    OPERATOR_DISABLE_ORG,
    OPERATOR_ENABLE_ORG,
    OPERATOR_FOUND_ORG,
    OPERATOR_LIST_ORGS,
    OPERATOR_RESET_PASSWORD,
    OPERATOR_REVOKE_KEY,
)
from enclave.contracts.orgs import AskReset, FoundOrg
from enclave.server.call import OperatorCall, RespondToOperator
from enclave.server.reading import read_body


async def list_orgs(call: OperatorCall) -> ASGIApp:
    """GET /operator/orgs."""
    query = call.query()
    return call.answer(await call.platform.accounts.operator.list_orgs(cursor=query.cursor(), limit=query.limit()))


async def found_org(call: OperatorCall) -> ASGIApp:
    """POST /operator/orgs."""
    call.query()
    body = await read_body(call.request, FoundOrg, call.platform.room)
    return call.answer(await call.platform.accounts.operator.found_org(body))


async def disable_org(call: OperatorCall) -> ASGIApp:
    """POST /operator/orgs/{id}/disable."""
    call.query()
    return call.answer(await call.platform.accounts.operator.disable_org(call.id))


async def enable_org(call: OperatorCall) -> ASGIApp:
    """POST /operator/orgs/{id}/enable."""
    call.query()
    return call.answer(await call.platform.accounts.operator.enable_org(call.id))


async def revoke_key(call: OperatorCall) -> ASGIApp:
    """DELETE /operator/keys/{id}."""
    call.query()
    return call.answer(await call.platform.accounts.operator.revoke_key(call.id))


async def reset_password(call: OperatorCall) -> ASGIApp:
    """POST /operator/passwords."""
    call.query()
    body = await read_body(call.request, AskReset, call.platform.room)
    return call.answer(await call.platform.accounts.operator.reset_password(body))


RESPONSES: Final[Mapping[str, RespondToOperator]] = {
    OPERATOR_LIST_ORGS.name: list_orgs,
    OPERATOR_FOUND_ORG.name: found_org,
    OPERATOR_DISABLE_ORG.name: disable_org,
    OPERATOR_ENABLE_ORG.name: enable_org,
    OPERATOR_REVOKE_KEY.name: revoke_key,
    OPERATOR_RESET_PASSWORD.name: reset_password,
}
