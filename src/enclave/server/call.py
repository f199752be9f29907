"""What an operation is answered with: the platform, and a request whose caller is known."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from enclave.contracts.errors import Forbidden, Unauthenticated
from enclave.contracts.identity import Principal
from enclave.contracts.operations import Operation
from enclave.contracts.wire import Wire
from enclave.identity.base import Accounts, Authenticator, Relay
from enclave.orchestrator.orchestrator import Orchestrator
from enclave.server.reading import Query, Room
from enclave.server.refusals import Refusals

_MAX_CREDENTIAL: Final = 8192


ELSEWHERE: Final[Any] = object()
"""Stands for a part of the platform that is in another process: no route of this one leads to it."""


@dataclass(frozen=True, slots=True)
class Platform:
    """What the routes lead to; with a `relay` those of the identity authority lead through it, not to `accounts`."""

    orchestrator: Orchestrator
    authenticator: Authenticator
    accounts: Accounts
    health: Callable[[], Wire]
    ready: Callable[[], Awaitable[None]] = ELSEWHERE
    metrics: Callable[[], bytes] = ELSEWHERE
    room: Room = field(default_factory=Room)
    refusals: Refusals = field(default_factory=Refusals)
    relay: Relay | None = None


@dataclass(frozen=True, slots=True)
class OperatorCall:
    """A request of the operator's, who acts in no org."""

    platform: Platform
    operation: Operation
    request: Request

    @property
    def id(self) -> str:
        """The id in the path."""
        return str(self.request.path_params["id"])

    def query(self) -> Query:
        """The query, checked against the operation."""
        return Query(self.request, self.operation.query)

    def answer(self, value: Wire, headers: Mapping[str, str] | None = None, status: int | None = None) -> Response:
        """The value as JSON, with the operation's status if it says no other."""
        body = value.__pydantic_serializer__.to_json(value)
        return Response(body, status or self.operation.status, headers, "application/json")


@dataclass(frozen=True, slots=True)
class Call(OperatorCall):
    """A request whose caller is known and allowed."""

    principal: Principal

    @property
    def binding_name(self) -> str:
        """The name in the path."""
        return str(self.request.path_params["name"])


Respond = Callable[[Call], Awaitable[ASGIApp]]
"""Answers a caller of an org's."""
RespondToOperator = Callable[[OperatorCall], Awaitable[ASGIApp]]
RespondToAnyone = Callable[[Platform, Request], Awaitable[Wire]]


def address(request: Request) -> str:
    """Where a request comes from, as the socket tells: a header could say anything."""
    return request.client.host if request.client else ""


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


async def admit_operator(platform: Platform, operation: Operation, given: str) -> None:
    """Pass the operator's credential. Raises Unauthenticated, and Forbidden to an org's caller, of whom it is noted."""
    try:
        await platform.authenticator.authenticate_operator(given)
    except Forbidden as error:
        platform.refusals.note(await platform.authenticator.authenticate(given), operation, error)
        raise
