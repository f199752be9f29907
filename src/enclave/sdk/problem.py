"""What a server's refusal means: problem bodies, and answers that are none, become the platform's own errors."""

from typing import Final

from pydantic import ValidationError

from enclave.contracts.errors import (
    ERRORS,
    Conflict,
    ConnectionFailed,
    EnclaveError,
    Forbidden,
    InternalError,
    InvalidRequest,
    NotFound,
    Problem,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
)
from enclave.sdk.step import Answer, Lost

_BY_STATUS: Final = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: QuotaExceeded,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def error_of(answer: Answer, site: str) -> EnclaveError:
    """The error behind an answer that is not a success."""
    problem = _problem(answer.body)
    if problem is None:
        detail = f"{site} answered {answer.status} without an explanation; is it an Enclave server?"
        return _by_status(answer.status)(detail, retry_after=answer.retry_after)
    retry_after = answer.retry_after if problem.retry_after is None else problem.retry_after
    kind = _kind(problem.code, answer.status)
    if issubclass(kind, QuotaExceeded):
        return kind(problem.detail, errors=problem.errors, retry_after=retry_after, quota=problem.quota)
    return kind(problem.detail, errors=problem.errors, retry_after=retry_after)


def unreadable(site: str) -> EnclaveError:
    """The error for an answer that makes no sense."""
    return Unavailable(f"{site} answered something this client cannot read; is it an Enclave server of this version?")


def unreachable(lost: Lost, site: str) -> ConnectionFailed:
    """The error for a request that no answer came to."""
    if lost.unsent:
        return ConnectionFailed(f"no Enclave server at {site} ({lost.reason}); start one with `enclave serve`")
    return ConnectionFailed(f"the connection to {site} broke ({lost.reason})")


def _problem(body: bytes) -> Problem | None:
    try:
        return Problem.model_validate_json(body, extra="ignore")
    except ValidationError:
        return None


def _kind(code: str, status: int) -> type[EnclaveError]:
    # Only a client can know that it reached no server.
    return _by_status(status) if code == ConnectionFailed.code else ERRORS.get(code, _by_status(status))


def _by_status(status: int) -> type[EnclaveError]:
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 400 <= status < 500:
        return InvalidRequest
    return InternalError if status >= 500 else Unavailable
