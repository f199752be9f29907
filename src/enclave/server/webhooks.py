"""How operations on an org's webhooks are answered."""

from collections.abc import Mapping
from typing import Final

from starlette.types import ASGIApp

from enclave.contracts.operations import LIST_DELIVERIES, REDELIVER, ROTATE_WEBHOOK_SECRET
from enclave.server.call import Call, Respond


async def rotate_webhook_secret(call: Call) -> ASGIApp:
    """POST /webhooks/secret."""
    call.query()
    return call.answer(await call.platform.orchestrator.webhooks.rotate(call.principal))


async def list_deliveries(call: Call) -> ASGIApp:
    """GET /webhooks/deliveries."""
    query, webhooks = call.query(), call.platform.orchestrator.webhooks
    return call.answer(
        await webhooks.list(call.principal, session_id=query.session(), cursor=query.cursor(), limit=query.limit())
    )


async def redeliver(call: Call) -> ASGIApp:
    """POST /webhooks/deliveries/{id}/redeliver."""
    call.query()
    return call.answer(await call.platform.orchestrator.webhooks.redeliver(call.principal, call.id))


RESPONSES: Final[Mapping[str, Respond]] = {
    ROTATE_WEBHOOK_SECRET.name: rotate_webhook_secret,
    LIST_DELIVERIES.name: list_deliveries,
    REDELIVER.name: redeliver,
}
