"""The application: routes inside, errors and headers at the edge."""

import logging
from collections.abc import Sequence
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from enclave.contracts.errors import EnclaveError, InternalError
from enclave.server import problems
from enclave.server.call import Platform
from enclave.server.docs import CONTENT_SECURITY_POLICY, page
from enclave.server.openapi import rendered
from enclave.server.routes import routes

_log = logging.getLogger(__name__)

_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
"""On every answer that does not say otherwise."""


class Application:
    """The whole of the HTTP interface."""

    def __init__(self, platform: Platform) -> None:
        self.routes: Sequence[Route] = (*routes(platform), *_description())
        self._router = Router(list(self.routes), redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever happens inside, the caller gets a problem and no more."""
        scope["app"] = self
        edge = Edge(send)
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


class Edge:
    """The way out: puts the headers on that every answer has, and knows whether an answer has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def __call__(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self.started = True
            said = {name for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *[pair for pair in _HEADERS if pair[0] not in said]]
        await self._send(message)


def _description() -> tuple[Route, ...]:
    openapi = Response(rendered(), media_type="application/json")
    docs = Response(page(), media_type="text/html", headers={"content-security-policy": CONTENT_SECURITY_POLICY})
    return (
        Route("/openapi.json", openapi, methods=["GET"], name="openapi"),
        Route("/docs", docs, methods=["GET"], name="docs"),
    )
