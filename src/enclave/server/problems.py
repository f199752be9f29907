"""The platform's errors as RFC 9457 problems: the one place that knows which status means what."""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from pydantic import ValidationError
from starlette.responses import Response

from enclave.contracts.errors import (
    Conflict,
    EnclaveError,
    FieldProblem,
    Forbidden,
    InternalError,
    InvalidRequest,
    KeyReused,
    NoSuchFile,
    NotFound,
    PolicyForbids,
    PolicyUnenforceable,
    Problem,
    QuotaExceeded,
    SecretUnreadable,
    StaleSession,
    Unauthenticated,
    Unavailable,
)

STATUS: Final[Mapping[str, HTTPStatus]] = {
    InvalidRequest.code: HTTPStatus.BAD_REQUEST,
    Unauthenticated.code: HTTPStatus.UNAUTHORIZED,
    Forbidden.code: HTTPStatus.FORBIDDEN,
    PolicyForbids.code: HTTPStatus.FORBIDDEN,
    NotFound.code: HTTPStatus.NOT_FOUND,
    NoSuchFile.code: HTTPStatus.NOT_FOUND,
    Conflict.code: HTTPStatus.CONFLICT,
    StaleSession.code: HTTPStatus.CONFLICT,
    KeyReused.code: HTTPStatus.CONFLICT,
    PolicyUnenforceable.code: HTTPStatus.UNPROCESSABLE_ENTITY,
    QuotaExceeded.code: HTTPStatus.TOO_MANY_REQUESTS,
    InternalError.code: HTTPStatus.INTERNAL_SERVER_ERROR,
    SecretUnreadable.code: HTTPStatus.INTERNAL_SERVER_ERROR,
    Unavailable.code: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""The status of each error code."""

MEDIA_TYPE: Final = "application/problem+json"

_RETRY: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_MOST_FIELDS: Final = 32
_MOST_CHARS: Final = 200
_MESSAGES: Final[Mapping[str, str]] = {"extra_forbidden": "is not a known field", "missing": "is required"}


def answer(error: EnclaveError) -> Response:
    """The problem that says what went wrong."""
    status = STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
    return _answer(_problem(_discreet(error), status), _headers(error, status))


def no_route() -> Response:
    """The problem for a path that is none of ours."""
    return _answer(_problem(NotFound("No such route; GET /docs lists them."), HTTPStatus.NOT_FOUND), {})


def wrong_method(allowed: str) -> Response:
    """The problem for a path that knows the method not; `allowed` are those it knows."""
    status = HTTPStatus.METHOD_NOT_ALLOWED
    return _answer(_problem(InvalidRequest(f"This path answers {allowed} only."), status), {"allow": allowed})


def refusal(error: ValidationError) -> InvalidRequest:
    """What a body that does not fit its type means, with a message for each field by its path on the wire."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if not found[0]["loc"]:
        return InvalidRequest(f"the body does not fit: {found[0]['msg']}")
    fields = tuple(
        FieldProblem(field=shortened(_path(one["loc"])), message=shortened(_MESSAGES.get(one["type"], one["msg"])))
        for one in found[:_MOST_FIELDS]
    )
    named = ", ".join(dict.fromkeys(field.field for field in fields))
    return InvalidRequest(f"the request is malformed: {named}", errors=fields)


def shortened(text: str) -> str:
    """The text, cut off where it is so long that a problem would only echo what was sent."""
    return text if len(text) <= _MOST_CHARS else f"{text[: _MOST_CHARS - 1]}…"


def _path(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc if part != "[key]")


def _discreet(error: EnclaveError) -> EnclaveError:
    # Word for word the same whatever was asked for: nothing can be learnt, and nothing is echoed.
    if isinstance(error, NotFound | Unauthenticated | InternalError):
        return type(error)()
    return error


def _problem(error: EnclaveError, status: HTTPStatus) -> Problem:
    return Problem(
        type=f"urn:enclave:problem:{error.code}",
        title=status.phrase,
        status=status,
        detail=error.detail,
        code=error.code,
        errors=error.errors,
        retry_after=error.retry_after,
        quota=error.quota if isinstance(error, QuotaExceeded) else None,
    )


def _headers(error: EnclaveError, status: HTTPStatus) -> dict[str, str]:
    if status in _RETRY:
        return {"retry-after": f"{max(1, math.ceil(error.retry_after or 1))}"}
    return {"www-authenticate": "Bearer"} if status is HTTPStatus.UNAUTHORIZED else {}


def _answer(problem: Problem, headers: dict[str, str]) -> Response:
    body = problem.model_dump_json(exclude_none=True)
    return Response(body, status_code=problem.status, headers=headers, media_type=MEDIA_TYPE)
