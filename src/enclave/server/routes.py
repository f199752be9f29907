"""One answer for each operation, and the routes drawn from the table of operations."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from enclave.contracts.bindings import PutBinding
from enclave.contracts.errors import Unauthenticated
from enclave.contracts.identity import Principal
from enclave.contracts.keys import CreateKey
from enclave.contracts.members import AcceptInvitation, ChangeMember, Done, Invite, Login, Refresh
from enclave.contracts.operations import (
    ACCEPT_INVITATION,
    CHANGE_MEMBER,
    CREATE_INVITATION,
    CREATE_KEY,
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
    LIST_BINDINGS,
    LIST_KEYS,
    LIST_MEMBERS,
    LIST_SESSIONS,
    LOGIN,
    LOGOUT,
    OPERATIONS,
    PUT_BINDING,
    REFRESH_TOKEN,
    REMOVE_MEMBER,
    REVOKE_KEY,
    STREAM_SESSION,
    TEARDOWN_SESSION,
    WHOAMI,
    Operation,
)
from enclave.contracts.sessions import CreateSessionRequest, Health
from enclave.contracts.wire import Wire
from enclave.core.access import authorize, who_is
from enclave.identity.base import Accounts, Authenticator
from enclave.orchestrator.orchestrator import Orchestrator
from enclave.server.download import Download
from enclave.server.reading import Query, Room, preferred_wait, read_body, refuse_unimplemented
from enclave.server.sse import EventStream

_MAX_CREDENTIAL: Final = 8192


@dataclass(frozen=True, slots=True)
class Platform:
    """What the routes lead to."""

    orchestrator: Orchestrator
    authenticator: Authenticator
    accounts: Accounts
    health: Callable[[], Health]
    room: Room = field(default_factory=Room)


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose caller is known and allowed."""

    platform: Platform
    operation: Operation
    principal: Principal
    request: Request

    @property
    def id(self) -> str:
        """The id in the path."""
        return str(self.request.path_params["id"])

    @property
    def binding_name(self) -> str:
        """The name in the path."""
        return str(self.request.path_params["name"])

    def query(self) -> Query:
        """The query, checked against the operation."""
        return Query(self.request, self.operation.query)

    def answer(self, value: Wire, headers: Mapping[str, str] | None = None, status: int | None = None) -> Response:
        """The value as JSON, with the operation's status if it says no other."""
        body = value.__pydantic_serializer__.to_json(value)
        return Response(body, status or self.operation.status, headers, "application/json")


Respond = Callable[[Call], Awaitable[ASGIApp]]


async def create_session(call: Call) -> ASGIApp:
    """POST /sessions."""
    call.query()
    refuse_unimplemented(call.request)
    wait = preferred_wait(call.request)
    # Without a name for it: a body may be large, and is let go of as soon as its program runs.
    session = await call.platform.orchestrator.create(
        call.principal,
        await read_body(call.request, CreateSessionRequest, call.platform.room),
        wait_seconds=wait,
    )
    applied = {} if wait is None else {"preference-applied": f"wait={wait}"}
    return call.answer(session, {"location": f"/sessions/{session.id}", **applied})


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


async def create_key(call: Call) -> ASGIApp:
    """POST /keys."""
    call.query()
    body = await read_body(call.request, CreateKey, call.platform.room)
    key = await call.platform.accounts.keys.create(call.principal, body)
    return call.answer(key)


async def list_keys(call: Call) -> ASGIApp:
    """GET /keys."""
    query = call.query()
    return call.answer(
        await call.platform.accounts.keys.list(call.principal, cursor=query.cursor(), limit=query.limit())
    )


async def revoke_key(call: Call) -> ASGIApp:
    """DELETE /keys/{id}."""
    call.query()
    return call.answer(await call.platform.accounts.keys.revoke(call.principal, call.id))


async def list_members(call: Call) -> ASGIApp:
    """GET /members."""
    query, members = call.query(), call.platform.accounts.members
    return call.answer(await members.list(call.principal, cursor=query.cursor(), limit=query.limit()))


async def change_member(call: Call) -> ASGIApp:
    """PUT /members/{id}."""
    call.query()
    body = await read_body(call.request, ChangeMember, call.platform.room)
    return call.answer(await call.platform.accounts.members.change(call.principal, call.id, body))


async def remove_member(call: Call) -> ASGIApp:
    """DELETE /members/{id}."""
    call.query()
    return call.answer(await call.platform.accounts.members.remove(call.principal, call.id))


async def create_invitation(call: Call) -> ASGIApp:
    """POST /invitations."""
    call.query()
    body = await read_body(call.request, Invite, call.platform.room)
    return call.answer(await call.platform.accounts.members.invite(call.principal, body))


async def health(platform: Platform, request: Request) -> Wire:
    """GET /healthz."""
    return platform.health()


async def accept_invitation(platform: Platform, request: Request) -> Wire:
    """POST /invitations/accept."""
    body = await read_body(request, AcceptInvitation, platform.room)
    return await platform.accounts.members.accept(body, address(request))


async def login(platform: Platform, request: Request) -> Wire:
    """POST /login."""
    body = await read_body(request, Login, platform.room)
    return await platform.accounts.sign_ins.login(body, address(request))


async def refresh_token(platform: Platform, request: Request) -> Wire:
    """POST /token/refresh."""
    return await platform.accounts.sign_ins.refresh(await read_body(request, Refresh, platform.room))


async def logout(platform: Platform, request: Request) -> Wire:
    """POST /logout."""
    await platform.accounts.sign_ins.logout(await read_body(request, Refresh, platform.room))
    return Done()


def address(request: Request) -> str:
    """Where a request comes from, as the socket tells: a header could say anything."""
    return request.client.host if request.client else ""


PUBLIC: Final[Mapping[str, Callable[[Platform, Request], Awaitable[Wire]]]] = {
    HEALTH.name: health,
    ACCEPT_INVITATION.name: accept_invitation,
    LOGIN.name: login,
    REFRESH_TOKEN.name: refresh_token,
    LOGOUT.name: logout,
}
"""How each operation that asks for no credential is answered."""


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
    CREATE_KEY.name: create_key,
    LIST_KEYS.name: list_keys,
    REVOKE_KEY.name: revoke_key,
    GET_ORG_AUDIT.name: get_org_audit,
    LIST_MEMBERS.name: list_members,
    CHANGE_MEMBER.name: change_member,
    REMOVE_MEMBER.name: remove_member,
    CREATE_INVITATION.name: create_invitation,
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
        principal = await self._platform.authenticator.authenticate(credential(scope["headers"]))
        authorize(principal, self._operation)
        call = Call(self._platform, self._operation, principal, Request(scope, receive))
        await (await self._respond(call))(scope, receive, send)


class Public:
    """An operation that asks for no credential."""

    def __init__(self, platform: Platform, operation: Operation) -> None:
        self._platform = platform
        self._operation = operation
        self._respond = PUBLIC[operation.name]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = (await self._respond(self._platform, Request(scope, receive))).model_dump_json()
        await Response(body, self._operation.status, media_type="application/json")(scope, receive, send)


def credential(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """The one bearer credential of a request; raises Unauthenticated."""
    given = [value for name, value in headers if name == b"authorization"]
    if len(given) != 1:
        raise Unauthenticated
    scheme, _, token = given[0].partition(b" ")
    token = token.strip(b" ")
    if scheme.lower() != b"bearer" or not token or len(token) > _MAX_CREDENTIAL or not token.isascii():
        raise Unauthenticated
    return token.decode()


def routes(platform: Platform) -> list[Route]:
    """A route for each operation."""
    return [_route(platform, operation) for operation in OPERATIONS]


def _route(platform: Platform, operation: Operation) -> Route:
    endpoint = Public(platform, operation) if operation.public else Guarded(platform, operation)
    # A path within a session may have slashes.
    path = operation.path.replace("{path}", "{path:path}")
    route = Route(path, endpoint, methods=[operation.method], name=operation.name)
    if operation.streams and route.methods is not None:
        # A HEAD would wait for the end of the session to say nothing.
        route.methods.discard("HEAD")
    return route
