"""What an identity service of its own answers to control planes alone, on a listener that callers do not reach."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from enclave.contracts.errors import Unauthenticated
from enclave.contracts.introspection import (
    CLIENT_HEADER,
    EVENTS,
    INTROSPECT,
    SERVICE_CHALLENGE,
    SERVICE_HEADER,
    Introspect,
    TakeEvents,
)
from enclave.contracts.operations import Operation
from enclave.contracts.wire import Wire
from enclave.identity.base import Service
from enclave.server import problems
from enclave.server.call import Platform, credential
from enclave.server.reading import Room, read_body
from enclave.server.routes import routes


def internal_routes(platform: Platform, operations: Sequence[Operation], service: Service) -> list[Route]:
    """The routes of the internal listener. Each asks for the service credential before it reads anything."""
    relayed = [
        Route(route.path, Forwarded(service, route.endpoint), methods=list(route.methods or ()), name=route.name)
        for route in routes(platform, operations)
    ]
    questions = (Question(INTROSPECT, Introspect, service.introspect), Question(EVENTS, TakeEvents, service.events))
    return [*(Route(one.path, Asking(service, one, platform.room), methods=["POST"]) for one in questions), *relayed]


@dataclass(frozen=True, slots=True)
class Question:
    """What a control plane may ask."""

    path: str
    kind: type[Wire]
    respond: Callable[[Any], Awaitable[Wire]]


class Asking:
    """A question, behind the service credential."""

    def __init__(self, service: Service, question: Question, room: Room) -> None:
        self._service = service
        self._question = question
        self._room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if not _admits(self._service, scope):
            await _refusal()(scope, receive, send)
            return
        asked = await read_body(Request(scope, receive), self._question.kind, self._room)
        body = (await self._question.respond(asked)).model_dump_json()
        await Response(body, media_type="application/json")(scope, receive, send)


class Forwarded:
    """An operation that a control plane relays: its caller's credential is where it always is, the service's beside."""

    def __init__(self, service: Service, endpoint: ASGIApp) -> None:
        self._service = service
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as if it came from where the control plane says."""
        headers = _headers(scope)
        if not self._service.admits(headers.get(SERVICE_HEADER, "")):
            await _refusal()(scope, receive, send)
            return
        scope["client"] = (headers.get(CLIENT_HEADER, ""), 0)
        await self._endpoint(scope, receive, send)


def _admits(service: Service, scope: Scope) -> bool:
    try:
        return service.admits(credential(scope["headers"]))
    except Unauthenticated:
        return False


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _refusal() -> Response:
    answer = problems.answer(Unauthenticated())
    answer.headers["www-authenticate"] = SERVICE_CHALLENGE
    return answer
