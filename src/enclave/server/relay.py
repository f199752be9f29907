"""Operations of an identity authority in another process: checked here, done there."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from enclave.contracts.errors import Forbidden, NotFound
from enclave.contracts.operations import Operation
from enclave.core.access import authorize
from enclave.identity.base import Asked, Relay
from enclave.server.call import Platform, address, admit_operator, credential
from enclave.server.reading import SMALL_BYTES, read_bounded

_READING: Final = ("GET", "HEAD")
_REFUSED: Final = range(400, 500)


class Relayed:
    """An operation that is led to where the identity authority is. A caller who is refused there is refused here."""

    def __init__(self, platform: Platform, operation: Operation, relay: Relay) -> None:
        self._platform = platform
        self._operation = operation
        self._relay = relay

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises as the operation does, and Unavailable."""
        bearer = None if self._operation.public else credential(scope["headers"])
        org_id = None if bearer is None else await self._admit(bearer)
        request = Request(scope, receive)
        body = await read_bounded(request, self._platform.room, SMALL_BYTES)
        asked = Asked(scope["method"], _target(self._operation, request), body, bearer, address(request))
        status: int | None = None
        try:
            answered = await self._relay.relay(asked)
            status = answered.status
        finally:
            # One that was lost on its way may have been done.
            if bearer is not None and asked.method not in _READING and status not in _REFUSED:
                self._relay.forget(org_id)
        await Response(answered.body, answered.status, answered.headers)(scope, receive, send)

    async def _admit(self, bearer: str) -> str | None:
        """Whose org it is; the operator's is none."""
        if self._operation.operator:
            await admit_operator(self._platform, self._operation, bearer)
            return None
        principal = await self._platform.authenticator.authenticate(bearer)
        try:
            authorize(principal, self._operation)
        except Forbidden as error:
            self._platform.refusals.note(principal, self._operation, error)
            raise
        return principal.org_id


def _target(operation: Operation, request: Request) -> str:
    """Path and query. The path is made anew, so that it is the operation's whatever was written where its names are."""
    path = operation.path.format_map(_Quoted(request.path_params))
    query = request.scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


class _Quoted(dict[str, str]):
    def __init__(self, names: Mapping[str, object]) -> None:
        super().__init__({name: quote(str(value), safe="") for name, value in names.items()})
        if {".", ".."} & set(self.values()):
            # Clients and servers put such a path right, and it would be another.
            raise NotFound
