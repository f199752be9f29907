"""One answer for each operation, and the routes drawn from the table of operations."""

from collections.abc import Mapping, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from enclave.contracts.bindings import PutBinding
from enclave.contracts.errors import Forbidden
from enclave.contracts.operations import (
    CREATE_SESSION,
    DELETE_BINDING,
    GET_AUDIT,
    GET_BINDING,
    GET_FILE,
    GET_LOGS,
    GET_ORG_AUDIT,
    GET_RESULT,
    GET_SESSION,
    HEALTH,
    IDENTITY,
    LIST_BINDINGS,
    LIST_SESSIONS,
    METRICS,
    OPERATIONS,
    PUT_BINDING,
    READY,
    STREAM_SESSION,
    TEARDOWN_SESSION,
    WHOAMI,
    Operation,
)
from enclave.contracts.sessions import CreateSessionRequest, Ready
from enclave.contracts.wire import Wire
from enclave.core.access import authorize, who_is
from enclave.server import accounts, operator, tenancy, webhooks
from enclave.server.call import (
    Call,
    OperatorCall,
    Platform,
    Respond,
    RespondToAnyone,
    RespondToOperator,
    admit_operator,
    credential,
)
from enclave.server.download import Download
from enclave.server.reading import idempotency_key, preferred_wait, read_body
from enclave.server.relay import Relayed
from enclave.server.sse import EventStream

OPERATION: Final = "enclave.operation"
"""Where a request's scope says which operation it asks for."""


async def create_session(call: Call) -> ASGIApp:
    """POST /sessions."""
    call.query()
    wait, key = preferred_wait(call.request), idempotency_key(call.request)
    create = call.platform.orchestrator.create
    made = True
    if key is not None:
        # Without a name for it: a body may be large, and is let go of as soon as its program runs.
        session, made = await call.platform.orchestrator.create_once(
            call.principal,
            await read_body(call.request, CreateSessionRequest, call.platform.room),
            key,
            wait_seconds=wait,
        )
    else:
        session = await create(
            call.principal, await read_body(call.request, CreateSessionRequest, call.platform.room), wait_seconds=wait
        )
    applied = {} if wait is None else {"preference-applied": f"wait={wait}"}
    replayed = {} if made else {"idempotent-replayed": "true"}
    return call.answer(session, {"location": f"/sessions/{session.id}", **applied, **replayed})


async def list_sessions(call: Call) -> ASGIApp:
    """GET /sessions."""
    query = call.query()
    return call.answer(
        await call.platform.orchestrator.list(
            call.principal, query.wanted(), cursor=query.cursor(), limit=query.limit()
        )
    )


async def get_session(call: Call) -> ASGIApp:
    """GET /sessions/{id}."""
    call.query()
    return call.answer(await call.platform.orchestrator.get(call.principal, call.id))


async def get_result(call: Call) -> ASGIApp:
    """GET /sessions/{id}/result."""
    call.query()
    return call.answer(await call.platform.orchestrator.result(call.principal, call.id))


async def get_audit(call: Call) -> ASGIApp:
    """GET /sessions/{id}/audit."""
    query = call.query()
    return call.answer(
        await call.platform.orchestrator.audit(call.principal, call.id, cursor=query.cursor(), limit=query.limit())
    )


async def stream_session(call: Call) -> ASGIApp:
    """GET /sessions/{id}/stream."""
    call.query()
    place = call.request.headers.get("last-event-id")
    return EventStream(await call.platform.orchestrator.follow(call.principal, call.id, place))


async def get_logs(call: Call) -> ASGIApp:
    """GET /sessions/{id}/logs."""
    query = call.query()
    return call.answer(
        await call.platform.orchestrator.logs(call.principal, call.id, after=query.after(), limit=query.limit())
    )


async def get_file(call: Call) -> ASGIApp:
    """GET /sessions/{id}/files/{path}."""
    call.query()
    # Not as the route found it: its pattern would let a line feed at the end pass.
    _, _, path = call.request.scope["path"].partition("/files/")
    file, content = await call.platform.orchestrator.file(call.principal, call.id, path)
    return Download(file, content, call.operation.media)


async def teardown_session(call: Call) -> ASGIApp:
    """DELETE /sessions/{id}."""
    call.query()
    return call.answer(await call.platform.orchestrator.teardown(call.principal, call.id))


async def put_binding(call: Call) -> ASGIApp:
    """PUT /bindings/{name}."""
    call.query()
    body = await read_body(call.request, PutBinding, call.platform.room)
    binding, made = await call.platform.orchestrator.bindings.put(call.principal, call.binding_name, body)
    return call.answer(binding, status=None if made else call.operation.replaced)


async def list_bindings(call: Call) -> ASGIApp:
    """GET /bindings."""
    query = call.query()
    bindings = call.platform.orchestrator.bindings
    return call.answer(await bindings.list(call.principal, cursor=query.cursor(), limit=query.limit()))


async def get_binding(call: Call) -> ASGIApp:
    """GET /bindings/{name}."""
    call.query()
    return call.answer(await call.platform.orchestrator.bindings.get(call.principal, call.binding_name))


async def delete_binding(call: Call) -> ASGIApp:
    """DELETE /bindings/{name}."""
    call.query()
    return call.answer(await call.platform.orchestrator.bindings.delete(call.principal, call.binding_name))


async def whoami(call: Call) -> ASGIApp:
    """GET /whoami."""
    call.query()
    return call.answer(who_is(call.principal))


async def health(platform: Platform, request: Request) -> Wire:
    """GET /healthz."""
    return platform.health()


async def ready(platform: Platform, request: Request) -> Wire:
    """GET /readyz."""
    await platform.ready()
    return Ready()


async def metrics(call: OperatorCall) -> ASGIApp:
    """GET /metrics."""
    call.query()
    return Response(call.platform.metrics(), media_type=call.operation.media)


PUBLIC: Final[Mapping[str, RespondToAnyone]] = {HEALTH.name: health, READY.name: ready, **accounts.PUBLIC}
"""How each operation that asks for no credential is answered."""

OPERATOR: Final[Mapping[str, RespondToOperator]] = {METRICS.name: metrics, **operator.RESPONSES, **tenancy.OPERATOR}
"""How each operation of the operator's is answered."""


async def get_org_audit(call: Call) -> ASGIApp:
    """GET /audit."""
    query = call.query()
    events = call.platform.orchestrator.org_audit(call.principal, cursor=query.cursor(), limit=query.limit())
    return call.answer(await events)


RESPONSES: Final[Mapping[str, Respond]] = {
    CREATE_SESSION.name: create_session,
    LIST_SESSIONS.name: list_sessions,
    GET_SESSION.name: get_session,
    GET_RESULT.name: get_result,
    GET_AUDIT.name: get_audit,
    STREAM_SESSION.name: stream_session,
    GET_LOGS.name: get_logs,
    GET_FILE.name: get_file,
    TEARDOWN_SESSION.name: teardown_session,
    PUT_BINDING.name: put_binding,
    LIST_BINDINGS.name: list_bindings,
    GET_BINDING.name: get_binding,
    DELETE_BINDING.name: delete_binding,
    WHOAMI.name: whoami,
    GET_ORG_AUDIT.name: get_org_audit,
    **accounts.RESPONSES,
    **tenancy.RESPONSES,
    **webhooks.RESPONSES,
}
"""How each operation that asks for a credential is answered."""


class Guarded:
    """An operation behind its credential and its scope: nothing of a request is read before both hold."""

    def __init__(self, platform: Platform, operation: Operation) -> None:
        self._platform = platform
        self._operation = operation
        self._respond = RESPONSES[operation.name]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises Unauthenticated and Forbidden."""
        scope[OPERATION] = self._operation.name
        principal = await self._platform.authenticator.authenticate(credential(scope["headers"]))
        try:
            authorize(principal, self._operation)
            answer = await self._respond(Call(self._platform, self._operation, Request(scope, receive), principal))
        except Forbidden as error:
            self._platform.refusals.note(principal, self._operation, error)
            raise
        await answer(scope, receive, send)


class Public:
    """An operation that asks for no credential."""

    def __init__(self, platform: Platform, operation: Operation) -> None:
        self._platform = platform
        self._operation = operation
        self._respond = PUBLIC[operation.name]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        scope[OPERATION] = self._operation.name
        body = (await self._respond(self._platform, Request(scope, receive))).model_dump_json()
        await Response(body, self._operation.status, media_type="application/json")(scope, receive, send)


class OperatorsOwn:
    """An operation behind the operator's credential."""

    def __init__(self, platform: Platform, operation: Operation) -> None:
        self._platform = platform
        self._operation = operation
        self._respond = OPERATOR[operation.name]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises Unauthenticated, and Forbidden to an org's."""
        scope[OPERATION] = self._operation.name
        await admit_operator(self._platform, self._operation, credential(scope["headers"]))
        call = OperatorCall(self._platform, self._operation, Request(scope, receive))
        await (await self._respond(call))(scope, receive, send)


def routes(platform: Platform, operations: Sequence[Operation] = OPERATIONS) -> list[Route]:
    """A route for each operation."""
    return [_route(platform, operation) for operation in operations]


def _endpoint(platform: Platform, operation: Operation) -> ASGIApp:
    if platform.relay is not None and operation.authority == IDENTITY:
        return Relayed(platform, operation, platform.relay)
    kind = Public if operation.public else OperatorsOwn if operation.operator else Guarded
    return kind(platform, operation)


def _route(platform: Platform, operation: Operation) -> Route:
    endpoint = _endpoint(platform, operation)
    # A path within a session may have slashes.
    path = operation.path.replace("{path}", "{path:path}")
    route = Route(path, endpoint, methods=[operation.method], name=operation.name)
    if operation.streams and route.methods is not None:
        # A HEAD would wait for the end of the session to say nothing.
        route.methods.discard("HEAD")
    return route
