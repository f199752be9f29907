"""The application: routes inside, errors and headers at the edge."""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from secrets import token_hex
from time import monotonic
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from enclave.contracts.errors import EnclaveError, InternalError
from enclave.contracts.operations import OPERATIONS, Operation
from enclave.core.observer import Nobody, Observer
from enclave.core.trace import REQUEST_ID
from enclave.server import problems
from enclave.server.call import Platform
from enclave.server.docs import CONTENT_SECURITY_POLICY, page
from enclave.server.openapi import document, pretty
from enclave.server.routes import OPERATION, routes

_log = logging.getLogger(__name__)

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_MISTAKE: Final = 500

_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
"""On every answer that does not say otherwise."""


class Surface:
    """Some routes, and what is around each of them."""

    def __init__(self, routes: Sequence[Route], observer: Observer | None = None) -> None:
        self._observer = observer or Nobody()
        self.routes = routes
        self._router = Router(list(self.routes), redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever happens inside, the caller gets a problem and no more."""
        scope["app"] = self
        given = _request_id(scope["headers"])
        edge = Edge(
            send, given, lambda status, seconds: self._observer.answered(scope.get(OPERATION, ""), status, seconds)
        )
        REQUEST_ID.set(edge.request_id)
        try:
            await self._router(scope, receive, edge)
        except ClientDisconnect:
            _log.debug("%s %s: the client went away", scope["method"], scope["path"])
        except Exception as error:
            if edge.started:
                raise
            await self._problem(error, scope)(scope, receive, edge)

    def _problem(self, error: Exception, scope: Scope) -> Response:
        if isinstance(error, EnclaveError):
            return problems.answer(error)
        if isinstance(error, HTTPException):
            return self._unrouted(scope)
        _log.error("%s %s: %r", scope["method"], scope["path"], error, exc_info=error)
        return problems.answer(InternalError())

    def _unrouted(self, scope: Scope) -> Response:
        known = {
            method for route in self.routes if route.path_regex.match(scope["path"]) for method in route.methods or ()
        }
        return problems.wrong_method(", ".join(sorted(known))) if known else problems.no_route()


class Application(Surface):
    """The whole of the HTTP interface of a control plane; of an identity service its `operations` alone."""

    def __init__(
        self, platform: Platform, operations: Sequence[Operation] = OPERATIONS, observer: Observer | None = None
    ) -> None:
        super().__init__((*routes(platform, operations), *_description(operations)), observer)


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """What the caller names the request by, if that can be logged as it is."""
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else None


class Edge:
    """The way out: puts the headers on that every answer has, knows whether an answer has begun, and tells of it."""

    def __init__(self, send: Send, request_id: str | None, began: Callable[[int, float], None]) -> None:
        self._send = send
        self._began = began
        self._since = monotonic()
        self.started = False
        self.request_id = request_id or token_hex(8)
        self._given = request_id is not None

    async def __call__(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self.started = True
            self._began(message["status"], monotonic() - self._since)
            said = {name for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *[pair for pair in _HEADERS if pair[0] not in said]]
            # Where nothing went wrong and nobody gave one, answers to the same question are the same bytes.
            if self._given or message["status"] >= _MISTAKE:
                message["headers"].append((b"x-request-id", self.request_id.encode()))
        await self._send(message)


def _description(operations: Sequence[Operation]) -> tuple[Route, ...]:
    api = document(operations)
    openapi = Response(pretty(api), media_type="application/json")
    docs = Response(page(api), media_type="text/html", headers={"content-security-policy": CONTENT_SECURITY_POLICY})
    return (
        Route("/openapi.json", openapi, methods=["GET"], name="openapi"),
        Route("/docs", docs, methods=["GET"], name="docs"),
    )
